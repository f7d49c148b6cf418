"""What an explorer of a bank asks for beside `Bank`: whether anything changed, and all soft prompts
in one pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import LatentmemError
from .overlay import Overlay
from .serialization import load_arrays, sha256

if TYPE_CHECKING:
    from .bank import Bank

AT_ONCE = 64  # soft prompts read while the bank's lock is held


def memories_stamp(bank: Bank | Overlay) -> Hashable:
    """Changes when a memory comes, goes, or goes into or out of quarantine; it may also change
    without need."""
    return _stamp(bank, lambda db, store: (_elsewhere(db), store.writes))


def stamp(bank: Bank | Overlay) -> Hashable:
    """Changes with anything that is written, by this process or another; events included. Takes
    microseconds."""
    return _stamp(bank, lambda db, store: (_elsewhere(db), db.total_changes))


def _stamp(bank: Any, of: Any) -> Hashable:
    if isinstance(bank, Overlay):
        beside = bank.events(limit=1)
        return _stamp(bank.curated, of), _stamp(bank.own, of), beside[0].id if beside else ""
    with bank._store.reading() as db:
        return of(db, bank._store)


def _elsewhere(db: Any) -> int:
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def soft_prompts(bank: Bank | Overlay) -> Iterator[tuple[str, np.ndarray]]:
    """(memory id, soft prompt [virtual tokens, hidden] float32) of every memory, in the order of
    storing. Damaged ones are left out: `verify` names them."""
    if isinstance(bank, Overlay):
        yield from soft_prompts(bank.curated)
        yield from soft_prompts(bank.own)
        return
    after = -1
    while rows := _some(bank, after):
        for seq, ident, data, checksum in rows:
            after = seq
            if isinstance(data, bytes) and sha256(data) == checksum:
                prompt = _prompt(data, ident)
                if prompt is not None:
                    yield ident, prompt


def _some(bank: Any, after: int) -> list[Any]:
    with bank._store.reading() as db:
        return db.execute(
            "SELECT p.seq, m.id, p.bytes, p.sha256 FROM parts p JOIN memories m ON m.seq = p.seq "
            "WHERE p.part = 'soft_prompt' AND p.seq > ? ORDER BY p.seq LIMIT ?",
            (after, AT_ONCE),
        ).fetchall()


def _prompt(data: bytes, ident: str) -> np.ndarray | None:
    try:
        prompt = load_arrays(data, ident).get("soft_prompt")
    except LatentmemError:
        return None
    whole = prompt is not None and prompt.ndim == 2 and prompt.size and np.isfinite(prompt).all()
    return prompt.astype(np.float32, copy=False) if whole else None
