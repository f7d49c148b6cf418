"""The rows behind a bank: one connection, its lock and transactions; memories as bytes; events;
`verify`. The rest of the program uses `Bank`, which stands on this.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args
from uuid import uuid4

from ..records import Event, EventKind, LatentmemError, Memory
from . import serialization
from .schema import brief, connect, insert_sql, is_damage, sentences
from .serialization import bound
from .upgrade import COUNTED, STATE_KINDS

MIN_PREFIX = 4
AGAIN = "save the others with `latentmem repair`, or delete it and import it again"
UNSURE = (
    "The events that say whether it is in quarantine or on probation are damaged, so it is not "
    "used: save the bank with `latentmem repair`."
)
LAST_COUNTS = (STATE_KINDS, ("tag",))  # kinds of events of which the newest decides
MOST_EVENT = 1 << 17  # bytes of an event


class Store:
    """One SQLite connection behind a lock, because ":memory:" exists only in its own connection."""

    def __init__(self, path: str, read_only: bool) -> None:
        self.path, self.read_only = path, read_only
        # writes of this connection that search must see; data_version shows those of others
        self.writes = 0
        self._shut: tuple[tuple[int, int], dict[str, str]] = ((-1, -1), {})
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = connect(path, read_only)

    def close(self) -> None:
        with self._lock:
            # Closing a parent's file would drop its locks.
            if self._db is not None and os.getpid() == self._pid:
                self._db.close()
            self._db = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. SQLite's errors become LatentmemError."""
        with self._lock, sentences(self.path):
            if os.getpid() != self._pid:
                raise LatentmemError(
                    f"{self.path} was opened before this process forked: open it again here."
                )
            if self._db is None:
                raise LatentmemError(f"{self.path} is closed: open the bank again.")
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk when the block ends, undone when it raises."""
        self.check_writable()
        with self.reading() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk makes SQLite roll back by itself
                    db.execute("ROLLBACK")
                raise

    def check_writable(self) -> None:
        if self.read_only:
            raise LatentmemError(
                f"{self.path} is open for reading only, so nothing was stored: "
                "use a bank of your own."
            )

    def shut(self, db: sqlite3.Connection) -> dict[str, str]:
        """What `shut` says, read again when something was written."""
        now = data_version(db), self.writes
        if self._shut[0] != now:
            self._shut = now, shut(db)
        return self._shut[1]

    # -------------------------------------------------------------- ids
    def has(self, memory_id: object) -> bool:
        with self.reading() as db:
            return (
                isinstance(memory_id, str)
                and memory_id.isascii()
                and _has(db, "memories", memory_id)
            )

    def resolve(self, memory_id: str) -> str:
        """The full id of the one memory whose id begins with this. Raises LatentmemError."""
        if self.has(memory_id):
            return memory_id
        prefix = str(memory_id).strip()
        found = self._beginning(prefix)
        if len(found) == 1:
            return found[0]
        if found:
            raise LatentmemError(
                f"{prefix[:40]!r} begins the ids of several memories: write {' or '.join(found)}."
            )
        raise LatentmemError(
            f"There is no memory {str(memory_id)[:40]!r}: `latentmem memories` lists the ids."
        )

    def _beginning(self, prefix: str) -> list[str]:
        """Up to four ids, in order, that begin with this prefix if it is long enough."""
        if len(prefix) < MIN_PREFIX or len(prefix) > 40 or not prefix.isascii():
            return []
        with self.reading() as db:
            rows = db.execute(
                "SELECT id FROM memories WHERE id >= ? AND id < ? ORDER BY id LIMIT 4",
                (prefix, prefix + "\x7f"),
            ).fetchall()
        return [row[0] for row in rows]

    # -------------------------------------------------------------- memories as bytes
    def ids(self) -> list[str]:
        with self.reading() as db:
            return [row[0] for row in db.execute("SELECT id FROM memories ORDER BY id").fetchall()]

    def packed(self, memory_id: str) -> serialization.Packed:
        """The bytes of a memory. Raises LatentmemError naming the memory if a checksum is wrong."""
        with self.reading() as db:
            try:
                row = db.execute("SELECT * FROM memories WHERE id = ?", (memory_id,)).fetchone()
                if row is None:
                    raise LatentmemError(
                        f"There is no memory {memory_id}: it was deleted meanwhile."
                    )
                parts, keys = (
                    db.execute(
                        f"SELECT {name}, bytes, sha256 FROM {table} WHERE seq = ?", (row["seq"],)
                    ).fetchall()
                    for table, name in (("parts", "part"), ("keys", "kind"))
                )
            except sqlite3.DatabaseError as e:
                if not is_damage(e):
                    raise
                raise LatentmemError(
                    f"Memory {memory_id} is damaged ({brief(e)}): {AGAIN}."
                ) from None
        whole_parts, whole_keys = (
            {
                name: data
                for name, data, checksum in rows
                if bound(memory_id, name, data) == checksum
            }
            for rows in (parts, keys)
        )
        expected = (*serialization.PARTS, *filter(None, str(row["keys"]).split(",")))
        damaged = [name for name in expected if name not in whole_parts | whole_keys]
        damaged += [] if serialization.row_is_whole(row) else ["entry"]
        if damaged or len(parts) + len(keys) != len(expected):
            raise LatentmemError(
                f"Memory {memory_id} is damaged (its {(damaged or ['number of parts'])[0]} is "
                f"missing or does not match its checksum): {AGAIN}."
            )
        return serialization.Packed(memory_id, whole_parts, whole_keys, row["digest"])

    def soft_prompts(self, after: int, count: int) -> list[Any]:
        """(seq, memory id, bytes, sha256) of the next soft prompts in the order of storing."""
        with self.reading() as db:
            return db.execute(
                "SELECT p.seq, m.id, p.bytes, p.sha256 FROM parts p JOIN memories m ON m.seq = "
                "p.seq WHERE p.part = 'soft_prompt' AND p.seq > ? ORDER BY p.seq LIMIT ?",
                (after, count),
            ).fetchall()

    def add(
        self, batch: Sequence[tuple[serialization.Packed, Memory]], imported: bool = False
    ) -> tuple[int, list[tuple[serialization.Packed, Memory]]]:
        """Add the memories that are not there yet, in one transaction; returns how many, and those
        that differ from the one with their id in the bank, which stays. That one was `imported` is
        an event."""
        with self.writing() as db:
            added = [packed.id for packed, memory in batch if _insert(db, packed, memory)]
            if imported:
                insert_events(db, stamped([Event(ident, "imported") for ident in added]))
            self.writes += 1
            there = [_digest(db, packed.id) for packed, _ in batch]
        return len(added), [b for b, d in zip(batch, there, strict=True) if b[0].digest != d]

    def delete(self, memory_id: str) -> None:
        with self.writing() as db:
            db.execute("DELETE FROM memories WHERE id = ?", (self.resolve(memory_id),))
            self.writes += 1

    # -------------------------------------------------------------- events
    def add_event(self, event: Event) -> Event:
        """Append one event; a missing id or time is filled in."""
        with self.writing() as db:
            ident = self.resolve(event.memory_id)
            if event.kind == "released" and (why := shut(db).get(ident)):
                raise LatentmemError(f"Memory {ident} cannot be released. {why}")
            (event,) = stamped(
                [replace(event, memory_id=ident, detail=dict(event.detail))],
                partial(_overridden, db),
            )
            _, refused = insert_events(db, [event])
            if refused:
                raise LatentmemError(refused[0])
            self.writes += event.kind in COUNTED
        return event

    def add_new(self, batch: Sequence[Event]) -> None:
        """Append new events in one transaction, all or none."""
        if not batch:
            return
        with self.writing() as db:
            self.writes += 1
            whole = stamped(batch, partial(_overridden, db))
            added, refused = insert_events(db, whole)
            if added < len(whole):
                raise LatentmemError(
                    refused[0] if refused else "An event was there already: nothing was recorded."
                )

    def add_events(
        self, batch: Iterable[Event], decided: Container[str] = ()
    ) -> tuple[int, list[str]]:
        """Add the complete events that are not there yet; returns how many, and what was refused:
        also new STATE_KINDS of the `decided` memories."""
        with self.writing() as db:
            self.writes += 1
            return insert_events(db, batch, decided)

    def decided(self) -> set[str]:
        """The memories whose state is this bank's own: those that it learnt, and imported ones that
        it trusts, or put into quarantine or released."""
        with self.reading() as db:
            rows = db.execute(
                f"""SELECT id FROM memories EXCEPT
                    SELECT memory_id FROM events WHERE kind = 'imported' AND memory_id NOT IN (
                      SELECT memory_id FROM events WHERE kind IN {(*STATE_KINDS, "trusted")})"""
            ).fetchall()
        return {row[0] for row in rows}

    def events(self, chosen: dict[str, str], limit: int = -1) -> list[Event]:
        """Events whose columns have these values, newest first. Damaged ones are left out: `verify`
        names them."""
        where = " AND ".join(f"{column} = ?" for column in chosen) or "1"
        with self.reading() as db:
            rows = db.execute(
                f"SELECT * FROM events WHERE {where} ORDER BY at DESC, id DESC LIMIT ?",
                [*chosen.values(), limit],
            ).fetchall()
        return [serialization.event_of(row) for row in rows if serialization.event_is_whole(row)]


def check_event(event: Event) -> None:
    """Raises LatentmemError for an event that a bank refuses."""
    if event.kind not in get_args(EventKind):
        kinds = ", ".join(get_args(EventKind))
        raise LatentmemError(f"There is no kind of event {str(event.kind)[:40]!r}: use {kinds}.")
    if len(event.id) > 100 or not event.id.isprintable():
        raise LatentmemError(
            f"The event id {event.id[:40]!r} does not fit: use up to 100 printable characters."
        )
    serialization.check_plain(event.detail, "The event's detail")
    # Half a surrogate pair or NaN here would stop a whole transaction later.
    whole = serialization.dump(
        [event.memory_id, event.problem_id, event.receipt_id, event.created, dict(event.detail)],
        "The event",
    )
    if len(whole) > MOST_EVENT:
        raise LatentmemError(
            f"The event has {len(whole)} bytes and the limit is {MOST_EVENT}: shorten its text."
        )
    # The newest event decides whether a memory is in quarantine or has a tag: an event from the
    # future would override all others until then.
    if event.created and serialization.stamp(event.created) > serialization.now() + 86_400_000_000:
        raise LatentmemError(
            f"The event of {event.created} lies in the future, from where it would "
            "override all later ones: set the clock that wrote it."
        )


def stamped(
    events: Sequence[Event], overridden: Callable[[Event], int] = lambda event: 0
) -> list[Event]:
    """New events, checked, with ids and times. The times keep their order and come after what the
    events override, even if the clock was set back or another clock was ahead."""
    at = serialization.now()
    for event in events:
        check_event(event)
    return [
        replace(
            e,
            id=e.id or "e" + uuid4().hex,
            created=e.created or serialization.iso(max(at, overridden(e) + 1) + i),
        )
        for i, e in enumerate(events)
    ]


def data_version(db: sqlite3.Connection) -> int:
    """Changes when another connection writes to the file."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def _has(db: sqlite3.Connection, table: str, ident: str) -> bool:
    return db.execute(f"SELECT 1 FROM {table} WHERE id = ?", (ident,)).fetchone() is not None


