"""After an answer: what another memory would have said, the same question again, and whether the answer was right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ..records import Hit, Receipt, Vote
from . import parts
from .session import Desk, Run, Visit, attempt, exclusively, follow, think_records
from .views import Fragment, doing, fragments, notice, progress, scene_votes
from .views_receipt import compare_columns
from .views_table import choice_label

CHOICES = 200  # memories offered for a comparison, the newest ones


def other_memories(desk: Desk, r: Receipt, nearest: Sequence[Hit]) -> list[tuple[str, str]]:
    """(label, id) of the memories that a receipt can be compared with: the nearest first, then the newest."""
    tried = r.used.memory_id if r.used is not None else ""
    rows, _ = attempt(lambda: desk.engine.bank.infos(model=r.model, limit=CHOICES))
    infos = {i.id: i for i in rows or []}
    listed, near = [], set()
    for hit in nearest or r.hits:
        info = infos.get(hit.memory_id) or attempt(lambda hit=hit: desk.engine.bank.info(hit.memory_id))[0]
        if info is not None and info.id != tried:  # a hit may have been deleted since
            near.add(info.id)
            listed.append((f"{hit.similarity:.2f} · {choice_label(info)}", info.id))
    return listed + [(choice_label(i), i.id) for i in infos.values() if i.id not in {tried, *near}]


def last_receipt(visit: Visit) -> Receipt | None:
    run = visit.runs.get("solve")
    return run.scene.receipt if run is not None else None


def press_compare(desk: Desk, other: str | None, request: gr.Request) -> Any:
    """At once on the press: the comparison waits for its turn."""
    return parts.waits(desk.visit(request), "compare", other)


def compare(desk: Desk, request: gr.Request) -> Iterator[Any]:
    """The counterfactual: the same problem and seed with another memory, beside what was there. It leaves no event."""
    visit = desk.visit(request)
    yield from parts.in_turn(visit, "compare", 1, lambda run: _compared(desk, visit, run))


def _compared(desk: Desk, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
    (other,), first, base = run.given, last_receipt(visit), visit.runs.get("solve")
    if first is None or base is None:
        yield fragments(("error", notice("Solve a problem first.", "warn")))
        return
    if not other:
        yield fragments(("error", notice("Choose a memory first.", "warn")))
        return
    known = visit.columns or first_columns(first)
    for _ in follow(think_records(desk, base.problem, other, base.settings), run):
        if visit.runs.get("solve") is not base:
            break
        yield _comparing(run, known)
    if visit.runs.get("solve") is not base:  # another problem was posed meanwhile: its page is not ours
        return
    vote = run.scene.votes.get("memory")
    info, error = attempt(lambda: desk.engine.bank.info(other))
    if run.scene.stopped or vote is None or info is None:
        said = run.error or error
        yield fragments(("error", notice(said or "Stopped.", "warn" if said else "info"))) + compare_columns(known)
        return
    title = with_memory(info.name, info.id)
    visit.columns = [c for c in known if c[0] != title] + [(title, vote)]
    yield compare_columns(visit.columns)


def _comparing(run: Run, known: list[tuple[str, Vote]]) -> list[Fragment]:
    with run.lock:
        return fragments(("status", progress(doing(run.scene)))) + compare_columns(known) + scene_votes(run.scene, True)


def first_columns(r: Receipt) -> list[tuple[str, Vote]]:
    """The two sides of a receipt, or one where no memory was tried."""
    alone = ("Without memory", r.zero_shot)
    if r.used is None or r.memory is None:
        return [alone]
    return [alone, (with_memory(r.used.name, r.used.memory_id), r.memory)]


def with_memory(name: str, memory_id: str) -> str:
    return f"With “{name}” ({memory_id[:7]})"


def press_replay(desk: Desk, request: gr.Request) -> Any:
    """At once on the press: the same question waits for its turn."""
    visit = desk.visit(request)
    return parts.waits(visit, "replay", last_receipt(visit))


def replay(desk: Desk, request: gr.Request) -> Iterator[Any]:
    """Samples everything again and says whether the tokens are the same."""
    visit = desk.visit(request)
    yield from parts.in_turn(visit, "replay", 1, lambda run: _replayed(desk, visit, run))


def _replayed(desk: Desk, visit: Visit, run: Run) -> Iterator[list[Fragment]]:
    (receipt,), base = run.given, visit.runs.get("solve")
    if receipt is None:
        yield fragments(("error", notice("Solve a problem first.", "warn")))
        return
    for _ in follow(exclusively(desk, desk.engine.replay(receipt)), run):
        if visit.runs.get("solve") is not base:
            return
        with run.lock:
            done = sum(row.trace is not None for row in run.scene.rows.values())
        yield fragments(("status", notice(f"Asking again: {done} of {len(receipt.traces)} traces written.")))
    if visit.runs.get("solve") is not base:
        return
    if run.error or run.scene.receipt is None:
        yield fragments(("error", notice(run.error or "Stopped.", "warn" if run.error else "info")))
    else:
        yield fragments(("same", notice("Asked again: the same seed gave the same tokens, so the receipt holds.", "good")))


def compare_refused(desk: Desk, request: gr.Request) -> Any:
    """The queue was full."""
    return _refused(desk, desk.visit(request).runs.get("compare"))


def replay_refused(desk: Desk, request: gr.Request) -> Any:
    """The queue was full."""
    return _refused(desk, desk.visit(request).runs.get("replay"))


def _refused(desk: Desk, run: Run | None) -> Any:
    return parts.refused(run, desk.full(), 1, lambda run: fragments(("error", notice(run.error, "warn"))))


def still_going(desk: Desk, request: gr.Request) -> Any:
    """Whether there is anything left that Stop would end."""
    return gr.update(interactive=desk.visit(request).busy("solve", "compare", "replay"))


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
