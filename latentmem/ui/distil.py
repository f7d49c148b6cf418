"""The Distil panel: the learning curve live, then keep or discard, then before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr

from ..records import Status
from ..settings import Settings
from . import parts
from .session import Desk, Run, Visit, answer_records, attempt, follow, ready_engine
from .views import Fragment, doing, fragments, notice, progress, scene_cards, scene_vote, scene_votes
from .views_distil import curve_figure, distil_words, outcome, round_titles, steps_table
from .views_receipt import compare_columns

SAME = "The problem itself"


@dataclass(frozen=True)
class Distil:
    """The panel's components that other panels or the wiring need."""

    problem: gr.Textbox
    settings: list[gr.components.Component]
    press: gr.Button
    stop: gr.Button
    outputs: list[gr.components.Component]
    keep: gr.Button
    discard: gr.Button
    again: gr.Button
    on: gr.Dropdown
    columns: gr.HTML


class Picture(NamedTuple):
    """What a handler sends to the page; the order is that of `Distil.outputs`."""

    status: list[Fragment]
    curve: Any
    words: list[Fragment]
    outcome: list[Fragment]
    votes: list[Fragment]
    cards: list[Fragment]
    press: Any
    stop: Any
    choice: Any  # keep or discard
    after: Any  # before and after


def create_distil(settings: Settings, examples: list[str]) -> Distil:
    """The panel, inside the Blocks and the Tab of the caller."""
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
            problem = gr.Textbox(label="Problem to learn from", lines=4, max_lines=12, elem_id="lm-distil-problem",
                                 placeholder="Solve a problem first, or type one here…")
            with gr.Row(elem_classes="tight"):
                press = gr.Button("Distil a memory", variant="primary", elem_id="lm-distil", min_width=110)
                stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="lm-distil-stop", min_width=110)
            given = parts.distil_settings(settings)
            parts.live("lm-distil-why", WHY)
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = parts.live("lm-distil-status", FIRST)
            ended = parts.live("lm-outcome")
            with gr.Row(visible=False, elem_classes="tight") as choice:
                keep = gr.Button("Keep it", variant="primary", elem_id="lm-keep")
                discard = gr.Button("Discard it", elem_id="lm-discard")
            with gr.Group(visible=False, elem_classes="after") as after:
                with gr.Row(elem_classes="tight end"):
                    on = gr.Dropdown([SAME, *examples], value=SAME, label="Before and after on", scale=4, filterable=True)
                    again = gr.Button("Compare", scale=2, elem_id="lm-before-after")
                columns = parts.live("lm-before-after-columns")
            curve = parts.figure("lm-curve", "Curve of agreement, loss and gradient norm by step")
            words = parts.live("lm-distil-words")
            votes = parts.live("lm-distil-votes")
            cards = parts.live("lm-distil-cards", classes="cards")
    return Distil(problem, given, press, stop, [status, curve, words, ended, votes, cards, press, stop, choice, after],
                  keep, discard, again, on, columns)


FIRST = fragments(("first", notice("The model solves the problem several times; the majority's answer becomes the label, and "
                                   "a short soft prompt is trained to make the model agree with its own majority.")))
WHY = fragments(("why", notice("No correct answer is ever used, and the model's own weights never change. If all traces "
                               "agree, or too few do, there is nothing to learn, and the app says so.")))


def picture(run: Run, visit: Visit, running: bool, words: str = "") -> Picture:
    """The page of a distillation as it stands."""
    scene = run.scene
    if run.error:
        status = fragments(("error", notice(run.error, "warn")))
    elif running:
        status = fragments(("status", progress(doing(scene))))
    else:
        stopped = "Stopped. The bank is as it was." if scene.stopped and scene.distilled is None else ""
        status = fragments(("said", notice(words or stopped)))
    waiting = visit.pending is not None and not running
    best = scene.distilled.memory.best_step if scene.distilled is not None and scene.distilled.memory is not None else None
    kept = scene.distilled is not None and scene.distilled.kept
    titles = round_titles(scene)
    return Picture(
        status, curve_figure(scene.steps, best=best) if scene.steps else {"data": [], "layout": {}},
        fragments(("words", distil_words(scene))) + steps_table(scene.steps),
        fragments(("outcome", outcome(scene.distilled))) if scene.distilled is not None else [],
        scene_votes(scene, running, titles), scene_cards(scene, running, titles),
        gr.update(interactive=not running), gr.update(interactive=running),
        gr.update(visible=waiting), gr.update(visible=kept and not running))


