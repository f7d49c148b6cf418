"""The Solve panel: ask a problem, watch the attempts vote, read the receipt, and ask what the
answer would have been with another memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import gradio as gr

from ...method.voting import gate
from ...records import Problem, Receipt, Vote
from ...settings import Settings
from .. import components
from ..components import EARLY, QUIET, SAMPLING, other_memories
from ..hosting import limits
from ..runs import Run, follow
from ..session import (
    AppSession,
    QueryPoint,
    Visit,
    another,
    attempt,
    exclusively,
    family,
    last_receipt,
    model_records,
    star_of,
    tried,
)
from ..views.about import first_visit, tiles
from ..views.html import Fragment, doing, fragments, notice, progress, scene_cards, scene_votes
from ..views.receipt import compare_columns, hits_list, receipt_card, unfit
from .panel import SKIP, Comparison, Panel, after_stop, problem, told

MODES = (("Automatic", "auto"), ("Off", "off"), ("This one", "chosen"))
FIRST = "Solve a problem first."

# ---------- After an answer: the answer with another memory, and the same question again.


class Compare(Comparison):
    """The same problem and seed with another memory, beside the answer. It leaves no event."""

    name = "compare"

    def press(self, other: str | None, request: gr.Request) -> Any:
        """Before the queue: the comparison waits for its turn."""
        return self.wait(request, other or "")

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
        other, first, base = run.asked, last_receipt(visit), visit.runs.get("solve")
        if first is None or base is None:
            yield problem(FIRST)
            return
        if not other:
            yield problem("Choose a memory first.")
            return
        known, asked = visit.columns or first_columns(first), base.asked
        thinking = model_records(
            session, asked.problem, asked.settings, lambda e, p: e.think(p, memory_id=other)
        )
        for _ in follow(thinking, run):
            yield _comparing(run, known)
        if visit.runs.get("solve") is not base:  # another problem is asked
            return
        vote = run.scene.votes.get("memory")
        info, error = attempt(lambda: session.engine.bank.info(other))
        if run.scene.stopped or vote is None or info is None:
            yield after_stop(run.error or error) + compare_columns(known)
            return
        title = with_memory(info.name, info.id)
        visit.columns = [c for c in known if c[0] != title] + [(title, vote)]
        yield compare_columns(visit.columns)


def _comparing(run: Run, known: list[tuple[str, Vote]]) -> list[Fragment]:
    with run.lock:
        status = fragments(("status", progress(doing(run.scene))))
        return status + compare_columns(known) + scene_votes(run.scene, True)


def first_columns(r: Receipt) -> list[tuple[str, Vote]]:
    """The two sides of a receipt, or one where no memory was tried. A side whose sampling was
    stopped says so, since the others are sampled in whole."""
    alone = (f"Without memory{_ended(r, r.zero_shot)}", r.zero_shot)
    if r.used is None or r.memory is None:
        return [alone]
    title = with_memory(r.used.name, r.used.memory_id)
    return [alone, (f"{title}{_ended(r, r.memory)}", r.memory)]


def _ended(r: Receipt, vote: Vote) -> str:
    n = r.sampled(vote.side)
    return f", decided after {n} of {vote.total}" if n < vote.total else ""


def with_memory(name: str, memory_id: str) -> str:
    """The title of a column."""
    return f"With “{name}” ({memory_id[:7]})"


class Replay(Comparison):
    """Samples everything again and says whether the tokens are the same."""

    name = "replay"

    def press(self, request: gr.Request) -> Any:
        """Before the queue: the same question waits for its turn."""
        return self.wait(request, last_receipt(self.of(request)[1]) or "")

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
        receipt = run.asked
        if not receipt:
            yield problem(FIRST)
            return
        for _ in follow(exclusively(session, session.engine.replay(receipt)), run):
            with run.lock:
                done = sum(row.trace is not None for row in run.scene.rows.values())
            words = f"Asking again: {done} of {len(receipt.traces)} attempts are complete."
            yield fragments(("status", notice(words)))
        if run.error or run.scene.receipt is None:
            yield after_stop(run.error)
        else:
            same = "The same seed gave the same tokens, so the receipt holds."
            yield fragments(("same", notice(same, "good")))


# ---------- The panel.


@dataclass(frozen=True)
class Question:
    """What a press of Solve asks."""

    problem: str = ""  # as typed
    mode: str = "auto"  # auto, off or chosen
    memory: str = ""  # which one was chosen
    settings: Mapping[str, Any] = field(default_factory=dict)


class SolveView(NamedTuple):
    """What the page shows of an answer: one update for each component of that name."""

    status: Any = SKIP
    votes: Any = SKIP
    receipt: Any = SKIP
    cards: Any = SKIP
    press_button: Any = SKIP
    stop_button: Any = SKIP
    after: Any = SKIP  # the actions that need a receipt
    offer: Any = SKIP  # Distil, where the vote can be learnt from
    help: Any = SKIP  # ... and where it cannot, why, and what helps
    feedback: Any = SKIP  # ... those that need a memory to have been tried
    what_if: Any = SKIP  # ... and those that need another memory
    other: Any = SKIP  # which one: the nearest first
    columns: Any = SKIP  # the comparisons
    noted: Any = SKIP  # what was said about the answer


class Solve(Panel):
    """Solve, stop, comparisons, feedback."""

    name = "solve"
    View, Asked = SolveView, Question
    aside = ("compare", "replay")
    cleared = MappingProxyType({"columns": [], "noted": []})

    def __init__(self, session: AppSession) -> None:
        super().__init__(session)
        self.compare, self.replay = Compare(self), Replay(self)

    # ---------- the layout

    def create(
        self,
        settings: Settings,
        families: Mapping[str, list[str]],
        first: Problem,
        examples: Iterable[Problem],
    ) -> None:
        """The panel, inside the Blocks and the Tab of the caller. `first` stands in the box."""
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
                self._question(settings, families, first)
            with gr.Column(scale=8, min_width=320, elem_classes="result"):
                begin = fragments(("first", first_visit()), ("tiles", tiles(examples)))
                self.status = components.live("lm-status", begin)
                self.receipt = components.live("lm-receipt")
                self.votes = components.live("lm-votes")
                with gr.Column(visible=False, elem_classes="after") as self.after:
                    self._afterwards()
                self.cards = components.live("lm-cards", classes="cards")

    def _question(
        self, settings: Settings, families: Mapping[str, list[str]], first: Problem
    ) -> None:
        kin = family(first)
        box = gr.Textbox(
            label="Problem",
            lines=4,
            max_lines=12,
            value=first.text,
            elem_id="lm-problem",
            placeholder="Type a problem with one answer…",
        )
        self.buttons("Solve", "lm-solve", "lm-stop")
        with gr.Row(elem_classes="tight"):
            self.topic = gr.Dropdown(
                list(families), value=kin, label="Topic", scale=2, min_width=120
            )
            self.example = gr.Dropdown(
                families[kin],
                value=first.text,
                label="Example",
                scale=5,
                min_width=180,
                elem_id="lm-example",
            )
        mode = gr.Radio(
            list(MODES),
            value="auto",
            label="Memory",
            elem_id="lm-mode",
            info="Automatic: the most similar memory is tried if it is similar enough.",
        )
        memory = gr.Dropdown(
            [],
            label="Which memory",
            visible=False,
            filterable=True,
            elem_id="lm-which",
            allow_custom_value=True,  # a deleted memory gets a sentence of ours
        )
        sampling = components.sampling_settings(settings, limits(settings))
        self.controls = {"problem": box, "mode": mode, "memory": memory, **sampling}

    def _afterwards(self) -> None:
        self.help = components.live("lm-help")
        with gr.Row(elem_classes="tight") as self.offer:
            self.distil_button = gr.Button(
                "Distil a memory from this problem",
                variant="primary",
                elem_id="lm-distil-this",
                min_width=240,
            )
            self.distil_time = components.live("lm-after-time")
        self.replay_button = gr.Button(
            "Ask again with the same seed", elem_id="lm-replay", size="sm"
        )
        with gr.Row(elem_classes="tight", visible=False) as self.feedback:
            self.right = gr.Button("The answer is right", size="sm", elem_id="lm-right")
            self.wrong = gr.Button("The answer is wrong", size="sm", elem_id="lm-wrong")
        self.noted = components.live("lm-said")
        with gr.Row(elem_classes="tight end what-if", visible=False) as self.what_if:
            self.other = gr.Dropdown(
                [],
                label="Compare with another memory",
                scale=5,
                filterable=True,
                allow_custom_value=True,
                elem_id="lm-other",
                info="The same problem and seed. The nearest memories come first.",
            )
            self.compare_button = gr.Button("Compare", scale=1, min_width=110, elem_id="lm-compare")
        self.columns = components.live("lm-columns")

    # ---------- what is asked

    def asked(self, *given: Any) -> Question:
        text, mode, memory, *settings = given
        return Question(text, mode, memory or "", components.overrides(SAMPLING, settings))

    def validate(self, session: AppSession, asked: Question) -> str:
        if asked.mode == "chosen" and not asked.memory:
            return (
                "Choose a memory first, in the list under “This one”, or set Memory to Automatic."
            )

        def look() -> None:
            session.problem(asked.problem)
            session.tuned(asked.settings)
            if asked.mode == "chosen":
                session.engine.bank.info(asked.memory)

        return attempt(look)[1]

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[SolveView]:
        visit.columns = []
        asked = run.asked
        memory = asked.memory if asked.mode == "chosen" else asked.mode

        def finish() -> None:
            visit.star = _place(session, run)  # none rather than the problem before
            run.near = visit.star.hits if visit.star is not None else ()

        records = model_records(
            session,
            asked.problem,
            {**asked.settings, **EARLY},
            lambda e, p: e.answer(p, memory=memory),
        )
        return self.pictures(session, visit, run, records, finish)

    # ---------- what is shown

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> SolveView:
        with run.lock:
            scene, r, asked = run.scene, run.scene.receipt, run.asked or Question()
            stopped = "Stopped. Nothing was stored." if scene.stopped and r is None else ""
            now = progress(doing(scene)) if running else None
            status = told(run, now, notice(message or stopped))
            least = float(asked.settings.get("min_similarity", -1))
            found = hits_list(scene.retrieval, least, asked.mode)
            if found and running:
                status += fragments(("hits", found))
            ended = r is not None and not running
            others = other_memories(session, r, run.near) if ended and r is not None else []
            s = session.engine.settings
            why = gate(r.zero_shot, s.gate_votes, s.gate_lead) if r is not None else None
            return SolveView(
                status=status,
                votes=scene_votes(scene, running),
                receipt=receipt(session, r, asked.mode == "chosen") if r is not None else [],
                cards=scene_cards(scene, running),
                press_button=gr.update(interactive=not running),
                stop_button=gr.update(interactive=running),
                after=gr.update(visible=ended),
                offer=gr.update(visible=not why),
                help=fragments(("help", unfit(why))) if why else [],
                feedback=gr.update(visible=ended and r is not None and r.used is not None),
                what_if=gr.update(visible=bool(others)),
                other=gr.update(choices=others, value=others[0][1]) if others else SKIP,
            )

    def stays(self, shown: SolveView) -> SolveView:
        return shown._replace(other=SKIP)

    def form(self, asked: Question) -> dict[str, Any]:
        memory = gr.update(value=asked.memory or None, visible=asked.mode == "chosen")
        return {"problem": asked.problem, "mode": asked.mode, "memory": memory, **asked.settings}

    def beside(self, visit: Visit) -> dict[str, Any]:
        return {"columns": compare_columns(visit.columns)}

    def linked(self, visit: Visit, text: str) -> None:
        """A page was opened whose address names this problem, or none: the answer to another one,
        which has no place on it, ends."""
        run = visit.runs.get(self.name)
        if run is not None and _another(text, run):
            visit.end(self.name, *self.aside)
        run = self.standing(visit)
        if run is not None:
            run.away = _another(text, run)

    # ---------- small handlers

    def said_right(self, request: gr.Request) -> list[Fragment]:
        """Feedback: the answer is right."""
        return self._feedback(request, True)

    def said_wrong(self, request: gr.Request) -> list[Fragment]:
        """Feedback: the answer is wrong."""
        return self._feedback(request, False)

    def _feedback(self, request: Any, correct: bool) -> list[Fragment]:
        session, visit = self.of(request)
        receipt = last_receipt(visit)
        if receipt is None:
            return problem(FIRST)
        _, error = attempt(lambda: session.engine.feedback(receipt, correct))
        thanks = notice("Noted with the memory that was tried.", "good")
        return fragments(("said", notice(error, "warn") or thanks))

    def examples_of(self, topic: str | None) -> tuple[Any, Any]:
        """The examples of a topic, and the first of them for the box."""
        texts = self._texts(topic)
        first = texts[0] if texts else None
        return gr.update(choices=texts, value=first), first or SKIP

    def take(self, event: gr.EventData) -> tuple[Any, Any, Any]:
        """A tile of the first page was pressed: topic, example and box. The id comes from the
        browser, so it is checked."""
        given = event._data.get("value", "") if isinstance(event._data, dict) else ""
        texts = [text for text, one in self.session.examples.items() if one.id == given]
        return self._chosen(texts[0]) if texts else (SKIP, SKIP, SKIP)

    def _chosen(self, text: str) -> tuple[Any, Any, Any]:
        """Topic, example and box for an example."""
        kin = family(self.session.examples[text])
        return kin, gr.update(choices=self._texts(kin), value=text), text

    def _texts(self, topic: str | None) -> list[str]:
        return [t for t, p in self.session.examples.items() if family(p) == topic]

    def retry(self, event: gr.EventData, request: gr.Request, seed: Any) -> tuple[Any, ...]:
        """What helps where a vote cannot be learnt from was pressed: topic, example, box, seed."""
        r = last_receipt(self.of(request)[1])
        asked = r.problem.text if r is not None else ""
        text, seed = another(self.session, event, asked, seed)
        if text in self.session.examples:
            return *self._chosen(text), seed
        return SKIP, SKIP, text or SKIP, seed

    # ---------- the wiring

    def wire(self) -> list[Any]:
        """Listens to everything on the panel that leads nowhere else; the works of a press."""
        # Chained, not side by side: with two listeners of one click gradio shows the first one's
        # values again at the end.
        box = self.controls["problem"]
        controls = list(self.controls.values())
        asks = "(...asked) => { window.latentmem.asks(asked[0]); return asked; }"
        buttons = [self.press_button.click, box.submit]
        pressed = gr.on(buttons, self.press, controls, self.outputs, js=asks, **QUIET)
        picker = [self.topic, self.example, box]
        seed = self.controls["seed"]
        retried = self.help.act(self.retry, seed, [*picker, seed], **QUIET)
        again = retried.then(self.press, controls, self.outputs, js=asks, **QUIET)
        asked = "(shown) => { window.latentmem.asked(shown); }"
        seen = "() => { window.latentmem.look('lm-receipt'); }"  # on a phone: the answer
        runs = []
        for press in (pressed, again):
            press.then(None, self.status, js=asked, **QUIET)
            runs.append(self.follow_press(press))
            runs[-1].then(None, js=seen, **QUIET)
        compare = self.compare.wire(
            self.compare_button, self.compare.press, self.other, self.columns
        )
        replay = self.replay.wire(self.replay_button, self.replay.press, None, self.noted)
        ends = [*runs, compare, replay]
        self.stop_button.click(self.stop, None, self.outputs, cancels=ends, **QUIET)
        self.right.click(self.said_right, None, self.noted, **QUIET)
        self.wrong.click(self.said_wrong, None, self.noted, **QUIET)
        mode, memory = self.controls["mode"], self.controls["memory"]
        mode.change(lambda m: gr.update(visible=m == "chosen"), mode, memory, **QUIET)
        self.topic.input(self.examples_of, self.topic, picker[1:], **QUIET)
        self.status.act(self.take, None, picker, **QUIET)
        self.example.input(lambda text: text or SKIP, self.example, box, **QUIET)
        # A problem that was typed is no example; the browser alone sees to it, since every letter
        # is a change.
        typed = "(problem, example) => example === problem ? example : null"
        box.change(None, [box, self.example], self.example, js=typed, **QUIET)
        return runs


def receipt(session: AppSession, r: Receipt, chosen: bool) -> list[Fragment]:
    """The receipt as a card. `chosen`: the memory was, by the visitor."""
    info, used = tried(session, r), r.used
    learnt = attempt(lambda: session.engine.bank.get(used.memory_id).vote)[0] if info else None
    return fragments(("receipt", receipt_card(r, info, chosen, learnt)))


def _another(text: str, run: Run) -> bool:
    """Whether the address names a problem, and not the one that this run was asked."""
    asked = run.asked.problem if run.asked is not None else ""
    return bool(text.strip()) and text.strip() != asked.strip()


def _place(session: AppSession, run: Run) -> QueryPoint | None:
    """The answered problem on the map. A failure here must not spoil the answer."""
    r = run.scene.receipt
    if r is None:
        return None
    return attempt(lambda: star_of(session.engine.changed(key=r.key_kind), r.problem))[0]
