"""The SQLite side of the bank: its tables, how a file is opened, and a sentence for each of
SQLite's errors."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..records import Counters, LatentmemError, MemoryInfo, Problem
from .serialization import row_is_whole
from .upgrade import bind, keep_copy

log = logging.getLogger(__name__)
APPLICATION_ID = 0x4C4D454D  # "LMEM"
BUSY_SECONDS = 10.0

# A bank of version n has exactly the definitions of the first n steps, so a change to them is one
# more step. A new bank goes through all of them, an older one through those it lacks. `seq` is the
# order of storing; of memories and events it is never used twice, so that a reader can ask for what
# came after. `at` is `created` in microseconds since 1970: texts with different zones or precision
# do not sort.
STEPS = (
    """
CREATE TABLE memories (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  problem_id TEXT NOT NULL, problem_text TEXT NOT NULL, problem_answer TEXT, source TEXT NOT NULL,
  label TEXT, majority_ratio REAL NOT NULL, model TEXT NOT NULL, model_name TEXT NOT NULL,
  virtual_tokens INTEGER NOT NULL, hidden INTEGER NOT NULL, best_step INTEGER NOT NULL,
  created TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX memories_at ON memories (at, seq);
CREATE TABLE parts (
  seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE, part TEXT NOT NULL,
  bytes BLOB NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (seq, part));
CREATE TABLE keys (
  kind TEXT NOT NULL, seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  bytes BLOB NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (kind, seq));
CREATE INDEX keys_seq ON keys (seq);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  memory_id TEXT NOT NULL REFERENCES memories (id) ON DELETE CASCADE, kind TEXT NOT NULL,
  problem_id TEXT NOT NULL, receipt_id TEXT NOT NULL, detail TEXT NOT NULL,
  created TEXT NOT NULL, at INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE INDEX events_memory ON events (memory_id, kind);
CREATE INDEX events_receipt ON events (receipt_id);
CREATE INDEX events_at ON events (at, id);
CREATE INDEX events_state ON events (memory_id, at, id, kind)
  WHERE kind IN ('quarantined', 'released');
""",
    """
CREATE TABLE receipts (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, problem TEXT NOT NULL, size INTEGER NOT NULL,
  body TEXT NOT NULL, sha256 TEXT NOT NULL);
""",
    """
ALTER TABLE memories ADD COLUMN keys TEXT NOT NULL DEFAULT '';
ALTER TABLE memories ADD COLUMN states INTEGER NOT NULL DEFAULT 0;
ALTER TABLE memories ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE memories ADD COLUMN sha256 TEXT NOT NULL DEFAULT '';
CREATE INDEX memories_states ON memories (id, states) WHERE states > 0;
""",
)
SCHEMA_VERSION = len(STEPS)
BOUND = 3  # from this version on a checksum says to which memory a row belongs
COUNTERS = ("retrieved", "used", "agreed", "verifier_won", "helped", "hurt")


def infos_sql(where: list[str]) -> str:
    """One query for the page and the counters of its memories; parameters: those of `where`, then
    the limit."""
    condition = "WHERE " + " AND ".join(where) if where else ""
    sums = ", ".join(f"COALESCE(SUM(e.kind = '{kind}'), 0) AS n_{kind}" for kind in COUNTERS)
    return f"""
        WITH page AS (
          SELECT m.* FROM memories m {condition} ORDER BY m.at DESC, m.seq DESC LIMIT ?)
        SELECT page.*, {sums}
        FROM page LEFT JOIN events e ON e.memory_id = page.id
        GROUP BY page.seq ORDER BY page.at DESC, page.seq DESC"""


def info_of(row: Any, shut: Mapping[str, str]) -> MemoryInfo | None:
    """A row of the table, with what `database.shut` says; None when it is damaged: `verify` names
    it."""
    if not row_is_whole(row):
        return None
    known = {f.name for f in fields(MemoryInfo)} & set(row.keys())
    return MemoryInfo(
        **{name: row[name] for name in known},
        problem=Problem(
            row["problem_text"], row["problem_id"], row["problem_answer"], row["source"]
        ),
        quarantined=row["id"] in shut,
        counters=Counters(**{kind: row[f"n_{kind}"] for kind in COUNTERS}),
        shut=shut.get(row["id"], ""),
    )


def insert_sql(table: str, columns: list[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


# ------------------------------------------------------------------ errors
class NotUpToDate(LatentmemError):
    """A whole bank that must be opened for writing once before it can be read. `state` says why."""

    state = "of an older latentmem"


class Unfinished(NotUpToDate):
    state = "left in the middle of a write"


# A process was killed while it wrote: SQLite must undo or finish that, which is writing.
_UNFINISHED = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
_SENTENCES = {
    **dict.fromkeys(
        _UNFINISHED,
        "{path} was left in the middle of a write, which reading alone cannot repair: "
        "open it once where it may be written, for example with `latentmem verify`.",
    ),
    sqlite3.SQLITE_FULL: "The disk that holds {path} is full, so nothing was stored: free some "
    "space and try again.",
    sqlite3.SQLITE_BUSY: "{path} stayed locked by another process, so nothing was changed: try "
    "again in a moment.",
    sqlite3.SQLITE_LOCKED: "{path} stayed locked, so nothing was changed: try again in a moment.",
    sqlite3.SQLITE_READONLY_DBMOVED: "{path} was moved, deleted or replaced while it was open, so "
    "nothing was stored: start again, and the bank that is there now is opened.",
    sqlite3.SQLITE_READONLY: "{path} cannot be written, so nothing was stored: "
    "give write permission to the file and its folder, or choose another bank.",
    sqlite3.SQLITE_CANTOPEN: "{path} cannot be opened ({error}): choose a file in a folder you "
    "may write to.",
    sqlite3.SQLITE_NOTADB: "{path} is not a latentmem bank: choose another file.",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged ({error}): "
    "save what is whole into a new bank with `latentmem repair`.",
    sqlite3.SQLITE_IOERR: "{path} cannot be read or written ({error}): check the disk.",
    sqlite3.SQLITE_TOOBIG: "A memory is too large for {path}, so nothing was stored: use fewer "
    "virtual tokens.",
}


@contextmanager
def sentences(path: str) -> Iterator[None]:
    """Turn SQLite's errors into LatentmemError. Errors that only a bug can cause pass through."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as e:
        # sqlite3 fails to decode a message that quotes a damaged definition.
        damage = isinstance(e, UnicodeDecodeError)
        code = sqlite3.SQLITE_CORRUPT if damage else getattr(e, "sqlite_errorcode", None) or 0
        sentence = _SENTENCES.get(code) or _SENTENCES.get(code & 0xFF)
        if sentence is None:
            raise
        kind = Unfinished if code in _UNFINISHED else LatentmemError
        raise kind(sentence.format(path=path, error=brief(e))) from e


def brief(error: Exception) -> str:
    """What SQLite says, in one line: it may quote a definition of many."""
    return " ".join(str(error).split())[:120]


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a page of the file is damaged."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
    )


