"""The Distil panel: the learning curve live, then keep or discard. What comes after is in
`before_after.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr

from ...bank import Overlay
from ...records import Memory, Status
from ...settings import Settings
from .. import components
from ..hosting import limits
from ..runs import Run, follow
from ..session import (
    AppSession,
    Visit,
    attempt,
    distil_records,
    exclusively,
    last_receipt,
    nearest_examples,
    ready_engine,
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

# ---------- After a distillation: the same problems without the memory and with it, side by side.

ALL, SAME = "The problem and its two nearest examples", "The problem itself"


def press_compare(desk: AppSession, on: str, request: gr.Request) -> Any:
    """At once on the press: the comparison waits for its turn."""
    return components.waits(desk.visit(request), "before_after", on)


def before_after(desk: AppSession, request: gr.Request) -> Iterator[Any]:
    """The same problems and seed without the memory and with it, also before it is kept; nothing of
    it is stored."""
    visit = desk.visit(request)
    yield from components.in_turn(visit, "before_after", 1, lambda run: _compared(desk, visit, run))


def _compared(desk: AppSession, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
    (on,), base = run.given, visit.runs.get("distil")
    done = base.scene.distilled if base is not None else None
    if base is None or done is None or done.memory is None:
        yield fragments(("error", notice("Distil a memory first.", "warn")))
        return
    run.begun = True
    try:
        yield from _trials(
            desk,
            visit,
            run,
            base,
            done.memory,
            {ALL: [base.problem, *visit.near[:2]], SAME: [base.problem]}.get(on, [on]),
        )
    finally:
        run.done = True


def _trials(
    desk: AppSession, visit: Visit, press: Run, base: Run, memory: Memory, asked: list[str]
) -> Iterator[list[Fragment]]:
    """One problem after the other; what stops the press stops the one that goes on."""
    rows = visit.trials = []
    for text in asked:
        run = Run(stop=press.stop, lock=press.lock)
        for _ in follow(_trial(desk, text, memory, base.settings), run):
            if visit.runs.get("distil") is not base:
                break
            yield compare_table(rows) + _now(run, text, len(rows), len(asked))
        r = run.scene.receipt
        if (
            visit.runs.get("distil") is not base
        ):  # another problem is distilled meanwhile: its page is not ours
            return
        if r is None or r.memory is None:
            yield compare_table(rows) + fragments(
                ("error", notice(run.error or "Stopped.", "warn" if run.error else "info"))
            )
            return
        rows.append((text, r.zero_shot, r.memory))
    yield compare_table(rows) + fragments(
        ("caveat", notice("A few problems prove little, least of all the one it was trained on."))
    )


def compare_refused(desk: AppSession, request: gr.Request) -> Any:
    """The queue was full."""
    return components.refused(
        desk.visit(request).runs.get("before_after"),
        desk.full(),
        1,
        lambda run: fragments(("error", notice(run.error, "warn"))),
    )


def still_going(desk: AppSession, request: gr.Request) -> Any:
    """Whether there is anything left that Stop would end."""
    return gr.update(interactive=desk.visit(request).busy("distil", "before_after"))


def _now(run: Run, text: str, before: int, of: int) -> list[Fragment]:
    with run.lock:
        which = f"{before + 1} of {of}: " if of > 1 else ""
        said = doing(run.scene)
        return fragments(
            ("status", progress(Status(which + said.text, said.done, said.total))),
            ("before", scene_vote(run.scene, "zero_shot", "Before", True)),
            ("after", scene_vote(run.scene, "memory", "After", True)),
        )


def _trial(desk: AppSession, text: str, memory: Memory, settings: dict[str, Any]) -> Iterator[Any]:
    """An answer with a memory that may not be kept yet, on a bank that is thrown away."""

    def records() -> Iterator[Any]:
        problem = desk.problem(text)
        engine = yield from ready_engine(desk, settings)
        bank = Overlay(desk.engine.bank, most=1, most_bytes=sys.maxsize)  # for a moment
        bank.put(memory)
        yield from engine.changed(on_bank=bank).answer(problem, memory=memory.id)

    return exclusively(desk, records())


NEAREST = 5  # examples offered first


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
    on: Any  # on which problems: the nearest first


def create_distil(settings: Settings, examples: list[str]) -> Distil:
    """The panel, inside the Blocks and the Tab of the caller."""
    most = limits(settings)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
            problem = gr.Textbox(
                label="Problem to learn from",
                lines=4,
                max_lines=12,
                elem_id="lm-distil-problem",
                placeholder="Solve a problem first, or type one here…",
            )
            with gr.Row(elem_classes="tight"):
                press = gr.Button("Distil", variant="primary", elem_id="lm-distil", min_width=110)
                stop = gr.Button(
                    "Stop",
                    variant="stop",
                    interactive=False,
                    elem_id="lm-distil-stop",
                    min_width=110,
                )
            given = components.distil_settings(settings, most)
            components.live("lm-distil-why", WHY)
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = components.live("lm-distil-status", FIRST)
            ended = components.live("lm-outcome")
            with gr.Row(visible=False, elem_classes="tight") as choice:
                keep = gr.Button("Keep it", variant="primary", elem_id="lm-keep")
                discard = gr.Button("Discard it", elem_id="lm-discard")
            with gr.Column(visible=False, elem_classes="after") as after:
                with gr.Row(elem_classes="tight end"):
                    on = gr.Dropdown(
                        [ALL, SAME, *examples],
                        value=ALL,
                        label="Before and after on",
                        scale=5,
                        filterable=True,
                        elem_id="lm-on",
                        info="The same seed, without the memory and with it. Nothing is stored.",
                    )
                    again = gr.Button("Compare", scale=1, min_width=110, elem_id="lm-before-after")
                columns = components.live("lm-before-after-columns")
            curve = components.figure(
                "lm-curve", "Curve of agreement, loss and gradient norm by step"
            )
            words = components.live("lm-distil-words")
            votes = components.live("lm-distil-votes")
            cards = components.live("lm-distil-cards", classes="cards")
    return Distil(
        problem,
        given,
        press,
        stop,
        [status, curve, words, ended, votes, cards, press, stop, choice, after, on],
        keep,
        discard,
        again,
        on,
        columns,
    )


FIRST = fragments(
    (
        "first",
        notice(
            "The model solves the problem several times; the majority's answer becomes the label, "
            "and a short soft prompt is trained to make the model agree with its own majority."
        ),
    )
)
WHY = fragments(
    (
        "why",
        notice(
            "No correct answer is ever used, and the model's own weights never change. If all "
            "traces agree, or too few do, there is nothing to learn, and the app says so."
        ),
    )
)


def picture(desk: AppSession, run: Run, visit: Visit, running: bool, words: str = "") -> Picture:
    """The page of a distillation as it stands."""
    with run.lock:
        scene, done = run.scene, run.scene.distilled
        if run.error:
            status = fragments(("error", notice(run.error, "warn")))
        elif running:
            status = fragments(
                (
                    "status",
                    distil_status(
                        scene, int(run.settings.get("steps", desk.engine.settings.steps))
                    ),
                )
            )
        else:
            stopped = "Stopped. The bank is as it was." if scene.stopped and done is None else ""
            status = fragments(("said", notice(words or stopped)))
        status = fragments(("refused", notice(run.refusal, "warn"))) + status
        learnt = done is not None and done.memory is not None and not running
        waiting = learnt and visit.pending is not None
        best = done.memory.best_step if done is not None and done.memory is not None else None
        titles = round_titles(scene)
        near = visit.near if learnt else []
        offered = [ALL, SAME, *near, *(t for t in desk.examples if t not in near)]
        return Picture(
            status,
            curve_figure(scene.steps, best=best) if scene.steps else components.NO_FIGURE,
            fragments(("words", distil_words(scene))) + steps_table(scene.steps),
            fragments(("outcome", outcome(done))) if done is not None else [],
            scene_votes(scene, running, titles),
            scene_cards(scene, running, titles),
            gr.update(interactive=not running),
            gr.update(interactive=running),
            gr.update(visible=waiting),
            gr.update(visible=learnt and (waiting or (done is not None and done.kept))),
            gr.update(choices=offered) if learnt else gr.skip(),
        )


def begin(desk: AppSession, request: gr.Request) -> Iterator[Any]:
    """Distils what the last press asked, and streams the page. The memory waits on the server, for
    this visitor only, to be kept or discarded."""
    visit = desk.visit(request)
    yield from components.in_turn(
        visit, "distil", len(Picture._fields), lambda run: _distilling(desk, visit, run)
    )


def _distilling(desk: AppSession, visit: Visit, run: Run) -> Iterator[Picture]:
    visit.pending, visit.near, visit.trials = (
        None,
        [],
        [],
    )  # not at the press already, which may never have its turn
    yield picture(desk, run, visit, True)

    def finish() -> None:
        done = run.scene.distilled
        if done is not None and done.memory is not None:
            visit.pending = done
            visit.near = (
                attempt(lambda: nearest_examples(desk, done.memory.problem, NEAREST))[0] or []
            )

    for _ in follow(distil_records(desk, run.problem, run.settings), run, finish):
        yield picture(desk, run, visit, True)
    yield picture(desk, run, visit, False)


def posed(visit: Visit, problem: str, *settings: Any) -> Run:
    """A new run of the panel, with what is to be learnt from; not begun."""
    visit.end("before_after")
    run = components.taken_down(visit, "distil")
    run.given, run.problem, n = (problem, *settings), problem, len(components.SAMPLING)
    run.settings = components.checked(*settings[:n]) | components.checked_distil(*settings[n:])
    return run


def amiss(desk: AppSession, problem: str, *settings: Any) -> str:
    """Why this cannot be asked, in one sentence; "" if it can."""
    n = len(components.SAMPLING)

    def look() -> None:
        desk.problem(problem)
        desk.tuned(components.checked(*settings[:n]) | components.checked_distil(*settings[n:]))
        desk.engine.bank.check_room()

    return attempt(look)[1]


def press(desk: AppSession, request: gr.Request, *given: Any) -> tuple[Any, ...]:
    """At once on the press, before the queue: what is asked is taken down, so that a reload
    meanwhile does not lose it. What cannot be asked is refused here, and a memory that waits to
    be kept goes on waiting."""
    visit = desk.visit(request)
    if why := amiss(desk, *given):
        run = components.not_taken(visit, "distil", why)
        shown = picture(desk, run, visit, run.busy or run.pressed)
        return *shown._replace(stop=still_going(desk, request)), gr.skip()
    posed(visit, *given)
    return *waiting(), []


def resume(desk: AppSession, request: gr.Request) -> Iterator[Any]:
    """After a reload: goes on showing the distillation that is still going on."""
    visit = desk.visit(request)
    run = visit.runs.get("distil")
    yield from components.taken_up(
        run, len(Picture._fields), lambda running: picture(desk, run, visit, running)
    )


def restored(desk: AppSession, visit: Visit) -> tuple[Any, ...]:
    """What a loaded page shows: the problem, the panel's own settings, the Picture of the last
    distillation, if there was one, and what was compared before and after it."""
    run = components.given_back(visit, "distil")
    if run is None:
        return gr.skip(), *[gr.skip()] * (len(components.TRAINING) + len(Picture._fields) + 1)
    run.refusal = ""  # what was refused does not stand in the box any more
    settings = [run.settings.get(name, gr.skip()) for name in components.TRAINING]
    if run.pressed:
        return run.problem, *settings, *waiting(), []
    return run.problem, *settings, *picture(desk, run, visit, run.busy), compare_table(visit.trials)


def refused(desk: AppSession, request: gr.Request) -> Any:
    """The queue was full."""
    visit = desk.visit(request)
    return components.refused(
        visit.runs.get("distil"),
        desk.full(),
        len(Picture._fields),
        lambda run: picture(desk, components.given_back(visit, "distil") or run, visit, False),
    )


def waiting() -> Picture:
    """What belongs to the last run is gone, and the run that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model"))))
    hidden = gr.update(visible=False)
    return Picture(
        status,
        components.NO_FIGURE,
        [],
        [],
        [],
        [],
        gr.update(interactive=False),
        gr.update(interactive=True),
        hidden,
        hidden,
        gr.update(value=ALL),
    )