def distil_records(desk: Desk, text: str, settings: dict[str, Any]) -> Iterator[Any]:
    """Everything from the press of Distil to the memory, which is not yet stored."""
    problem = desk.problem(text)
    engine = yield from ready_engine(desk, settings)
    yield from engine.distil(problem, keep=False)


def distil(desk: Desk, problem: str, rollouts: float, temperature: float, top_p: float, max_new_tokens: float, seed: float,
           verifier: str, key: str, min_similarity: float, steps: float, learning_rate: float, virtual_tokens: float,
           request: gr.Request) -> Iterator[Picture]:
    """Distils and streams the page. The memory waits on the server, for this visitor only, to be kept or discarded."""
    visit = desk.visit(request)
    visit.pending = None
    run = visit.start("distil")
    run.settings = parts.checked(rollouts, temperature, top_p, max_new_tokens, seed, verifier, key, min_similarity)
    run.problem = problem
    yield picture(run, visit, True)
    training = parts.checked_distil(steps, learning_rate, virtual_tokens)
    for _ in follow(distil_records(desk, problem, run.settings | training), run):
        yield picture(run, visit, True)
    done = run.scene.distilled
    if done is not None and done.memory is not None and not run.stop.is_set():
        visit.pending = done
    yield picture(run, visit, False)


def waiting() -> tuple[Any, ...]:
    """At once on the press: what belongs to the last run goes, and a run that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model: others may be before you"))))
    nothing, hidden = {"data": [], "layout": {}}, gr.update(visible=False)
    return *Picture(status, nothing, [], [], [], [], gr.update(interactive=False), gr.update(interactive=True), hidden,
                    hidden), []


def take_over(problem: str) -> tuple[Any, ...]:
    """From the Solve panel: shows this one, with the solved problem in its box."""
    return gr.update(selected="distil"), problem, *waiting()


def stop(desk: Desk, request: gr.Request) -> Picture:
    """Ends the distillation; the bank stays as it was."""
    visit = desk.visit(request)
    for name in ("distil", "before_after"):
        if name in visit.runs:
            visit.runs[name].stop.set()
    run = visit.runs.get("distil") or Run()
    run.scene.stopped = run.scene.distilled is None
    return picture(run, visit, False)


def keep(desk: Desk, request: gr.Request) -> Picture:
    """Stores the memory that waits."""
    visit = desk.visit(request)
    run = visit.runs.get("distil") or Run()
    if visit.pending is None:
        run.error = "There is no memory to keep: distil one first."
        return picture(run, visit, False)
    done = visit.pending
    _, run.error = attempt(lambda: desk.engine.keep(done))
    if run.error:  # for example a full disk: the memory still waits
        return picture(run, visit, False)
    visit.pending = None
    run.scene.distilled = replace(done, kept=True)
    return picture(run, visit, False, "Kept. It is on the map now, and tried on similar problems from now on.")


def discard(desk: Desk, request: gr.Request) -> Picture:
    """Forgets the memory that waits."""
    visit = desk.visit(request)
    run = visit.runs.get("distil") or Run()
    visit.pending, run.scene.distilled, run.error = None, None, ""
    return picture(run, visit, False, "Discarded. Nothing was stored.")


def before_after(desk: Desk, on: str, request: gr.Request) -> Iterator[list[Fragment]]:
    """The same problem and seed without the kept memory and with it."""
    visit = desk.visit(request)
    base = visit.runs.get("distil")
    done = base.scene.distilled if base is not None else None
    if base is None or done is None or done.memory is None or not done.kept:
        yield fragments(("error", notice("Keep a memory first.", "warn")))
        return
    run = visit.start("before_after")
    text = base.problem if on == SAME else on
    for _ in follow(answer_records(desk, text, done.memory.id, base.settings), run):
        yield fragments(("status", progress(doing(run.scene))),
                        ("before", scene_vote(run.scene, "zero_shot", "Before", True)),
                        ("after", scene_vote(run.scene, "memory", "After", True)))
    r = run.scene.receipt
    if r is None or r.memory is None:
        yield fragments(("error", notice(run.error or "Stopped.", "warn" if run.error else "info")))
        return
    yield compare_columns([("Before: without it", r.zero_shot), ("After: with it", r.memory)]) + fragments(
        ("caveat", notice("One problem proves little: look at problems it was not trained on.")))
