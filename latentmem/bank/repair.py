"""Copies of a bank: `backup`, of one that may be in use, and `repair`, which saves from a damaged
one what is whole. Both are generators of Status and end with a report; neither changes the bank."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event as Flag
from threading import Thread
from typing import Any, get_args

from ..files import file_errors, replacing
from ..records import Event, EventKind, LatentmemError, Memory, Status
from . import serialization
from .database import Store
from .schema import connect, insert_sql, place, reader, sentences
from .serialization import PARTS, Packed, bound, sha256
from .upgrade import COUNTED

PAGES = 256  # copied at a time; others may write in between
PAGE = 4096
BATCH = 64
TABLES = (("memories", "id"), ("parts", "part"), ("keys", "kind"), ("events", "kind"))
GAP = 20_000  # numbers without a row after which a table whose end is damaged is at its end
ROOM = "choose another place or free some space"


@dataclass(frozen=True, slots=True)
class BackupReport:
    copy: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RepairReport:
    memories: int
    events: int
    receipts: int
    lost: list[str]  # one sentence each; empty: nothing was lost


def _fresh(path: str | Path) -> Path:
    """Where a new file may be made. Raises LatentmemError if something is there."""
    new = Path(place(path))
    if new.exists():
        raise LatentmemError(f"{new} is there already and is not replaced: give another name.")
    with file_errors(new, "written", ROOM):
        new.parent.mkdir(parents=True, exist_ok=True)
    return new


# ------------------------------------------------------------------ backup
def backup(bank: str | Path, copy: str | Path) -> Iterator[Status | BackupReport]:
    """Copy a bank page by page (SQLite's online backup), as it is at one moment, while others may
    use it. Raises LatentmemError; then there is no copy."""
    path, new = place(bank), _fresh(copy)
    told: SimpleQueue[tuple[int, int] | BaseException | None] = SimpleQueue()
    stopped = Flag()

    def tell(_: int, left: int, pages: int) -> None:
        if stopped.is_set():
            raise InterruptedError
        told.put((pages - left, pages))

    def work() -> None:
        try:
            source.backup(target, pages=PAGES, progress=tell)
            told.put(None)
        except BaseException as e:
            told.put(e)

    with (
        sentences(path),
        file_errors(new, "written", ROOM),
        replacing(new) as part,
        closing(reader(path)) as source,
        closing(sqlite3.connect(part, check_same_thread=False)) as target,
    ):
        thread = Thread(target=work)
        thread.start()
        try:
            while (seen := told.get()) is not None:
                if isinstance(seen, BaseException):
                    raise seen
                yield Status(f"copying {path}, pages", *seen)
        finally:
            stopped.set()
            thread.join()
        shutil.copymode(path, part)
    yield BackupReport(str(new), new.stat().st_size)


# ------------------------------------------------------------------ repair
def repair(bank: str | Path, new: str | Path) -> Iterator[Status | RepairReport]:
    """Save what is whole in a damaged bank into a new one. Works on a copy; no process may write to
    the bank meanwhile. Raises LatentmemError if nothing can be read, or the new bank not be
    written; then there is none."""
    path, target = place(bank), _fresh(new)
    with (
        file_errors(target, "written", ROOM),
        TemporaryDirectory(dir=target.parent, prefix=".repair") as folder,
        replacing(target) as part,
    ):
        yield Status(f"copying {path}")
        with (
            closing(_readable(path, Path(folder))) as db,
            closing(Store(str(part), False)) as store,
        ):
            rescue = _Rescue(db, store)
            yield from rescue.memories()
            yield from rescue.events()
            rescue.states()
            yield from rescue.receipts()
        shutil.copymode(path, part)
    yield rescue.report()


def _readable(path: str, folder: Path) -> sqlite3.Connection:
    """A copy of the bank, with what a killed process left beside it, in which the tables can be
    read. Raises LatentmemError."""
    copy = folder / "bank.sqlite"
    try:
        for end in ("", "-journal", "-wal"):
            if not end or Path(path + end).exists():
                shutil.copy(path + end, f"{copy}{end}")
    except OSError as e:
        raise LatentmemError(
            f"{path} cannot be read ({e.strerror or e}): check the path."
        ) from None
    for first_page in (False, True):
        if first_page:
            _new_first_page(copy, folder / "fresh.sqlite")
        db = sqlite3.connect(copy)
        db.row_factory = sqlite3.Row
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            for table, column in TABLES:
                db.execute(f"EXPLAIN SELECT seq, {column} FROM {table}").fetchall()
            return db
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            db.close()
    raise LatentmemError(f"{path} is no latentmem bank, or nothing in it can be read.")


def _new_first_page(copy: Path, fresh: Path) -> None:
    """Put the first page of an empty bank in place of that of a copy. It holds the header, the
    definitions and where each table begins, which is the same in every bank."""
    connect(str(fresh), read_only=False).close()
    page = bytearray(fresh.read_bytes()[:PAGE])
    pages = -(-copy.stat().st_size // PAGE)
    page[28:32], page[32:40] = pages.to_bytes(4, "big"), bytes(8)  # size; no free pages
    for end in ("-journal", "-wal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
    data = copy.read_bytes()
    copy.write_bytes(page + data[PAGE:])


@dataclass
class _Rescue:
    """What is read from `db`, goes into `store`, and is lost."""

    db: sqlite3.Connection
    store: Store
    lost: list[str] = field(default_factory=list)
    saved: dict[str, int | None] = field(default_factory=dict)  # id -> states, None: not known
    whole: Counter[str] = field(default_factory=Counter)  # of events that are COUNTED
    doubtful: set[str] = field(default_factory=set)  # memories that may have lost such an event
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self, table: str, columns: str = "*") -> Iterator[dict[str, Any]]:
        """The rows that can be read, each by its number: no index is asked, and a damaged page
        costs the rows on it."""
        first, last = self._end("MIN", table) or 1, self._end("MAX", table)
        seen = missing = 0
        for number in count(first):
            if number > (max(seen, first) + GAP if last is None else last):
                break
            row = self.row(table, number, columns)
            missing += row is None
            if row:
                seen = number
                yield row
        if missing:
            self.lost.append(f"Some rows of the table of {table} cannot be read.")

    def row(self, table: str, number: int, columns: str = "*") -> dict[str, Any] | None:
        """A row, {} where there is none, None where it cannot be read."""
        sql = f"SELECT rowid AS number, {columns} FROM {table} WHERE rowid = ?"
        try:
            row = self.db.execute(sql, (number,)).fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return None
        return dict(row) if row else {}

    def _end(self, which: str, table: str) -> int | None:
        """The first or last number of a table, None where that page is damaged."""
        try:
            return self.db.execute(f"SELECT {which}(rowid) FROM {table}").fetchone()[0] or 0
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return None

    def memories(self) -> Iterator[Status]:
        entries = {row["seq"]: row for row in self.rows("memories")}
        places: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
        for table, name in (("parts", "part"), ("keys", "kind")):
            for row in self.rows(table, f"seq, {name} AS name"):
                places[row["seq"]].append((table, row["name"], row["number"]))
        batch = []
        numbers = sorted({*entries, *places})
        for done, seq in enumerate(numbers, 1):
            if found := self._memory(seq, entries.get(seq, {}), places[seq]):
                batch.append(found)
            if len(batch) == BATCH or (batch and done == len(numbers)):
                self.counts["memories"] += self.store.add(batch)[0]
                batch = []
            yield Status("saving memories", done, len(numbers))

    def _memory(
        self, seq: int, entry: dict[str, Any], places: list[tuple[str, str, int]]
    ) -> tuple[Packed, Memory] | None:
        """The memory of one number. Its traces, its curve or one of two keys may be lost; then that
        is told."""
        rows = {
            name: (row["bytes"], row["sha256"])
            for table, name, number in places
            if (row := self.row(table, number))
        }
        title = f"Memory {entry['id']} (“{entry['name']}”)" if entry else f"The memory {seq}"
        found = self._read(seq, rows)
        if found is None:
            self.lost.append(f"{title} is lost: its record, soft prompt or keys are not whole.")
            return None
        memory, without = found
        whole = "sha256" in entry and serialization.row_is_whole(entry)
        kinds = entry["keys"].split(",") if whole else []
        without += [f"{kind} key" for kind in kinds if kind not in memory.keys]
        title = f"Memory {memory.id} (“{memory.name}”)"
        if without := list(dict.fromkeys(without)):
            self.lost.append(f"{title} is saved without its {' and its '.join(without)}.")
        packed = serialization.pack(memory)
        if whole and not without and entry["digest"] != packed.digest:
            self.lost.append(f"{title} is lost: it is not what its digest says.")
            return None
        self.saved[memory.id] = entry["states"] if whole else None
        return packed, memory

    def _read(
        self, seq: int, rows: dict[str, tuple[bytes, str]]
    ) -> tuple[Memory, list[str]] | None:
        """The memory in these rows, and what of it is not whole. An older bank's checksums name no
        memory."""
        try:
            parts = {p: rows[p][0] for p in ("record", "soft_prompt")} | dict.fromkeys(
                ("traces", "steps"), b"[]"
            )
            ident = serialization.read(Packed(str(seq), parts, {})).id
            good = {
                name: data
                for name, (data, checksum) in rows.items()
                if isinstance(data, bytes) and checksum in (bound(ident, name, data), sha256(data))
            }
            keys = {name: good[name] for name in good if name in serialization.KEY_DTYPE}
            kept = parts | {name: good[name] for name in good if name in PARTS}
            if not {"record", "soft_prompt"} <= good.keys():
                return None
            memory = serialization.unpack(Packed(ident, kept, keys))
        except (LatentmemError, KeyError):
            return None
        words = {"traces": "traces", "steps": "curve", "input": "input key", "kv": "kv key"}
        there = {"traces", "steps", *rows}
        return memory, [word for name, word in words.items() if name in there - good.keys()]

    def events(self) -> Iterator[Status]:
        others: Any = set(get_args(EventKind)) - set(COUNTED)
        batch: list[Event] = []
        lost: Counter[str] = Counter()
        last, before = self._end("MAX", "events") or 0, len(self.lost)
        for row in self.rows("events"):
            if serialization.event_is_whole(row) and row["memory_id"] in self.saved:
                batch.append(serialization.event_of(row))
                self.whole[row["memory_id"]] += row["kind"] in COUNTED
            else:
                lost[str(row["memory_id"])] += 1
                self.doubtful |= set() if row["kind"] in others else {row["memory_id"]}
            if len(batch) == BATCH:
                self._add(batch)
                batch = []
                yield Status("saving events", row["number"], last)
        self._add(batch)
        if len(self.lost) > before:  # rows that cannot be read: of any memory
            self.doubtful |= self.saved.keys()
        self.lost += [f"{n} events of memory {ident[:40]} are lost." for ident, n in lost.items()]

    def _add(self, batch: list[Event]) -> None:
        added, refused = self.store.add_events(batch)
        self.counts["events"] += added
        self.lost += refused

    def states(self) -> None:
        """Quarantine each memory of which it cannot be said whether it was in quarantine or on
        probation."""
        for ident, states in self.saved.items():
            if ident in self.doubtful if states is None else states != self.whole[ident]:
                why = (
                    "repair: events that say whether it was in quarantine or on probation are lost"
                )
                self.store.add_event(Event(ident, "quarantined", detail={"reason": why}))
                self.lost.append(
                    f"Memory {ident} is put in quarantine: events that say whether it was there "
                    "or on probation are lost."
                )

    def receipts(self) -> Iterator[Status]:
        try:
            self.db.execute("SELECT body FROM receipts WHERE rowid = 0")
        except sqlite3.DatabaseError:  # version 1 has none
            return
        with self.store.writing() as db:
            for row in self.rows("receipts"):
                try:
                    whole = serialization.receipt_row(serialization.receipt_of(row))
                except LatentmemError as e:
                    self.lost.append(str(e))
                    continue
                db.execute(insert_sql("receipts", list(whole)), list(whole.values()))
                self.counts["receipts"] += 1
        yield Status("saving receipts", self.counts["receipts"], self.counts["receipts"])

    def report(self) -> RepairReport:
        c = self.counts
        return RepairReport(c["memories"], c["events"], c["receipts"], self.lost)
