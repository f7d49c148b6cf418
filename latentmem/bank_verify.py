"""Is a bank whole? The file, every checksum, every id, every listing entry, every receipt, every reference."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from . import bank_codec as codec
from .bank_schema import is_damage
from .bank_store import Store, salvaged
from .records import LatentmemError


@dataclass(frozen=True, slots=True)
class VerifyReport:
    memories: int
    events: int
    receipts: int
    problems: list[str]  # one sentence each; empty: the bank is whole


def verify(store: Store) -> VerifyReport:
    """Reads everything. Problems are collected, so that one damaged memory does not hide the next. Another process may
    write meanwhile, and a long lock would stop it: what it deletes between the listing and the reading is no problem."""
    problems: list[str] = []
    with store.reading() as db:
        memories = _seqs(db, "memories", problems)
        events = _seqs(db, "events", problems)
        receipts = _seqs(db, "receipts", problems)
        for check in (_file(db), _references(db), *(_memory(store, db, seq) for seq in memories),
                      *(_event(db, seq) for seq in events), *(_receipt(db, seq) for seq in receipts)):
            try:
                problems.extend(check)
            except sqlite3.DatabaseError as e:
                if not is_damage(e):
                    raise
                problems.append(f"A page of the file is damaged ({e}): import your last export into a new bank.")
    return VerifyReport(len(memories), len(events), len(receipts), list(dict.fromkeys(problems)))


def _seqs(db: sqlite3.Connection, table: str, problems: list[str]) -> list[int]:
    try:
        return [row[0] for row in db.execute(f"SELECT seq FROM {table} ORDER BY seq").fetchall()]
    except sqlite3.DatabaseError as e:
        if not is_damage(e):
            raise
        problems.append(f"The table of {table} is damaged ({e}): import your last export into a new bank.")
        sql = f"SELECT seq FROM {table} WHERE seq = ?"
        return sorted(row[0] for row in salvaged(db, table, lambda seq: db.execute(sql, (seq,)).fetchall()))


def _file(db: sqlite3.Connection) -> Iterator[str]:
    for row in db.execute("PRAGMA integrity_check").fetchall():
        if row[0] != "ok":
            yield f"SQLite finds the file damaged: {row[0]}."


def _references(db: sqlite3.Connection) -> Iterator[str]:
    for table, rowid, _, _ in db.execute("PRAGMA foreign_key_check").fetchall():
        if table == "events":
            event = db.execute("SELECT id, memory_id FROM events WHERE seq = ?", (rowid,)).fetchone()
            if event is not None:
                yield f"Event {event[0]} belongs to memory {event[1]}, which is not in the bank."
        else:
            yield f"Row {rowid} of {table} belongs to no memory."


def _memory(store: Store, db: sqlite3.Connection, seq: int) -> Iterator[str]:
    row = db.execute("SELECT * FROM memories WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return
    ident = str(row["id"])
    try:
        memory = codec.unpack(store.packed(ident))
        if not memory.keys:
            raise LatentmemError(f"Memory {ident} has no key: delete it, or import it again.")
        at = codec.stamp(memory.created) if memory.created else row["at"]
    except LatentmemError as e:
        if not _gone(db, seq):  # its parts were read one after the other
            yield str(e)
        return
    for column, value in codec.row_of(memory, at).items():
        if row[column] != value:
            yield (f"The entry of memory {ident} says {column} = {str(row[column])[:40]!r}, its record says "
                   f"{str(value)[:40]!r}.")


def _gone(db: sqlite3.Connection, seq: int) -> bool:
    """Whether a memory was deleted meanwhile, which a damaged page does not mean."""
    try:
        return db.execute("SELECT 1 FROM memories WHERE seq = ?", (seq,)).fetchone() is None
    except sqlite3.DatabaseError as e:
        if not is_damage(e):
            raise
        return False


def _event(db: sqlite3.Connection, seq: int) -> Iterator[str]:
    row = db.execute("SELECT * FROM events WHERE seq = ?", (seq,)).fetchone()
    if row is not None and not codec.event_is_whole(row):
        yield f"Event {row['id']} is damaged: its checksum does not match."


def _receipt(db: sqlite3.Connection, seq: int) -> Iterator[str]:
    row = db.execute("SELECT * FROM receipts WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return
    try:
        receipt = codec.receipt_of(row)
    except LatentmemError as e:
        yield str(e)
        return
    for column, value in (("id", receipt.id), ("problem", receipt.problem.text), ("size", len(row["body"].encode()))):
        if row[column] != value:
            yield (f"The entry of receipt {row['id']} says {column} = {str(row[column])[:40]!r}, its record says "
                   f"{str(value)[:40]!r}.")