def _digest(db: sqlite3.Connection, ident: str) -> str:
    return str(db.execute("SELECT digest FROM memories WHERE id = ?", (ident,)).fetchone()[0])


def _insert(db: sqlite3.Connection, packed: serialization.Packed, memory: Memory) -> bool:
    if _has(db, "memories", packed.id):
        return False
    at = serialization.stamp(memory.created) if memory.created else serialization.now()
    row = serialization.checked(serialization.row_of(memory, at, packed.digest), states=0)
    seq = db.execute(insert_sql("memories", list(row)), list(row.values())).lastrowid
    db.executemany(
        insert_sql("parts", ["seq", "part", "bytes", "sha256"]),
        [(seq, part, data, bound(packed.id, part, data)) for part, data in packed.parts.items()],
    )
    db.executemany(
        insert_sql("keys", ["kind", "seq", "bytes", "sha256"]),
        [(kind, seq, data, bound(packed.id, kind, data)) for kind, data in packed.keys.items()],
    )
    return True


def insert_events(
    db: sqlite3.Connection, batch: Iterable[Event], decided: Container[str] = ()
) -> tuple[int, list[str]]:
    """Within a transaction, add the complete events that are not there yet; returns how many, and
    what was refused. See `Store.add_events`."""
    added, orphans, others, refused = 0, Counter[str](), Counter[str](), []
    for event in batch:
        row = serialization.event_row(event)
        known = db.execute("SELECT sha256 FROM events WHERE id = ?", (event.id,)).fetchone()
        if known is not None:
            if known[0] != row["sha256"]:
                refused.append(
                    f"Event {event.id} differs from the one with this id in the bank: it was not "
                    "added."
                )
        elif not _has(db, "memories", event.memory_id):
            orphans[event.memory_id] += 1
        elif event.kind in STATE_KINDS and event.memory_id in decided:
            others[event.memory_id] += 1
        elif event.kind in COUNTED and not _counted(db, event.memory_id):
            refused.append(f"The entry of memory {event.memory_id} is damaged: {AGAIN}.")
        else:
            db.execute(insert_sql("events", list(row)), list(row.values()))
            added += 1
    refused += [
        f"{count} events belong to memory {ident[:40]!r}, which the bank does not have: they were "
        "not added."
        for ident, count in orphans.items()
    ]
    refused += [
        f"{count} events put memory {ident} into quarantine or release it, which for a memory that "
        "was here only this bank says: they were not added."
        for ident, count in others.items()
    ]
    return added, refused


