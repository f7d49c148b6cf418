"""Named endpoints with typed parameters for `gradio_client`: the same engine without the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..records import Distilled, LatentmemError, Receipt, to_dict
from .session import Desk, answer_records, bind, ready_engine


def endpoints(desk: Desk, model_work: dict[str, Any]) -> None:
    """Registers all of them; those that use the model share its queue."""
    for fn in (solve, distil, search):
        gr.api(bind(fn, desk), api_name=fn.__name__, **model_work)
    for fn in (memories, memory, quarantine, release, delete):
        gr.api(bind(fn, desk), api_name=fn.__name__)


def solve(desk: Desk, problem: str, memory: str = "auto", rollouts: int | None = None, temperature: float | None = None,
          seed: int | None = None) -> dict:
    """Answers a problem. memory: "auto", "off" or a memory's id; null means the app's own setting. Returns the receipt."""
    records = answer_records(desk, problem, memory, _given(rollouts=rollouts, temperature=temperature, seed=seed))
    receipt = _last(records, Receipt)
    data = to_dict(receipt) | {"sentence": receipt.sentence()}
    for trace in data["traces"]:
        trace.pop("token_ids")
    return data


def distil(desk: Desk, problem: str, steps: int | None = None, rollouts: int | None = None,
           seed: int | None = None) -> dict:
    """Distils a memory from a problem and keeps it; null means the app's own setting. Returns its id, or null and why."""

    def records() -> Iterator[Any]:
        engine = yield from ready_engine(desk, _given(steps=steps, rollouts=rollouts, seed=seed))
        yield from engine.distil(desk.problem(problem), keep=True)

    done = _last(records(), Distilled)
    return {"memory_id": done.memory.id if done.memory is not None else None, "reason": done.reason, "kept": done.kept,
            "steps": [to_dict(s) for s in done.steps]}


def search(desk: Desk, problem: str, k: int = 5) -> dict:
    """The memories nearest to a problem."""

    def found() -> Any:
        asked = desk.problem(problem)
        records = ready_engine(desk, {})
        while True:
            try:
                next(records)
            except StopIteration as end:
                return end.value.search(asked, k)

    return to_dict(_said(found))


def memories(desk: Desk, text: str = "", limit: int = 100) -> list[dict]:
    """Rows of the bank, newest first; `text` narrows them."""
    return [to_dict(i) for i in _said(lambda: desk.engine.bank.infos(text=text or None, limit=max(1, min(limit, 1000))))]


def memory(desk: Desk, memory_id: str) -> dict:
    """One row of the bank."""
    return to_dict(_said(lambda: desk.engine.bank.info(memory_id)))


def quarantine(desk: Desk, memory_id: str, reason: str = "") -> str:
    """Keeps a memory from being tried. Returns its id."""
    return _said(lambda: desk.engine.bank.quarantine(memory_id, reason).memory_id)


def release(desk: Desk, memory_id: str) -> str:
    """Lets a memory be tried again. Returns its id."""
    return _said(lambda: desk.engine.bank.release(memory_id).memory_id)


def delete(desk: Desk, memory_id: str) -> str:
    """Deletes a memory for good. Returns its id. The whole id is asked for: a beginning is not enough."""

    def gone() -> str:
        if memory_id not in desk.engine.bank:
            raise LatentmemError(f"There is no memory with the id {memory_id[:40]!r}: give the whole id.")
        desk.engine.bank.delete(memory_id)
        return memory_id

    return _said(gone)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _said(action: Callable[[], Any]) -> Any:
    """A LatentmemError as the error message that the client gets."""
    try:
        return action()
    except LatentmemError as e:
        raise gr.Error(str(e), print_exception=False) from None


def _last(records: Iterator[Any], kind: type) -> Any:
    def run() -> Any:
        found = None
        for record in records:
            found = record if isinstance(record, kind) else found
        assert found is not None, f"the stream ended without a {kind.__name__}"
        return found

    return _said(run)
