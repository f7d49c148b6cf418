"""The Solve panel: pose a problem, watch the traces vote, read the receipt, ask what would have been without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from ..records import Receipt, Status
from ..settings import Settings
from . import parts
from .session import Desk, Run, Star, Visit, answer_records, attempt, family, follow, star_of
from .views import Fragment, doing, fragments, notice, progress, scene_cards, scene_votes
from .views_about import first_visit
from .views_receipt import compare_columns, hits_list, receipt_card

MODES = (("Automatic", "auto"), ("Off", "off"), ("This one", "chosen"))


@dataclass(frozen=True)
class Solve:
    """The panel's components that other panels or the wiring need."""

    problem: gr.Textbox
    families: gr.Dropdown
    example: gr.Dropdown
    mode: gr.Radio
    memory: gr.Dropdown
    settings: list[gr.components.Component]
    press: gr.Button
    stop: gr.Button
    outputs: list[gr.components.Component]
    compare: gr.Button
    other: gr.Dropdown
    columns: gr.HTML
    right: gr.Button
    wrong: gr.Button
    said: gr.HTML
    replay: gr.Button
    distil: gr.Button


class Picture(NamedTuple):
    """What a handler sends to the page; the order is that of `Solve.outputs`."""

    status: list[Fragment]
    votes: list[Fragment]
    receipt: list[Fragment]
    cards: list[Fragment]
    press: Any
    stop: Any
    after: Any  # the row of actions that need a receipt
    feedback: Any  # ... and of those that need a memory to have been tried


def create_solve(settings: Settings, families: list[str], examples: list[str]) -> Solve:
    """The panel, inside the Blocks and the Tab of the caller."""
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
            problem = gr.Textbox(label="Problem", lines=4, max_lines=12, value=examples[0],
                                 placeholder="Type a problem with one answer…", elem_id="lm-problem")
            with gr.Row(elem_classes="tight"):
                choice = gr.Dropdown(families, value=families[0], label="Examples of", scale=2, min_width=120)
                example = gr.Dropdown(examples, value=None, label="Example", scale=5, min_width=180)
            mode = gr.Radio(list(MODES), value="auto", label="Memory",
                            info="Automatic: the most similar memory is tried if it is similar enough.")
            memory = gr.Dropdown([], label="Which memory", visible=False, filterable=True)
            with gr.Row(elem_classes="tight"):
                press = gr.Button("Solve", variant="primary", elem_id="lm-solve", min_width=110)
                stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="lm-stop", min_width=110)
            given = parts.sampling_settings(settings)
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = parts.live("lm-status", FIRST)
            votes = parts.live("lm-votes")
            receipt = parts.live("lm-receipt")
            with gr.Group(visible=False, elem_classes="after") as after:
                with gr.Row(elem_classes="tight"):
                    distil = gr.Button("Distil a memory from this problem", variant="primary", elem_id="lm-distil-this")
                    replay = gr.Button("Replay this receipt", elem_id="lm-replay")
                with gr.Row(elem_classes="tight", visible=False) as asked:
                    right = gr.Button("The answer is right")
                    wrong = gr.Button("The answer is wrong")
                said = parts.live("lm-said")
                with gr.Accordion("What would another memory have said?", open=False):
                    with gr.Row(elem_classes="tight end"):
                        other = gr.Dropdown([], label="Another memory", scale=4, filterable=True)
                        compare = gr.Button("Answer again with it, same seed", scale=2)
                    columns = parts.live("lm-columns")
            cards = parts.live("lm-cards", classes="cards")
    return Solve(problem, choice, example, mode, memory, given, press, stop,
                 [status, votes, receipt, cards, press, stop, after, asked], compare, other, columns, right, wrong, said,
                 replay, distil)


FIRST = fragments(("first", first_visit()))


def picture(run: Run, running: bool, words: str = "") -> Picture:
    """The page of a run as it stands."""
    scene = run.scene
    if run.error:
        status = fragments(("error", notice(run.error, "warn")))
    elif running:
        status = fragments(("status", progress(doing(scene))))
    else:
        status = fragments(("said", notice(words or _ending(run))))
    found = hits_list(scene.retrieval, float(run.settings.get("min_similarity", -1)))
    if found and running:
        status += fragments(("hits", found))
    r = scene.receipt
    return Picture(
        status, scene_votes(scene, running), fragments(("receipt", receipt_card(r))) if r is not None else [],
        scene_cards(scene, running), gr.update(interactive=not running), gr.update(interactive=running),
        gr.update(visible=r is not None and not running),
        gr.update(visible=r is not None and r.used is not None and not running))


def _ending(run: Run) -> str:
    if run.scene.stopped:
        return "Stopped. Nothing was stored."
    if run.scene.receipt is None:
        return ""
    return "Done. The receipt says which memory answered, if any."