def _counted(db: sqlite3.Connection, ident: str) -> bool:
    """Count one more event in a memory's entry. False if that is damaged."""
    row = db.execute("SELECT * FROM memories WHERE id = ?", (ident,)).fetchone()
    if not serialization.row_is_whole(row):
        return False
    entry = serialization.checked(row, row["states"] + 1)
    db.execute(
        "UPDATE memories SET states = ?, sha256 = ? WHERE id = ?",
        (entry["states"], entry["sha256"], ident),
    )
    return True


def shut(db: sqlite3.Connection) -> dict[str, str]:
    """Id of each memory that is not to be used -> why, "" for one that is in quarantine.

    The last of STATE_KINDS decides; ties by event id, so that every merged copy of a bank agrees.
    Each memory's entry counts its events of COUNTED kinds: fewer whole ones mean damage.
    """
    ids = db.execute(
        f"SELECT id FROM memories WHERE states > 0 UNION "
        f"SELECT memory_id FROM events WHERE kind IN {STATE_KINDS}"
    ).fetchall()
    found = {}
    for (ident,) in ids:
        rows: list[Any] = db.execute(
            f"""SELECT m.states, e.* FROM memories m
                LEFT JOIN events e ON e.memory_id = m.id AND e.kind IN {COUNTED}
                WHERE m.id = ? ORDER BY e.at, e.id""",
            (ident,),
        ).fetchall()
        kinds = [row["kind"] for row in rows if serialization.event_is_whole(row)]
        if not rows or len(kinds) != rows[0]["states"]:  # no rows: an index lost the entry
            found[ident] = UNSURE
        elif [kind for kind in kinds if kind in STATE_KINDS][-1:] == [STATE_KINDS[0]]:
            found[ident] = ""
    return found


