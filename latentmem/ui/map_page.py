"""The page of one memory, or of a receipt in its place: what is read for it, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from ..bank_notes import notes
from ..catalog import MODELS
from ..records import Counters, Hit, Memory, MemoryInfo, Receipt
from ..words import parameters
from .map_atlas import Atlas
from .session import Desk
from .views import Fragment
from .views_events import WORDS, History
from .views_forget import forget
from .views_memory import body
from .views_receipt import stored_receipt

EVENTS = 4000  # of the open memory that its page is drawn from, the newest; its verdicts are read beside them
NEAR = 5
VERDICTS = ("helped", "hurt", "feedback")
COUNTED = tuple(f.name for f in fields(Counters))


class Opened(NamedTuple):
    """The open memory, with those nearest to it in the space of the map."""

    memory: Memory
    info: MemoryInfo
    near: tuple[Hit, ...]


def look_at(desk: Desk, atlas: Atlas, memory_id: str, space: str) -> Opened:
    """One memory and its nearest. Raises LatentmemError."""
    bank = desk.engine.bank
    memory = bank.get(str(memory_id))
    if space == "prompt":
        near = atlas.prompt_hits(memory.id, NEAR)
    else:
        near = desk.engine.changed(key=space).neighbours(memory.id, NEAR) if space in memory.keys else ()
    return Opened(memory, bank.info(memory.id), near)


def memory_body(desk: Desk, atlas: Atlas, one: Opened, space: str) -> list[Fragment]:
    """Everything on the page of a memory but its head."""
    bank, m = desk.engine.bank, one.memory
    return body(m, one.info, history(bank, one.info), one.near, notes=notes(bank, m.id).get(m.id, ()), space=space,
                parameters=model_size(desk, m), problem_of=problem_finder(desk, atlas), kept=bank.asked(m.id))


def receipt_body(slip: Receipt, info: MemoryInfo | None, back: str, sure: bool = False) -> list[Fragment]:
    """A receipt in the place of that. `sure`: whoever looks at it is asked whether to forget it."""
    return stored_receipt(slip, info, back) + forget(slip.id, sure)


def history(bank: Any, info: MemoryInfo) -> History:
    """What happened to a memory. All that is counted, and all verdicts, though of very many events only the newest are read."""
    newest = bank.events(info.id, limit=EVENTS)
    if len(newest) < EVENTS:
        return History(newest, (e for e in newest if e.kind in VERDICTS), len(newest))
    by_kind = {kind: bank.events(info.id, kind=kind) for kind in VERDICTS}
    others = sum(len(by_kind[kind]) if kind in by_kind else len(bank.events(info.id, kind=kind))
                 for kind in WORDS if kind not in COUNTED)
    told = sorted((e for some in by_kind.values() for e in some), key=lambda e: e.created, reverse=True)
    return History(newest, told, others + sum(getattr(info.counters, kind) for kind in COUNTED))


def model_size(desk: Desk, m: Memory) -> tuple[int, bool] | None:
    """(how many parameters the model of a memory has, whether that is exact); None when it is not known here."""
    engine = desk.engine
    if engine.ready and engine.model.fingerprint == m.model:
        return parameters(engine.model), True
    spec = MODELS.get(m.model_name)
    return (spec.folder_bytes // 2, False) if spec is not None else None  # kept in bfloat16: two bytes a number


def problem_finder(desk: Desk, atlas: Atlas) -> Callable[[str], str | None]:
    """Problem id -> its text, of the examples and of the bank's own problems."""
    known: dict[str, str] = {}

    def find(problem_id: str) -> str | None:
        if not known:
            known.update({i.problem.id: i.problem.text for i in atlas.rows(exact=False).infos})
            known.update({p.id: p.text for p in desk.examples.values()})
        return known.get(problem_id)

    return find