# ------------------------------------------------------------------ opening
def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite has the fix for the WAL-reset corruption race (3.51.3; backported to
    3.44.6 and 3.50.7)."""
    return (
        version >= (3, 51, 3)
        or (3, 50, 7) <= version < (3, 51, 0)
        or (3, 44, 6) <= version < (3, 45, 0)
    )


def connect(path: str, read_only: bool) -> sqlite3.Connection:
    """Open and check a bank; an empty file becomes one. Raises LatentmemError."""
    with sentences(path):
        db = _open(path, read_only)
        try:
            _check(db, path, read_only)
            if not read_only:
                _durable(db)
            elif path == ":memory:":
                db.execute("PRAGMA query_only = ON")
        except BaseException:
            db.close()
            raise
    return db


def place(path: str | Path) -> str:
    """The path with its `~` written out. Raises LatentmemError."""
    if "\0" in str(path):  # SQLite would open what stands before it
        raise LatentmemError(f"The bank's path {str(path)[:80]!r} holds a NUL: leave it out.")
    try:
        return str(Path(path).expanduser())
    except RuntimeError as e:
        raise LatentmemError(
            f"The bank {path} cannot be found ({e}): write the whole path."
        ) from None


def reader(path: str) -> sqlite3.Connection:
    """A bank of any version, to be copied as it is. Raises LatentmemError."""
    with sentences(path):
        db = _open(path, read_only=True)
        if _pragma(db, "application_id") == APPLICATION_ID:
            return db
        db.close()
        raise LatentmemError(f"{path} is not a latentmem bank: choose another file.")


def _address(file: Path, read_only: bool) -> str:
    """The file as SQLite's URI. Makes the folder of a file that will be written."""
    try:
        if read_only and not file.is_file():
            raise LatentmemError(
                f"There is no bank at {file}: check the path, or open it for writing to create it."
            )
        if file.is_dir():
            raise LatentmemError(
                f"{file} is a folder: name a file in it, for example {file / 'bank.sqlite'}."
            )
        if not read_only:
            file.parent.mkdir(parents=True, exist_ok=True)
        return file.absolute().as_uri() + ("?mode=rwc" if not read_only else _read_mode(file))
    except OSError as e:
        raise LatentmemError(
            f"{file} or its folder cannot be opened ({e.strerror}): choose a file in a folder you "
            "may write to."
        ) from None