def _overridden(db: sqlite3.Connection, event: Event) -> int:
    """The time of the newest event that this one overrides; 0 if it overrides none."""
    kinds = next((kinds for kinds in LAST_COUNTS if event.kind in kinds), None)
    if kinds is None:
        return 0
    places = ", ".join("?" * len(kinds))
    sql = f"SELECT MAX(at) FROM events WHERE memory_id = ? AND kind IN ({places})"
    return db.execute(sql, (event.memory_id, *kinds)).fetchone()[0] or 0


# ---------- Is a bank whole? The file, every checksum, id, entry, receipt and reference.


@dataclass(frozen=True, slots=True)
class VerifyReport:
    memories: int
    events: int
    receipts: int
    problems: list[str]  # one sentence each; empty: the bank is whole


def verify(store: Store) -> VerifyReport:
    """Read everything and collect the problems, so that one damaged memory does not hide the next.
    It holds no long lock: what another process deletes meanwhile is not a problem."""
    problems: list[str] = []
    with store.reading() as db:
        memories = _seqs(db, "memories", problems)
        events = _seqs(db, "events", problems)
        receipts = _seqs(db, "receipts", problems)
        for check in (
            _file(db),
            _references(db),
            _states(db),
            *(_memory(store, db, seq) for seq in memories),
            *(_event(db, seq) for seq in events),
            *(_receipt(db, seq) for seq in receipts),
        ):
            with _noted("A page of the file", problems):
                problems.extend(check)
    return VerifyReport(len(memories), len(events), len(receipts), list(dict.fromkeys(problems)))


