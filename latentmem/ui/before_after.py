"""After a distillation: the same problems without the memory and with it, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ..overlay import Overlay
from ..records import Memory, Status
from . import parts
from .session import Desk, Run, Visit, exclusively, follow, ready_engine
from .views import Fragment, doing, fragments, notice, progress, scene_vote
from .views_receipt import compare_table

ALL, SAME = "The problem and its two nearest examples", "The problem itself"


def press(desk: Desk, on: str, request: gr.Request) -> Any:
    """At once on the press: the comparison waits for its turn."""
    return parts.waits(desk.visit(request), "before_after", on)


def before_after(desk: Desk, request: gr.Request) -> Iterator[Any]:
    """The same problems and seed without the memory and with it, also before it is kept; nothing of it is stored."""
    visit = desk.visit(request)
    yield from parts.in_turn(visit, "before_after", 1, lambda run: _compared(desk, visit, run))


def _compared(desk: Desk, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
    (on,), base = run.given, visit.runs.get("distil")
    done = base.scene.distilled if base is not None else None
    if base is None or done is None or done.memory is None:
        yield fragments(("error", notice("Distil a memory first.", "warn")))
        return
    run.begun = True
    try:
        yield from _trials(desk, visit, run, base, done.memory,
                           {ALL: [base.problem, *visit.near[:2]], SAME: [base.problem]}.get(on, [on]))
    finally:
        run.done = True


def _trials(desk: Desk, visit: Visit, press: Run, base: Run, memory: Memory, asked: list[str]) -> Iterator[list[Fragment]]:
    """One problem after the other; what stops the press stops the one that goes on."""
    rows = visit.trials = []
    for text in asked:
        run = Run(stop=press.stop, lock=press.lock)
        for _ in follow(_trial(desk, text, memory, base.settings), run):
            if visit.runs.get("distil") is not base:
                break
            yield compare_table(rows) + _now(run, text, len(rows), len(asked))
        r = run.scene.receipt
        if visit.runs.get("distil") is not base:  # another problem is distilled meanwhile: its page is not ours
            return
        if r is None or r.memory is None:
            yield compare_table(rows) + fragments(
                ("error", notice(run.error or "Stopped.", "warn" if run.error else "info")))
            return
        rows.append((text, r.zero_shot, r.memory))
    yield compare_table(rows) + fragments(
        ("caveat", notice("A few problems prove little, least of all the one it was trained on.")))


def refused(desk: Desk, request: gr.Request) -> Any:
    """The queue was full."""
    return parts.refused(desk.visit(request).runs.get("before_after"), desk.full(), 1,
                         lambda run: fragments(("error", notice(run.error, "warn"))))


def still_going(desk: Desk, request: gr.Request) -> Any:
    """Whether there is anything left that Stop would end."""
    return gr.update(interactive=desk.visit(request).busy("distil", "before_after"))


def _now(run: Run, text: str, before: int, of: int) -> list[Fragment]:
    with run.lock:
        which = f"{before + 1} of {of}: " if of > 1 else ""
        said = doing(run.scene)
        return fragments(("status", progress(Status(which + said.text, said.done, said.total))),
                         ("before", scene_vote(run.scene, "zero_shot", "Before", True)),
                         ("after", scene_vote(run.scene, "memory", "After", True)))


def _trial(desk: Desk, text: str, memory: Memory, settings: dict[str, Any]) -> Iterator[Any]:
    """An answer with a memory that may not be kept yet, on a bank that is thrown away."""

    def records() -> Iterator[Any]:
        problem = desk.problem(text)
        engine = yield from ready_engine(desk, settings)
        bank = Overlay(desk.engine.bank, most=1, most_bytes=sys.maxsize)  # for a moment
        bank.put(memory)
        yield from engine.changed(on_bank=bank).answer(problem, memory=memory.id)

    return exclusively(desk, records())
