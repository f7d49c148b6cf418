"""The Distil panel: the learning curve live, then keep or discard, and the same problems before and
after."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from ...bank import Overlay
from ...records import Memory, Problem, Status
from ...settings import Settings
from .. import components
from ..components import EARLY, QUIET, SAMPLING, TRAINING
from ..hosting import limits
from ..runs import Run, follow
from ..session import (
    AppSession,
    Visit,
    another,
    attempt,
    distil_records,
    last_receipt,
    model_records,
    nearest_examples,
)
from ..views.distillation import (
    curve_figure,
    distil_status,
    distil_words,
    outcome,
    round_titles,
    steps_table,
)
from ..views.html import (
    Fragment,
    doing,
    fragments,
    notice,
    progress,
    scene_cards,
    scene_vote,
    scene_votes,
)
from ..views.receipt import compare_table
from .panel import HIDDEN, SKIP, Comparison, Panel, after_stop, problem, told

if TYPE_CHECKING:
    from ...engine import Engine

# ---------- After a distillation: the same problems without the memory and with it, side by side.

ALL, SAME = "The problem and its two nearest examples", "The problem itself"


class BeforeAfter(Comparison):
    """The same problems and seed without the memory and with it; nothing is stored."""

    name = "before_after"

    def press(self, on: str, request: gr.Request) -> Any:
        """Before the queue: the comparison waits for its turn. `on`: ALL, SAME, or a problem."""
        return self.wait(request, on)

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
        """One problem after the other; what stops the press stops the one at work."""
        base = visit.runs.get("distil")
        done = base.scene.distilled if base is not None else None
        if base is None or done is None or done.memory is None:
            yield problem("Distil a memory first.")
            return
        learnt = base.asked.problem
        texts = {ALL: [learnt, *visit.near[:2]], SAME: [learnt]}.get(run.asked, [run.asked])
        rows = visit.trials = []
        run.begun = True
        try:
            for text in texts:
                one = Run(stop=run.stop, lock=run.lock)
                for _ in follow(_trial(session, text, done.memory, base.asked.settings), one):
                    yield compare_table(rows) + _now(one, len(rows), len(texts))
                r = one.scene.receipt
                if r is None or r.memory is None:
                    yield compare_table(rows) + after_stop(one.error)
                    return
                rows.append((text, r.zero_shot, r.memory))
            caveat = "A few problems prove little, least of all the one it was trained on."
            yield compare_table(rows) + fragments(("caveat", notice(caveat)))
        finally:
            run.done = True


def _now(run: Run, before: int, of: int) -> list[Fragment]:
    """The problem at work, after `before` others."""
    with run.lock:
        which = f"{before + 1} of {of}: " if of > 1 else ""
        now = doing(run.scene)
        return fragments(
            ("status", progress(Status(which + now.text, now.done, now.total))),
            ("before", scene_vote(run.scene, "zero_shot", "Before", True)),
            ("after", scene_vote(run.scene, "memory", "After", True)),
        )


def _trial(
    session: AppSession, text: str, memory: Memory, settings: Mapping[str, Any]
) -> Iterator[Any]:
    """An answer with a memory that may not be kept yet, on a bank that is thrown away."""

    def work(engine: Engine, asked: Problem) -> Iterator[Any]:
        bank = Overlay(session.engine.bank, most=1, most_bytes=sys.maxsize)  # for a moment
        bank.put(memory)
        return engine.changed(on_bank=bank).answer(asked, memory=memory.id)

    return model_records(session, text, settings, work)


# ---------- The panel.

NEAREST = 5  # examples offered first
INTRODUCTION = (
    "The model solves the problem several times. The majority's answer becomes the label, and a "
    "short soft prompt is trained to make the model agree with its own majority."
)
WHY = (
    "No correct answer is ever used, and the model's own weights never change. If all attempts "
    "agree, or too few do, there is nothing to learn, and the app says so."
)


@dataclass(frozen=True)
class Lesson:
    """What a press of Distil asks."""

    problem: str = ""  # as typed
    settings: Mapping[str, Any] = field(default_factory=dict)
    # set when the visitor wants the best prompt so far, and no more steps
    enough: threading.Event = field(default_factory=threading.Event)


class DistilView(NamedTuple):
    """What the page shows of a distillation: one update for each component of that name."""

    status: Any = SKIP
    curve: Any = SKIP
    words: Any = SKIP
    outcome: Any = SKIP
    votes: Any = SKIP
    cards: Any = SKIP
    press_button: Any = SKIP
    stop_button: Any = SKIP
    best_button: Any = SKIP  # ends with the best prompt so far
    choice: Any = SKIP  # keep or discard
    after: Any = SKIP  # before and after
    on: Any = SKIP  # on which problems: the nearest first
    columns: Any = SKIP  # the comparison


class Distil(Panel):
    """Distil, stop, keep or discard, before and after."""

    name = "distil"
    View, Asked = DistilView, Lesson
    aside = ("before_after",)
    cleared = MappingProxyType({"on": gr.update(value=ALL), "columns": []})

    def __init__(self, session: AppSession) -> None:
        super().__init__(session)
        self.compare = BeforeAfter(self)

    # ---------- the layout

    def create(self, settings: Settings, examples: list[str]) -> None:
        """The panel, inside the Blocks and the Tab of the caller."""
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
                self._question(settings)
            with gr.Column(scale=8, min_width=320, elem_classes="result"):
                self._result(examples)

    def _question(self, settings: Settings) -> None:
        box = gr.Textbox(
            label="Problem to learn from",
            lines=4,
            max_lines=12,
            elem_id="lm-distil-problem",
            placeholder="Solve a problem first, or type one here…",
        )
        self.buttons("Distil", "lm-distil", "lm-distil-stop")
        self.best_button = gr.Button(
            "Stop and keep the best so far", visible=False, elem_id="lm-distil-best", size="sm"
        )
        training = components.distil_settings(settings, limits(settings))
        components.live("lm-distil-why", fragments(("why", notice(WHY))))
        self.controls = {"problem": box, **training}

    def _result(self, examples: list[str]) -> None:
        self.status = components.live(
            "lm-distil-status", fragments(("first", notice(INTRODUCTION)))
        )
        self.outcome = components.live("lm-outcome")
        with gr.Row(visible=False, elem_classes="tight") as self.choice:
            self.keep_button = gr.Button("Keep it", variant="primary", elem_id="lm-keep")
            self.discard_button = gr.Button("Discard it", elem_id="lm-discard")
        with gr.Column(visible=False, elem_classes="after") as self.after:
            with gr.Row(elem_classes="tight end"):
                self.on = gr.Dropdown(
                    [ALL, SAME, *examples],
                    value=ALL,
                    label="Compare before and after on",
                    scale=5,
                    filterable=True,
                    elem_id="lm-on",
                    info="The same seed, without the memory and with it. Nothing is stored.",
                )
                self.compare_button = gr.Button(
                    "Compare", scale=1, min_width=110, elem_id="lm-before-after"
                )
            self.columns = components.live("lm-before-after-columns")
        self.curve = components.figure(
            "lm-curve", "Curve of agreement, loss and gradient norm by step"
        )
        self.words = components.live("lm-distil-words")
        self.votes = components.live("lm-distil-votes")
        self.cards = components.live("lm-distil-cards", classes="cards")

    # ---------- what is asked

    def asked(self, *given: Any) -> Lesson:
        text, *settings = given
        return Lesson(text, components.overrides((*SAMPLING, *TRAINING), settings))

    def validate(self, session: AppSession, asked: Lesson) -> str:
        def look() -> None:
            session.problem(asked.problem)
            session.tuned(asked.settings)
            session.engine.bank.check_room()

        return attempt(look)[1]

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[DistilView]:
        """The memory waits on the server, for this visitor only, to be kept or discarded."""
        # Only now, since a press may never have its turn.
        visit.pending, visit.near, visit.trials = None, [], []

        def finish() -> None:
            done = run.scene.distilled
            if done is not None and done.memory is not None:
                visit.pending, learnt = done, done.memory.problem
                visit.near = attempt(lambda: nearest_examples(session, learnt, NEAREST))[0] or []

        asked = run.asked
        settings = {**asked.settings, **EARLY}
        records = distil_records(session, asked.problem, settings, enough=asked.enough.is_set)
        return self.pictures(session, visit, run, records, finish)

    # ---------- what is shown

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> DistilView:
        with run.lock:
            scene, done, asked = run.scene, run.scene.distilled, run.asked or Lesson()
            steps = int(asked.settings.get("steps", session.engine.settings.steps))
            stopped = "Stopped. The bank is as it was." if scene.stopped and not done else ""
            now = distil_status(scene, steps) if running else None
            memory = done.memory if done is not None else None
            learnt = memory is not None and not running
            waits = learnt and visit.pending is not None
            best = memory.best_step if memory is not None else None
            titles = round_titles(scene)
            near = visit.near if learnt else []
            offered = [ALL, SAME, *near, *(t for t in session.examples if t not in near)]
            return DistilView(
                status=told(run, now, notice(message or stopped)),
                curve=curve_figure(scene.steps, best) if scene.steps else components.NO_FIGURE,
                words=fragments(("words", distil_words(scene))) + steps_table(scene.steps),
                outcome=fragments(("outcome", outcome(done))) if done is not None else [],
                votes=scene_votes(scene, running, titles),
                cards=scene_cards(scene, running, titles),
                press_button=gr.update(interactive=not running),
                stop_button=gr.update(interactive=running),
                best_button=gr.update(
                    # a changed prompt has been judged once the second step has ended
                    visible=running and len(scene.steps) > 1 and not asked.enough.is_set()
                ),
                choice=gr.update(visible=waits),
                after=gr.update(visible=learnt and (waits or (done is not None and done.kept))),
                on=gr.update(choices=offered) if learnt else SKIP,
            )

    def form(self, asked: Lesson) -> dict[str, Any]:
        own = {name: asked.settings[name] for name in TRAINING if name in asked.settings}
        return {"problem": asked.problem, **own}

    def beside(self, visit: Visit) -> dict[str, Any]:
        return {"columns": compare_table(visit.trials)}

    # ---------- keep, discard, and the way from Solve

    def keep(self, request: gr.Request) -> DistilView:
        """Stores the memory that waits."""
        session, visit = self.of(request)
        run, done, message = self.finished(visit), visit.pending, ""
        run.refusal = ""
        if done is None:
            run.error = "There is no memory to keep: distil one first."
        else:
            _, run.error = attempt(lambda: session.engine.keep(done))
        if done is not None and not run.error:  # after an error the memory still waits
            visit.pending = None
            run.scene.distilled = replace(done, kept=True)
            message = "Kept. It is on the map now, and will be tried on similar problems."
            if session.hosted:
                message += (
                    " It is yours alone and is deleted half an hour after you close this tab: "
                    "export it to keep it."
                )
        shown = self.draw(session, visit, run, False, message)
        return shown._replace(stop_button=self.still_going(request))

    def enough(self, request: gr.Request) -> Any:
        """Ends the training with the best prompt so far, which then waits to be kept."""
        run = self.of(request)[1].runs.get(self.name)
        if run is not None and run.asked is not None:
            run.asked.enough.set()
        return HIDDEN

    def discard(self, request: gr.Request) -> DistilView:
        """Forgets the memory that waits, and ends its comparison."""
        session, visit = self.of(request)
        visit.end(*self.aside)
        visit.trials, run = [], self.finished(visit)
        visit.pending, run.scene.distilled, run.error, run.refusal = None, None, "", ""
        return self.draw(session, visit, run, False, "Discarded. Nothing was stored.")

    def retry(self, event: gr.EventData, text: str, theirs: Any, mine: Any) -> tuple[str, Any]:
        """What helps where nothing was learnt was pressed: the box and the seed of this panel,
        whose empty one means Solve's."""
        return another(self.session, event, text, theirs if mine is None else mine)

    def take_over(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """From the Solve panel: shows this one, with the solved problem in its box, and presses its
        button. The box of Solve may hold another problem by now."""
        r = last_receipt(self.of(request)[1])
        text = given[0] if r is None else r.problem.text
        return gr.update(selected="distil"), text, *self.press(request, text, *given[1:])

    # ---------- the wiring

    def wire(self, sampling: list[Any], solve_button: gr.Button, solved: Any, tabs: gr.Tabs) -> Any:
        """Listens to everything on the panel that leads nowhere else. `sampling`: the controls of
        Solve that hold here, too; `solved`: its box. Returns the event of a kept memory."""
        box, *training = self.controls.values()
        settings = [*sampling, *training]
        pressed = self.press_button.click(self.press, [box, *settings], self.outputs, **QUIET)
        moved = solve_button.click(
            self.take_over, [solved, *settings], [tabs, box, *self.outputs], **QUIET
        )
        moved.then(**components.focus("#lm-distil-stop", "#lm-distil"))
        seeds = [sampling[SAMPLING.index("seed")], self.controls["seed"]]
        retried = self.outcome.act(self.retry, [box, *seeds], [box, seeds[1]], **QUIET)
        again = retried.then(self.press, [box, *settings], self.outputs, **QUIET)
        ends = [self.follow_press(press) for press in (pressed, moved, again)]
        ends.append(
            self.compare.wire(self.compare_button, self.compare.press, self.on, self.columns)
        )
        self.stop_button.click(self.stop, None, self.outputs, cancels=ends, **QUIET)
        self.best_button.click(self.enough, None, self.best_button, **QUIET)
        discarded = self.discard_button.click(self.discard, None, self.outputs, **QUIET)
        discarded.then(**components.focus("#lm-distil"))
        kept = self.keep_button.click(self.keep, None, self.outputs, **QUIET)
        return kept.then(**components.focus("#lm-outcome a", "#lm-distil"))