def solve(desk: Desk, problem: str, mode: str, memory_id: str | None, rollouts: float, temperature: float, top_p: float,
          max_new_tokens: float, seed: float, verifier: str, key: str, min_similarity: float,
          request: gr.Request) -> Iterator[Picture]:
    """Answers a problem and streams the page: at most eight pictures a second."""
    visit = desk.visit(request)
    run = visit.start("solve")
    run.settings = parts.checked(rollouts, temperature, top_p, max_new_tokens, seed, verifier, key, min_similarity)
    run.problem = problem
    visit.columns = []
    yield picture(run, True)
    memory = (memory_id or "auto") if mode == "chosen" else mode
    for _ in follow(answer_records(desk, problem, memory, run.settings), run):
        yield picture(run, True)
    if run.scene.receipt is not None:
        visit.star = _place(desk, run) or visit.star
    yield picture(run, False)


def _place(desk: Desk, run: Run) -> Star | None:
    """The answered problem on the map, for "Why this memory?". A failure here must not spoil the answer."""
    receipt = run.scene.receipt
    return attempt(lambda: star_of(desk.engine.changed(key=receipt.key_kind), receipt.problem))[0]


def waiting() -> tuple[Any, ...]:
    """At once on the press: what belongs to the last run goes, and a run that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model: others may be before you"))))
    hidden = gr.update(visible=False)
    return *Picture(status, [], [], [], gr.update(interactive=False), gr.update(interactive=True), hidden, hidden), [], []


def stop(desk: Desk, request: gr.Request) -> Picture:
    """Ends the visitor's runs of this panel; what was seen so far stays on the page."""
    visit = desk.visit(request)
    for name in ("solve", "compare", "replay"):
        if name in visit.runs:
            visit.runs[name].stop.set()
    run = visit.runs.get("solve") or Run()
    run.scene.stopped = run.scene.receipt is None
    return picture(run, False, "" if run.scene.rows else "Stopped before it began.")


def last_receipt(visit: Visit) -> Receipt | None:
    run = visit.runs.get("solve")
    return run.scene.receipt if run is not None else None


def compare(desk: Desk, other: str | None, request: gr.Request) -> Iterator[list[Fragment]]:
    """The counterfactual: the same problem and seed with another memory, beside what was there."""
    visit = desk.visit(request)
    first, base = last_receipt(visit), visit.runs.get("solve")
    if first is None or base is None:
        yield fragments(("error", notice("Solve a problem first.", "warn")))
        return
    if not other:
        yield fragments(("error", notice("Choose a memory first.", "warn")))
        return
    run = visit.start("compare")
    records = answer_records(desk, base.problem, other, base.settings)
    known = visit.columns or first_columns(first)
    for _ in follow(records, run):
        yield fragments(("status", progress(doing(run.scene)))) + compare_columns(known) + scene_votes(run.scene, True)[-1:]
    r = run.scene.receipt
    if r is None or r.memory is None or r.used is None:
        yield fragments(("error", notice(run.error or "Stopped.", "warn" if run.error else "info"))) + compare_columns(known)
        return
    visit.columns = [c for c in known if c[0] != with_memory(r)] + [(with_memory(r), r.memory)]
    yield compare_columns(visit.columns)


def first_columns(r: Receipt) -> list[tuple[str, Any]]:
    """The two sides of a receipt, or one where no memory was tried."""
    return [("Without memory", r.zero_shot), *([(with_memory(r), r.memory)] if r.memory is not None else [])]


def with_memory(r: Receipt) -> str:
    return f"With “{r.used.name}” ({r.used.memory_id[:7]})" if r.used is not None else "With memory"


def replay(desk: Desk, request: gr.Request) -> Iterator[list[Fragment]]:
    """Samples everything again and says whether the tokens are the same."""
    visit = desk.visit(request)
    receipt = last_receipt(visit)
    if receipt is None:
        yield fragments(("error", notice("Solve a problem first.", "warn")))
        return
    run = visit.start("replay")
    for _ in follow(desk.engine.replay(receipt), run):
        done = sum(row.trace is not None for row in run.scene.rows.values())
        yield fragments(("status", notice(f"Replaying: {done} of {len(receipt.traces)} traces sampled again.")))
    if run.error or run.scene.receipt is None:
        yield fragments(("error", notice(run.error or "Stopped.", "warn" if run.error else "info")))
    else:
        yield fragments(("same", notice("Replayed: the same seed gave the same tokens, so the receipt holds.", "good")))


def said_right(desk: Desk, request: gr.Request) -> list[Fragment]:
    """Feedback: the answer is right."""
    return _feedback(desk, request, True)


def said_wrong(desk: Desk, request: gr.Request) -> list[Fragment]:
    """Feedback: the answer is wrong."""
    return _feedback(desk, request, False)


def _feedback(desk: Desk, request: gr.Request, correct: bool) -> list[Fragment]:
    receipt = last_receipt(desk.visit(request))
    if receipt is None:
        return fragments(("error", notice("Solve a problem first.", "warn")))
    _, error = attempt(lambda: desk.engine.feedback(receipt, correct))
    return fragments(("said", notice(error, "warn") or notice("Noted with the memory that was tried.", "good")))


def show_memory_choice(mode: str) -> Any:
    """The list of memories is there only for "this one"."""
    return gr.update(visible=mode == "chosen")


def examples_of(desk: Desk, name: str | None) -> Any:
    """The examples of a family."""
    texts = [t for t, p in desk.examples.items() if family(p) == name]
    return gr.update(choices=texts, value=None)


def fill(example: str | None) -> Any:
    """A chosen example goes into the box."""
    return example if example else gr.skip()
