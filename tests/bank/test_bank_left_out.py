"""What a damaged or half-written bank lacks is said, not passed over: in an export, in `verify`,
and when it is opened."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank, database, schema
from latentmem.bank.database import Store
from latentmem.engine.receipts import events as events_of
from latentmem.records import Event, LatentmemError
from tests.bank_samples import make_memory, make_receipt
from tests.cli_samples import Terminal

MADE = [make_memory(i) for i in range(6)]
EACH = 30  # events of a memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Events on many pages, those of one memory next to those of the others."""
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        for memory in MADE:
            bank.put(memory)
        for _ in range(EACH):
            bank.record_all([Event(m.id, "note", detail={"text": "x" * 100}) for m in MADE])
    return path


def change(path: Path, sql: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(sql)
    db.close()


# ------------------------------------------------------------------ export
def test_an_event_with_a_wrong_checksum_is_missed_by_name(path: Path, tmp_path: Path) -> None:
    good, one = tmp_path / "good.zip", MADE[2].id
    with Bank(path) as bank:
        bank.quarantine(one, "harmful")
        bank.export_zip(good)
        before = good.read_bytes()
        change(
            path,
            f"UPDATE events SET detail = '{{}}' WHERE memory_id = '{one}' AND kind = 'quarantined'",
        )
        with pytest.raises(LatentmemError, match=f"1 damaged events of memory {one} are left out"):
            bank.export_zip(good)
        assert good.read_bytes() == before
        report = bank.export_zip(tmp_path / "new.zip")
    assert (report.memories, report.events) == (len(MADE), len(MADE) * EACH)
    assert report.refused == [
        f"1 damaged events of memory {one} are left out: run `latentmem verify`."
    ]
    assert zipfile.is_zipfile(tmp_path / "new.zip")


# ------------------------------------------------------------------ verify
def test_what_is_deleted_while_it_is_verified_is_no_problem(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bank(path) as bank, Bank(path) as other:
        for seed in range(3):
            receipt = make_receipt(seed, MADE[seed])
            bank.keep_receipt(receipt, events_of(receipt))

        def meanwhile(db: sqlite3.Connection) -> Iterator[str]:
            other.delete(MADE[0].id)
            other.forget()
            yield from ()

        monkeypatch.setattr(database, "_file", meanwhile)
        assert bank.verify().problems == []
        monkeypatch.undo()
        packed = Store.packed

        def torn(store: Store, ident: str) -> Any:
            if ident == MADE[1].id:
                other.delete(ident)
            return packed(store, ident)

        monkeypatch.setattr(Store, "packed", torn)
        assert bank.verify().problems == []
        monkeypatch.undo()
        assert len(bank) == 4 and bank.verify().memories == 4


def test_an_orphan_that_goes_while_it_is_verified_is_no_problem(path: Path) -> None:
    change(path, f"UPDATE events SET memory_id = 'm00' WHERE seq = {EACH}")

    class Late:
        """A connection on which the orphan is found and is gone when it is read."""

        def __init__(self, db: Any) -> None:
            self.db = db

        def execute(self, sql: str, *values: Any) -> Any:
            return self.db.execute(sql.replace("WHERE seq = ?", "WHERE seq = -?"), *values)

    with Bank(path) as bank, bank._store.reading() as db:
        assert list(database._references(Late(db))) == []  # type: ignore[arg-type]
        assert "belongs to memory m00" in next(database._references(db))


# ------------------------------------------------------------------ left in the middle of a write
HALF = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = DELETE")
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE events SET detail = detail || ' '")
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_a_bank_left_in_the_middle_of_a_write_is_not_called_damaged(
    path: Path, cli: Terminal
) -> None:
    assert subprocess.run([sys.executable, "-c", HALF, str(path)]).returncode == -signal.SIGKILL
    assert Path(f"{path}-journal").exists()
    with pytest.raises(
        LatentmemError, match=r"left in the middle of a write.* `latentmem verify`"
    ) as error:
        Bank(path, read_only=True)
    assert isinstance(error.value, schema.Unfinished) and "\n" not in str(error.value)
    result = cli("doctor", "--json")
    assert result.exit_code == 1 and "left in the middle of a write" in result.stderr
    assert json.loads(result.stdout)["sections"]["bank"]["state"] == "left in the middle of a write"
    assert "all is well" in cli.ok("verify")
    with Bank(path, read_only=True) as bank:
        assert len(bank.events()) == len(MADE) * EACH
    assert json.loads(cli.ok("doctor", "--json"))["sections"]["bank"]["state"] == "whole"


@pytest.mark.parametrize(
    ("code", "unfinished"),
    [
        (sqlite3.SQLITE_READONLY_ROLLBACK, True),
        (sqlite3.SQLITE_READONLY_RECOVERY, True),
        (sqlite3.SQLITE_READONLY, False),
        (sqlite3.SQLITE_READONLY_DIRECTORY, False),
    ],
)
def test_only_an_unfinished_write_is_said_to_be_one(code: int, unfinished: bool) -> None:
    wrong = sqlite3.OperationalError("attempt to write a readonly database")
    wrong.sqlite_errorcode = code
    with pytest.raises(LatentmemError) as error, schema.sentences("b.sqlite"):
        raise wrong
    assert isinstance(error.value, schema.Unfinished) is unfinished
    assert ("left in the middle" in str(error.value)) is unfinished
    assert ("cannot be written" in str(error.value)) is not unfinished
