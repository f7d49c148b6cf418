"""The bank: one SQLite file that keeps memories, finds them by their keys, and counts how they were
used.

Around this file: `schema` (tables, opening, errors), `database` (transactions, rows, `verify`),
`serialization` (a Memory as bytes), `key_index` (search), `archive` (the shared form).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..records import Event, Hit, KeyKind, LatentmemError, Memory, MemoryInfo, Receipt
from . import archive, database, key_index, peft, serialization
from .archive import ExportReport, ImportReport
from .database import AGAIN, Store, VerifyReport, insert_events, stamped
from .interface import MemoryBank
from .key_index import OtherKeys
from .schema import info_of, infos_sql, insert_sql, place
from .upgrade import COUNTED

MOST = 2000  # receipts in a bank
ROOM = 32 << 10  # mean bytes of a receipt; one of two times eight rollouts takes about 6,000
# Keep the newest, as many as their number and their bytes allow.
PRUNE = """DELETE FROM receipts WHERE seq <= (
  SELECT MAX(seq) FROM (
    SELECT seq, ROW_NUMBER() OVER newest AS n, SUM(size) OVER newest AS bytes
    FROM receipts WINDOW newest AS (ORDER BY seq DESC)) WHERE n > ? OR bytes > ?)"""
OF_MEMORY = "WHERE id IN (SELECT receipt_id FROM events WHERE memory_id = ?)"
__all__ = ["Bank", "ExportReport", "ImportReport", "OtherKeys", "VerifyReport"]

KEYS_SQL = """SELECT m.*, k.bytes AS key, k.sha256 AS key_sha256
              FROM keys k JOIN memories m ON m.seq = k.seq
              WHERE k.kind = ? AND k.seq > ? ORDER BY k.seq"""
FETCH = 1024  # keys read at a time
PROMPTS = 64  # soft prompts read while the lock is held


class Bank(MemoryBank):
    """Memories in one SQLite file, or in RAM (":memory:"). A context manager; any thread may use
    it.

    When `put`, `record` or `keep_receipt` returns, the data is on the disk. Several processes may
    use one file; a process that forked must open it again. An id may be shortened to its first
    characters, from 4 on, if no other id begins with them. Every error that a user can cause is a
    LatentmemError.
    """

    def __init__(
        self, path: str | Path = ":memory:", *, read_only: bool = False, most_receipts: int = MOST
    ) -> None:
        self.path = ":memory:" if str(path) == ":memory:" else place(path)
        self.read_only, self.most_receipts = read_only, most_receipts
        self._store = Store(self.path, read_only)
        self._indices: dict[str, key_index.KeyIndex] = {}
        self._views: dict[str, tuple[tuple[int, int], dict[int, key_index.View]]] = {}

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._store.close()

    # -------------------------------------------------------------- memories
    def put(self, memory: Memory) -> str:
        """Keep a memory and return its id once it is on the disk. Keeping the same id again changes
        nothing.

        Refuses NaN, wrong shapes, keys that are not unit vectors, and values that JSON cannot hold.
        """
        (ident,) = self.put_all([memory])
        return ident

    def put_all(self, memories: Sequence[Memory]) -> list[str]:
        """Keep several memories in one transaction, all or none. Returns their ids."""
        packed = [serialization.pack(memory) for memory in memories]
        self._store.add(list(zip(packed, memories, strict=True)))
        return [one.id for one in packed]

    def get(self, memory_id: str) -> Memory:
        """The memory as it was put (kv keys rounded to float16). Checks its id and every
        checksum."""
        return serialization.unpack(self._store.packed(self._store.resolve(memory_id)))

    def delete(self, memory_id: str) -> None:
        """Remove a memory and its events for good; receipts stay (see `forget`). Importing an
        archive brings it back."""
        self._store.delete(memory_id)

    def __contains__(self, memory_id: object) -> bool:
        """Whether a memory has exactly this id."""
        return self._store.has(memory_id)

    def __len__(self) -> int:
        with self._store.reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM memories").fetchone()[0])

    @property
    def untouched(self) -> bool:
        """Whether no memory was ever kept here, not even one that was deleted since."""
        with self._store.reading() as db:
            return (
                db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'memories'").fetchone()
                is None
            )

    def info(self, memory_id: str) -> MemoryInfo:
        """One row of the table."""
        ident = self._store.resolve(memory_id)
        rows = self._infos(["m.id = ?"], [ident], 1)
        if not rows:
            raise LatentmemError(f"The entry of memory {ident} is damaged: {AGAIN}.")
        return rows[0]

    def infos(
        self,
        *,
        source: str | None = None,
        model: str | None = None,
        quarantined: bool | None = None,
        limit: int | None = None,
        text: str | None = None,
    ) -> list[MemoryInfo]:
        """Rows of the table, newest first. `text` is searched in the problem, the label and the id,
        ignoring case."""
        where: list[str] = []
        values: list[Any] = []
        for condition, value in (
            ("m.source = ?", source),
            ("m.model = ?", model),
            (
                "instr(casefold(m.problem_text || char(10) || COALESCE(m.label, '') || char(10) "
                "|| m.id), ?) > 0",
                text.casefold() if text else None,
            ),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        return self._infos(where, values, limit, quarantined)

    # -------------------------------------------------------------- search
    def search(
        self,
        key: np.ndarray,
        *,
        kind: KeyKind = "input",
        k: int = 1,
        model: str | None = None,
        source: str | None = None,
        exclude: Collection[str] = (),
        include_quarantined: bool = False,
    ) -> tuple[Hit, ...]:
        """The k memories whose key is most similar (cosine) to key [d], best first, ties by id.
        Exact.

        `model`: only memories made by the model of this fingerprint; `source`: only those of this
        data set; `exclude`: ids to leave out. Raises OtherKeys when all keys that it could find
        have another length.
        """
        query = key_index.check_query(key, k)
        codes, views = self._search_views(kind)
        masks = {
            dim: key_index.allowed(
                view,
                codes,
                model=model,
                source=source,
                exclude=exclude,
                include_quarantined=include_quarantined,
            )
            for dim, view in views.items()
        }
        if query.size in views:
            return key_index.nearest(views[query.size], query, k, masks[query.size])
        others = [dim for dim, mask in masks.items() if mask.any()]
        if others:
            raise OtherKeys(
                f"The search key has {query.size} numbers, but the {kind} keys of the bank have "
                f"{others[0]}: use the embedder or model that made them."
            )
        return ()

    def keys(
        self, kind: KeyKind, *, model: str | None = None, include_quarantined: bool = False
    ) -> tuple[list[str], np.ndarray]:
        """All ids and their keys [n, d] float32, unit rows, in the order of storing; [0, 0] without
        any."""
        codes, views = self._search_views(kind)
        found = {}
        for dim, view in views.items():
            mask = key_index.allowed(
                view,
                codes,
                model=model,
                source=None,
                exclude=(),
                include_quarantined=include_quarantined,
            )
            if mask.any():
                found[dim] = [view.ids[row] for row in np.flatnonzero(mask)], view.matrix[mask]
        if len(found) > 1:
            raise LatentmemError(
                f"The {kind} keys of the bank have different lengths ({sorted(found)}), so they "
                "cannot be compared: choose one model."
            )
        return next(iter(found.values()), ([], np.empty((0, 0), np.float32)))

    # -------------------------------------------------------------- events
    def record(self, event: Event) -> Event:
        """Append an event and return it with its id and time once it is on the disk."""
        return self._store.add_event(event)

    def record_all(self, events: Sequence[Event]) -> None:
        """Append several events, all or none; they are on the disk when this returns."""
        self._store.add_new(events)

    def events(
        self,
        memory_id: str | None = None,
        *,
        kind: str | None = None,
        receipt_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events, newest first. Damaged ones are left out: `verify` names them."""
        ident = self._store.resolve(memory_id) if memory_id is not None else None
        chosen = {"memory_id": ident, "kind": kind, "receipt_id": receipt_id}
        return self._store.events(
            {c: v for c, v in chosen.items() if v is not None},
            -1 if limit is None else max(limit, 0),
        )

    # -------------------------------------------------------------- receipts
    def keep_receipt(self, receipt: Receipt, events: Sequence[Event] = ()) -> None:
        """Keep the receipt of an answer and its events, all or nothing, and drop the oldest
        receipts beyond `most_receipts`.

        A receipt whose id is there already is not replaced. Events of a memory that was deleted
        meanwhile are left out.
        """
        row, batch = serialization.receipt_row(receipt), stamped(events)
        with self._store.writing() as db:
            if db.execute("SELECT 1 FROM receipts WHERE id = ?", (receipt.id,)).fetchone() is None:
                db.execute(insert_sql("receipts", list(row)), list(row.values()))
            insert_events(db, batch)
            self._store.writes += any(event.kind in COUNTED for event in batch)
            db.execute(PRUNE, (self.most_receipts, self.most_receipts * ROOM))

    def receipt(self, receipt_id: str) -> Receipt:
        """One receipt, without token ids, its traces cut. Raises LatentmemError when it is gone or
        damaged."""
        row = None
        if isinstance(receipt_id, str) and receipt_id.isascii():
            with self._store.reading() as db:
                row = db.execute("SELECT * FROM receipts WHERE id = ?", (receipt_id,)).fetchone()
        if row is None:
            raise LatentmemError(
                f"There is no receipt {str(receipt_id)[:40]!r} here: a bank keeps those of the "
                f"newest {self.most_receipts} answers given with it, so ask the problem again for "
                "a new one."
            )
        return serialization.receipt_of(row)

    def receipts(self, memory_id: str | None = None, *, limit: int | None = None) -> list[Receipt]:
        """Receipts of all answers, or of those that a memory took part in, newest first. Damaged
        ones are left out: `verify` names them."""
        where, values = "", []
        if memory_id is not None:
            where, values = OF_MEMORY, [self._store.resolve(memory_id)]
        with self._store.reading() as db:
            rows = db.execute(
                f"SELECT * FROM receipts {where} ORDER BY seq DESC LIMIT ?",
                [*values, -1 if limit is None else max(limit, 0)],
            ).fetchall()
        found = []
        for row in rows:
            with suppress(LatentmemError):
                found.append(serialization.receipt_of(row))
        return found

    def asked(self, memory_id: str) -> dict[str, str]:
        """Receipt id -> problem of the answers that a memory took part in, newest first."""
        ident = self._store.resolve(memory_id)
        with self._store.reading() as db:
            rows = db.execute(
                f"SELECT id, problem FROM receipts {OF_MEMORY} ORDER BY seq DESC", (ident,)
            ).fetchall()
        return {row[0]: row[1] for row in rows}

    def forget(self, receipt_ids: Collection[str] | None = None) -> int:
        """Delete these receipts, or all, for good; returns how many. An unknown id raises
        LatentmemError, and nothing is deleted.

        `secure_delete` overwrites them in the file; the checkpoint removes them from the log
        beside it, too.
        """
        with self._store.writing() as db:
            if receipt_ids is None:
                gone = db.execute("DELETE FROM receipts").rowcount
            else:
                chosen = list(dict.fromkeys(receipt_ids))
                for ident in chosen:
                    if not db.execute("DELETE FROM receipts WHERE id = ?", (ident,)).rowcount:
                        raise LatentmemError(
                            f"There is no receipt {str(ident)[:40]!r} here, so none was deleted: "
                            "`latentmem receipts` lists them."
                        )
                gone = len(chosen)
        with self._store.reading() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # -------------------------------------------------------------- sharing and health
    def export_zip(
        self,
        target: str | Path | IO[bytes],
        ids: Collection[str] | None = None,
        *,
        lacking: Sequence[str] = (),
        key: Path | None = None,
    ) -> ExportReport:
        """Write memories (all, or these) and their events, but no receipts, as a zip; a damaged
        memory is left out and named. `lacking`: sentences about memories that belong in it but
        are not in this bank. `key`: the SSH private key that signs it."""
        chosen = None if ids is None else [self._store.resolve(ident) for ident in ids]
        return archive.export_zip(self._store, target, chosen, lacking, key)

    def import_zip(
        self,
        source: str | Path | IO[bytes],
        *,
        model: str | None = None,
        trusted: bool = False,
        **limits: int,
    ) -> ImportReport:
        """Add the memories and events of an exported bank that this one lacks (set union).

        `model`: refuse memories made by a model of another fingerprint. `trusted`: they are the
        caller's own, and not on probation. `limits`: `most` memories, `most_bytes`.
        """
        self._store.check_writable()
        return archive.import_zip(self._store, source, model=model, trusted=trusted, **limits)

    def export_peft(
        self, memory_id: str, folder: str | Path, *, base_model: str | None = None
    ) -> None:
        """Write the soft prompt as a PEFT adapter. `base_model`: where PEFT finds the model, else
        the model's name."""
        memory = self.get(memory_id)
        peft.save_peft(
            folder,
            memory.soft_prompt,
            base_model=base_model or memory.model_name,
            model_fingerprint=memory.model,
            init_text=str(memory.settings.get("init_text", "")),
            problem=memory.problem.text,
            digest=self.info(memory.id).digest,
        )

    def verify(self) -> VerifyReport:
        """Check the file, every checksum, every id and every reference. Each problem is one
        sentence."""
        return database.verify(self._store)

    def stats(self) -> dict[str, Any]:
        """The path, the size in bytes, the bytes that memories and events use, journal mode, SQLite
        version, and counts."""
        with self._store.reading() as db:

            def one(sql: str) -> Any:
                return db.execute(sql).fetchone()[0]

            page, pages, kept = (
                one("PRAGMA page_size"),
                one("PRAGMA page_count"),
                one("SELECT TOTAL(size) FROM receipts"),
            )
            return {
                "path": self.path,
                "bytes": pages * page,
                "used": (pages - one("PRAGMA freelist_count")) * page - int(kept),
                "journal_mode": one("PRAGMA journal_mode"),
                "sqlite": sqlite3.sqlite_version,
                "memories": len(self),
                "events": one("SELECT COUNT(*) FROM events"),
                "receipts": one("SELECT COUNT(*) FROM receipts"),
                "read_only": self.read_only,
            }

    # -------------------------------------------------------------- has anything changed
    def stamp(self) -> Hashable:
        """Changes whenever anything is written, events included, by this process or another. Takes
        microseconds."""
        with self._store.reading() as db:
            return database.data_version(db), db.total_changes

    def memories_stamp(self) -> Hashable:
        """Changes when a memory is added, deleted, quarantined or released, and now and then
        without need."""
        with self._store.reading() as db:
            return database.data_version(db), self._store.writes

    def soft_prompts(self) -> Iterator[tuple[str, np.ndarray]]:
        """(memory id, soft prompt [virtual tokens, hidden] float32) of every memory, in the order
        of storing. Damaged ones are left out: `verify` names them."""
        after = -1
        while rows := self._store.soft_prompts(after, PROMPTS):
            after = rows[-1][0]
            for _, ident, data, checksum in rows:
                prompt = serialization.read_prompt(data, checksum, ident)
                if prompt is not None:
                    yield ident, prompt

    # -------------------------------------------------------------- inside
    def _infos(
        self,
        where: list[str],
        values: list[Any],
        limit: int | None,
        quarantined: bool | None = None,
    ) -> list[MemoryInfo]:
        with self._store.reading() as db:
            closed = self._store.shut(db)
            if quarantined is not None:
                where = [*where, "(m.id IN (SELECT value FROM json_each(?))) = ?"]
                values = [*values, json.dumps(list(closed)), quarantined]
            values = [*values, -1 if limit is None else max(limit, 0)]
            rows = db.execute(infos_sql(where), values).fetchall()
        return [info for row in rows if (info := info_of(row, closed)) is not None]

    def _search_views(self, kind: str) -> tuple[dict[str, int], dict[int, key_index.View]]:
        """The keys of one kind as they are now: read once, then only what is new."""
        if kind not in serialization.KEY_DTYPE:
            raise LatentmemError(
                f"There is no kind of key {str(kind)[:40]!r}: "
                f"use {' or '.join(serialization.KEY_DTYPE)}."
            )
        with self._store.reading() as db:
            index = self._indices.setdefault(kind, key_index.KeyIndex(kind))
            now = (database.data_version(db), self._store.writes)
            seen, views = self._views.get(kind, (None, {}))
            if seen != now:
                self._catch_up(db, index)
                views = index.views()
                self._views[kind] = now, views
            return index.codes, views

    def _catch_up(self, db: sqlite3.Connection, index: key_index.KeyIndex) -> None:
        """Bring an index up to the bank: append new keys, mask deleted and quarantined ones."""
        db.execute("BEGIN")  # one state of the file for all queries
        try:
            rows = db.execute(KEYS_SQL, (index.kind, index.last_seq))
            while chunk := rows.fetchmany(FETCH):
                index.add(chunk)
            alive, of_kind = None, "FROM keys WHERE kind = ?"
            (count,) = db.execute(f"SELECT COUNT(*) {of_kind}", (index.kind,)).fetchone()
            if count != index.stored:
                found = db.execute(f"SELECT seq {of_kind}", (index.kind,)).fetchall()
                alive = {row[0] for row in found}
            index.mark(alive, self._store.shut(db))
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")  # nothing was written