@contextmanager
def _noted(what: str, problems: list[str]) -> Iterator[None]:
    """A damaged page becomes one of the problems."""
    try:
        yield
    except sqlite3.DatabaseError as e:
        if not is_damage(e):
            raise
        problems.append(
            f"{what} is damaged ({brief(e)}): save what is whole into a new bank with `latentmem "
            "repair`."
        )


def _seqs(db: sqlite3.Connection, table: str, problems: list[str]) -> list[int]:
    with _noted(f"The table of {table}", problems):
        return [row[0] for row in db.execute(f"SELECT seq FROM {table} ORDER BY seq").fetchall()]
    return []


def _file(db: sqlite3.Connection) -> Iterator[str]:
    for row in db.execute("PRAGMA integrity_check").fetchall():
        if row[0] != "ok":
            yield f"SQLite finds the file damaged: {row[0]}."


def _references(db: sqlite3.Connection) -> Iterator[str]:
    for table, rowid, _, _ in db.execute("PRAGMA foreign_key_check").fetchall():
        if table == "events":
            event = db.execute(
                "SELECT id, memory_id FROM events WHERE seq = ?", (rowid,)
            ).fetchone()
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
        packed = store.packed(ident)
        memory = serialization.unpack(packed)
        at = serialization.stamp(memory.created) if memory.created else row["at"]
        if serialization.row_of(memory, at, packed.digest).items() - dict(row).items():
            raise LatentmemError(f"The entry of memory {ident} is not that of its record: {AGAIN}.")
    except LatentmemError as e:
        if not _gone(db, seq):  # its parts were read one after the other
            yield str(e)


def _states(db: sqlite3.Connection) -> Iterator[str]:
    for ident, why in shut(db).items():
        if why:
            yield f"Memory {ident}: {why}"


def _gone(db: sqlite3.Connection, seq: int) -> bool:
    """Whether a memory was deleted meanwhile; a damaged page says nothing about that."""
    with _noted("", []):
        return db.execute("SELECT 1 FROM memories WHERE seq = ?", (seq,)).fetchone() is None
    return False


def _event(db: sqlite3.Connection, seq: int) -> Iterator[str]:
    row = db.execute("SELECT * FROM events WHERE seq = ?", (seq,)).fetchone()
    if row is not None and not serialization.event_is_whole(row):
        yield f"Event {row['id']} is damaged: its checksum does not match."


def _receipt(db: sqlite3.Connection, seq: int) -> Iterator[str]:
    row = db.execute("SELECT * FROM receipts WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return
    try:
        receipt = serialization.receipt_of(row)
    except LatentmemError as e:
        yield str(e)
        return
    for column, value in (
        ("id", receipt.id),
        ("problem", receipt.problem.text),
        ("size", len(row["body"].encode())),
    ):
        if row[column] != value:
            yield (
                f"The entry of receipt {row['id']} says {column} = {str(row[column])[:40]!r}, its "
                f"record says {str(value)[:40]!r}."
            )