def take_over(desk: AppSession, request: gr.Request, *given: Any) -> tuple[Any, ...]:
    """From the Solve panel: shows this one, with the solved problem in its box, and presses its
    button."""
    receipt = last_receipt(desk.visit(request))
    problem = (
        given[0] if receipt is None else receipt.problem.text
    )  # the box may hold another one by now
    return gr.update(selected="distil"), problem, *press(desk, request, problem, *given[1:])


def stop(desk: AppSession, request: gr.Request) -> Picture:
    """Ends the distillation; the bank stays as it was. One that only waited leaves the page of the
    one before it."""
    visit = desk.visit(request)
    visit.end("distil", "before_after")
    ended = visit.runs.get("distil")
    run = components.given_back(visit, "distil") or Run()
    run.refusal = ""
    with run.lock:
        run.scene.stopped = run.scene.distilled is None
    return picture(
        desk, run, visit, False, "" if ended in (run, None) else "Stopped before it began."
    )


def keep(desk: AppSession, request: gr.Request) -> Picture:
    """Stores the memory that waits."""
    visit = desk.visit(request)
    run, done = components.stands(visit, "distil"), visit.pending
    run.refusal = ""
    said = ""
    if done is None:
        run.error = "There is no memory to keep: distil one first."
    else:
        _, run.error = attempt(lambda: desk.engine.keep(done))
    if (
        done is not None and not run.error
    ):  # else, for example with a full disk, the memory still waits
        visit.pending = None
        run.scene.distilled = replace(done, kept=True)
        said = "Kept. It is on the map now, and tried on similar problems from now on."
        if desk.hosted:
            said += (
                " It is yours alone and forgotten half an hour after you close this tab: "
                "export it to keep it."
            )
    return picture(desk, run, visit, False, said)._replace(stop=still_going(desk, request))


def discard(desk: AppSession, request: gr.Request) -> Picture:
    """Forgets the memory that waits, and ends its comparison."""
    visit = desk.visit(request)
    visit.end("before_after")
    visit.trials, run = [], components.stands(visit, "distil")
    visit.pending, run.scene.distilled, run.error, run.refusal = None, None, "", ""
    return picture(desk, run, visit, False, "Discarded. Nothing was stored.")
