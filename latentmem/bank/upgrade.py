"""A bank of an older version: a copy of it as it was, and the checksums that its rows lacked."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, get_args

from ..files import file_errors, replacing
from ..records import EventKind, LatentmemError, Memory
from . import serialization

STATE_KINDS = ("quarantined", "released")
# What this bank knows about where a memory came from and whether it earned trust: no archive holds
# such events, and from one they would be hearsay.
LOCAL_KINDS = ("imported", "trusted")
COUNTED = STATE_KINDS + LOCAL_KINDS  # without one of them a memory would be trusted too much


def keep_copy(path: str, version: int) -> Path:
    """Copy a bank to a new file beside it, `bank.sqlite.version2`. Raises LatentmemError and
    sqlite3.Error."""
    names = (f"{path}.version{version}" + f"-{n}" * (n > 1) for n in count(1))
    copy = next(Path(name) for name in names if not Path(name).exists())
    with (
        file_errors(copy, "written", "free some space beside the bank, which stays as it was"),
        replacing(copy) as part,
        closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(part)) as new,
    ):
        old.backup(new)
        shutil.copymode(path, part)
    return copy


def bind(db: sqlite3.Connection) -> None:
    """Within a transaction, bind every row to its memory. A memory that is not whole gets no
    checksum of its entry, so that nothing uses it and `verify` names it."""
    states = _states(db)
    for (seq,) in db.execute("SELECT seq FROM memories").fetchall():
        row = db.execute("SELECT * FROM memories WHERE seq = ?", (seq,)).fetchone()
        ident, whole = row["id"], True
        found: list[dict[str, bytes]] = []
        for table, name in (("parts", "part"), ("keys", "kind")):
            rows = db.execute(
                f"SELECT {name}, bytes, sha256 FROM {table} WHERE seq = ?", (seq,)
            ).fetchall()
            found.append({})
            for one, data, checksum in rows:
                if isinstance(data, bytes) and serialization.sha256(data) == checksum:
                    found[-1][one] = data
                    db.execute(
                        f"UPDATE {table} SET sha256 = ? WHERE seq = ? AND {name} = ?",
                        (serialization.bound(ident, one, data), seq, one),
                    )
                else:
                    whole = False
        memory = _read(ident, *found) if whole else None
        if memory is None:
            continue
        there = serialization.row_of(memory, row["at"], serialization.digest_of(memory))
        if all(row[name] == there[name] for name in there if name not in ("keys", "digest")):
            entry = serialization.checked(there, states[ident])
            db.execute(
                f"UPDATE memories SET {', '.join(f'{name} = ?' for name in entry)} WHERE seq = ?",
                [*entry.values(), seq],
            )


def _read(ident: str, parts: dict[str, bytes], keys: dict[str, bytes]) -> Memory | None:
    try:
        return serialization.unpack(serialization.Packed(ident, parts, keys)) if keys else None
    except (LatentmemError, KeyError):  # a part is missing
        return None


def _states(db: sqlite3.Connection) -> Counter[str]:
    """Memory id -> number of its events that are counted. A damaged one whose kind may have been
    such a kind counts, too: without it the memory is not used."""
    others: Any = set(get_args(EventKind)) - set(COUNTED)
    found: Counter[str] = Counter()
    for row in db.execute("SELECT * FROM events NOT INDEXED"):
        found[row["memory_id"]] += row["kind"] not in others and (
            row["kind"] in COUNTED or not serialization.event_is_whole(row)
        )
    return found