def _open(path: str, read_only: bool) -> sqlite3.Connection:
    target = path if path == ":memory:" else _address(Path(path), read_only)
    # One connection serves all threads, behind the lock of `Bank`: ":memory:" exists only in its
    # own connection.
    db = sqlite3.connect(
        target, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )
    db.row_factory = sqlite3.Row
    # A flipped bit in a text must not stop the listing of the others; checksums find it.
    db.text_factory = partial(str, encoding="utf-8", errors="replace")
    db.create_function(
        "casefold", 1, lambda text: text.casefold() if text else "", deterministic=True
    )
    return db


def _read_mode(file: Path) -> str:
    """A bank left in WAL mode needs two files beside it even for reading. Where its folder cannot
    be written and nobody is writing (there is no -wal file), `immutable` reads it without them."""
    with file.open("rb") as f:
        wal = f.read(20)[18:19] == b"\x02"
    alone = wal and not Path(f"{file}-wal").exists() and not os.access(file.parent, os.W_OK)
    return "?mode=ro&immutable=1" if alone else "?mode=ro"


def _check(db: sqlite3.Connection, path: str, read_only: bool) -> None:
    """Refuse a file that is not a bank, or a newer one; create the tables that an empty or older
    one lacks."""
    # secure_delete overwrites what is deleted.
    for name in ("foreign_keys", "cell_size_check", "secure_delete"):
        db.execute(f"PRAGMA {name} = ON")
    db.execute("PRAGMA trusted_schema = OFF")
    if (
        not _objects(db)
        and _pragma(db, "user_version") == 0
        and (not read_only or path == ":memory:")
    ):
        _upgrade(db, path)
    application, version, objects = _seen(db)
    if application != APPLICATION_ID:
        raise LatentmemError(
            f"{path} is an SQLite file but not a latentmem bank: choose another file."
        )
    if version > SCHEMA_VERSION:
        raise LatentmemError(
            f"{path} was written by a newer latentmem (bank version {version}, this one reads "
            f"{SCHEMA_VERSION}): update latentmem."
        )
    if version < 1 or objects != _expected(version):
        raise LatentmemError(
            f"{path} does not have the tables of a latentmem bank: save what is whole into a new "
            "one with `latentmem repair`."
        )
    if version < SCHEMA_VERSION:
        if read_only:
            raise NotUpToDate(
                f"{path} was written by an older latentmem (bank version {version} of "
                f"{SCHEMA_VERSION}), and reading alone cannot update it: open it once where it may "
                "be written, for example with `latentmem verify`."
            )
        _upgrade(db, path)


def _seen(db: sqlite3.Connection) -> tuple[int, int, set[tuple[str, ...]]]:
    """application_id, user_version and the tables at one moment: another process may be updating
    the bank."""
    db.execute("BEGIN")
    try:
        return _pragma(db, "application_id"), _pragma(db, "user_version"), _objects(db)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _upgrade(db: sqlite3.Connection, path: str) -> None:
    """The steps that an empty or older bank lacks, all or none. Of an older one a copy stays."""
    copy = None
    db.execute("BEGIN IMMEDIATE")  # another process may do the same: the second finds it done
    try:
        version = _pragma(db, "user_version")
        if version or not _objects(db):
            if 0 < version < SCHEMA_VERSION:
                copy = keep_copy(path, version)
            for statement in "".join(STEPS[version:]).split(";\n"):
                db.execute(statement)
            if 0 < version < BOUND:
                bind(db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if copy is not None:
            copy.unlink()
        raise
    if copy is not None:
        log.warning(
            "%s is brought from version %d to %d; as it was it stays in %s.",
            *(path, version, SCHEMA_VERSION, copy),
        )


def _objects(db: sqlite3.Connection) -> set[tuple[str, ...]]:
    """Tables, indices, triggers and views with their definitions, whatever the white space.
    Comparing them all finds damage there and keeps foreign triggers out of shared banks."""
    rows = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {(row[0], row[1], "".join(str(row[2]).split())) for row in rows.fetchall()}


@cache
def _expected(version: int) -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript("".join(STEPS[:version]))
        return _objects(db)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _durable(db: sqlite3.Connection) -> None:
    """WAL only where it is free of the corruption race, else a rollback journal; fsync at every
    commit in both.

    EXTRA is FULL and, in DELETE mode, an fsync of the folder once the journal is gone, without
    which a power cut right after a commit may undo it.

    While another process has the file open SQLite refuses to change the mode. From DELETE to WAL
    that is harmless; a WAL file under a SQLite with the race is refused, because using it is what
    may corrupt it.
    """
    wanted = "wal" if wal_is_safe(sqlite3.sqlite_version_info) else "delete"
    db.execute("PRAGMA synchronous = EXTRA")
    try:
        db.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    except sqlite3.OperationalError:
        if wanted == "delete":
            raise
