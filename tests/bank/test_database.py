"""The file behind a bank: what damage, another process, a full disk, a stranger or kill -9 do to
it. Each ends in one sentence, and nothing acknowledged is lost.

There are 12 kills in the quick suite, 500 with `--night`. A child puts memories, events and
receipts and tells each id only after the call returned. The parent kills it at a random moment,
opens the bank again and compares every acknowledged memory; a receipt and its events are there
together, or neither is.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank, database, schema
from latentmem.bank.database import Store
from latentmem.engine.receipts import events as events_of
from latentmem.records import Event, LatentmemError
from tests.bank_samples import assert_same, make_memory, make_receipt
from tests.cli_samples import Terminal

MADE = [make_memory(i, tokens=8, hidden=64) for i in range(12)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        for memory in MADE:
            bank.put(memory)
            bank.record(Event(memory.id, "used"))
    return path


def change(path: Path, sql: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(sql)
    db.close()


def refusal(path: Path | str, *, read_only: bool = False) -> str:
    with pytest.raises(LatentmemError) as error:
        Bank(path, read_only=read_only)
    assert re.fullmatch(r"[^\n]+\.", str(error.value))
    return str(error.value)


def test_files_that_are_no_bank_are_refused(tmp_path: Path, path: Path) -> None:
    (tmp_path / "text").write_text("Not a bank at all. " * 200)
    assert "is not a latentmem bank" in refusal(tmp_path / "text")
    change(tmp_path / "other", "CREATE TABLE songs (title TEXT)")
    assert "is an SQLite file but not a latentmem bank" in refusal(tmp_path / "other")
    assert "is a folder" in refusal(tmp_path)
    assert "or its folder cannot be opened" in refusal(tmp_path / "text" / "bank.sqlite")
    assert "There is no bank at" in refusal(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "short").write_bytes(path.read_bytes()[:20_000])
    assert "is damaged" in refusal(tmp_path / "short")
    (tmp_path / "empty").touch()
    assert len(Bank(tmp_path / "empty")) == 0


def test_newer_and_altered_banks_are_refused(path: Path) -> None:
    change(path, "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM memories; END")
    assert "does not have the tables" in refusal(path)
    change(path, "DROP TRIGGER t")
    assert len(Bank(path)) == 12
    change(path, "PRAGMA user_version = 4")
    assert "newer latentmem (bank version 4, this one reads 3): update latentmem" in refusal(path)


def test_a_read_only_bank_reads_and_refuses_to_write(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with Bank(path, read_only=True) as bank:
        assert_same(bank.get(MADE[0].id), MADE[0])
        assert bank.search(MADE[1].keys["input"])[0].memory_id == MADE[1].id
        bank.export_zip(tmp_path / "out.zip")
        for act in (
            lambda: bank.put(MADE[0]),
            lambda: bank.quarantine(MADE[0].id, "x"),
            lambda: bank.delete(MADE[0].id),
            lambda: bank.import_zip(tmp_path / "out.zip"),
        ):
            with pytest.raises(LatentmemError, match="open for reading only"):
                act()
    assert path.read_bytes() == before


def test_a_path_with_a_nul_opens_no_other_file(path: Path) -> None:
    for read_only in (False, True):
        assert "holds a NUL: leave it out" in refusal(f"{path}\0.txt", read_only=read_only)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not move an open file")
@pytest.mark.parametrize("how", ["replaced", "deleted", "moved"])
def test_a_bank_that_is_replaced_while_it_is_open_says_so(path: Path, how: str) -> None:
    with Bank(path) as bank:
        if how == "replaced":
            Bank(path.with_name("new.sqlite")).close()
            path.with_name("new.sqlite").replace(path)
        elif how == "moved":
            path.rename(path.with_name("moved.sqlite"))
        else:
            path.unlink()
        for act in (
            lambda: bank.put(make_memory(50)),
            lambda: bank.record(Event(MADE[0].id, "used")),
            lambda: bank.delete(MADE[0].id),
        ):
            with pytest.raises(LatentmemError, match=r"was moved, deleted or replaced while it"):
                act()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_only_where_its_race_is_fixed(version: tuple[int, int, int], safe: bool) -> None:
    assert schema.wal_is_safe(version) is safe


def test_journal_mode_and_durability_follow_the_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, mode in (((3, 51, 3), "wal"), ((3, 40, 1), "delete")):
        monkeypatch.setattr("sqlite3.sqlite_version_info", version)
        with Bank(path) as bank:
            assert bank.stats()["journal_mode"] == mode
            assert bank._store._db.execute("PRAGMA synchronous").fetchone()[0] == 3  # type: ignore[union-attr]
            bank.record(Event(MADE[0].id, "used"))
    assert len(Bank(path).events()) == 14


def test_a_wal_bank_is_read_where_nothing_may_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(path, "PRAGMA journal_mode = WAL")
    monkeypatch.setattr("os.access", lambda *_: False)
    with Bank(path, read_only=True) as bank:
        assert len(bank) == 12 and not Path(f"{path}-wal").exists()


def test_a_full_disk_loses_nothing(path: Path) -> None:
    with Bank(path) as bank:
        db = bank._store._db
        assert db is not None
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + 2}")
        with pytest.raises(
            LatentmemError, match=r"disk that holds .* is full, so nothing was stored"
        ):
            bank.put(make_memory(50, tokens=20, hidden=896))
        assert len(bank) == 12 and bank.verify().problems == []
        db.execute("PRAGMA max_page_count = 100000")
        bank.put(make_memory(50, tokens=20, hidden=896))
        assert len(bank) == 13


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN; SELECT COUNT(*) FROM memories"])
def test_a_locked_bank_says_so_and_recovers(
    path: Path, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that writes, or that reads on and on."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    with Bank(path) as bank:
        other = sqlite3.connect(path, isolation_level=None)
        rows = [other.execute(statement) for statement in lock.split("; ")]
        with pytest.raises(
            LatentmemError, match="stayed locked by another process, so nothing was changed"
        ):
            bank.put(make_memory(50))
        assert len(rows[-1].fetchall()) <= 1
        other.execute("COMMIT")
        bank.put(make_memory(50))
        assert len(bank) == 13
        other.close()


def test_closed_and_forked_banks_say_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank(path)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(LatentmemError, match="before this process forked"):
        len(bank)
    monkeypatch.undo()
    bank.close()
    bank.close()
    with pytest.raises(LatentmemError, match="is closed: open the bank again"):
        bank.infos()


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "UPDATE parts SET bytes = zeroblob(9) WHERE seq = 4 AND part = 'traces'",
            "its traces is missing or does not",
        ),
        ("DELETE FROM parts WHERE seq = 4 AND part = 'soft_prompt'", "its soft_prompt is missing"),
        (
            "UPDATE keys SET bytes = zeroblob(99) WHERE seq = 4 AND kind = 'input'",
            "its input is missing or does not match",
        ),
        ("DELETE FROM keys WHERE seq = 4", "its input is missing"),
        ("DELETE FROM keys WHERE seq = 4 AND kind = 'kv'", "its kv is missing"),
        ("UPDATE memories SET label = '99' WHERE seq = 4", "its entry is missing or does not"),
        ("UPDATE memories SET problem_text = '' WHERE seq = 4", "its entry"),
        ("UPDATE memories SET majority_ratio = 9e999 WHERE seq = 4", "its entry"),
        (
            "UPDATE memories SET problem_text = CAST(x'ff00ff' AS TEXT) WHERE seq = 4",
            "its entry",
        ),
    ],
)
def test_verify_names_the_damaged_memory_and_the_others_go_on(
    path: Path, sql: str, told: str
) -> None:
    with Bank(path) as bank:
        assert bank.verify().problems == []
        change(path, sql)
        problems = bank.verify().problems
        assert len(problems) == 1 and MADE[3].id in problems[0] and told in problems[0]
        others = {m.id for m in MADE} - {MADE[3].id}
        assert {row.id for row in bank.infos()} >= others
        for memory in MADE[:3] + MADE[4:]:
            assert bank.search(memory.keys["input"])[0].memory_id == memory.id
            assert_same(bank.get(memory.id), memory)
        bank.delete(MADE[3].id)
        bank.put(MADE[3])
        assert bank.verify().problems == []


def test_verify_names_damaged_and_orphan_events(path: Path) -> None:
    with Bank(path) as bank:
        events = bank.events()
        change(path, f"UPDATE events SET kind = 'hurt' WHERE id = '{events[0].id}'")
        # foreign keys are off there
        change(path, f"UPDATE events SET memory_id = 'm00' WHERE id = '{events[1].id}'")
        told = " ".join(bank.verify().problems)
        assert f"Event {events[0].id} is damaged" in told
        assert f"Event {events[1].id} belongs to memory m00, which is not in the bank" in told
        assert bank.events() == events[2:]


def harm(path: Path, table: str) -> None:
    """Overwrite the head of the first leaf of a table."""
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    db.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] in (2, 5), "not an interior page"
    cell = int.from_bytes(page[12:14], "big")
    leaf = int.from_bytes(page[cell : cell + 4], "big")
    data[(leaf - 1) * 4096 + 3 : (leaf - 1) * 4096 + 83] = b"\xff" * 80
    path.write_bytes(data)


def test_a_damaged_page_is_one_sentence_and_an_export_names_what_it_lacks(tmp_path: Path) -> None:
    """The first page of the table of keys: search refuses, every whole memory can be exported."""
    path, made = tmp_path / "bank.sqlite", [make_memory(i, dim=384) for i in range(12)]
    with Bank(path) as bank:
        for memory in made:
            bank.put(memory)
    harm(path, "keys")
    with Bank(path) as bank:
        with pytest.raises(LatentmemError, match=r"is damaged .*with `latentmem repair`"):
            bank.search(made[0].keys["input"])
        assert len(bank.infos()) == 12 and bank.verify().problems
        report = bank.export_zip(tmp_path / "rescued.zip")
        assert 6 < report.memories < 12 and report.memories + len(report.refused) == 12
        assert made[0].id in " ".join(report.refused)
    with Bank() as fresh:
        assert fresh.import_zip(tmp_path / "rescued.zip").added == report.memories
        assert fresh.verify().problems == []


# ------------------------------------------------------------------ what a bank lacks
FEW = [make_memory(i) for i in range(6)]
EACH = 30  # events of a memory


@pytest.fixture
def many_events(tmp_path: Path) -> Path:
    """Events on many pages, those of one memory next to those of the others."""
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        for memory in FEW:
            bank.put(memory)
        for _ in range(EACH):
            bank.record_all([Event(m.id, "note", detail={"text": "x" * 100}) for m in FEW])
    return path


# ------------------------------------------------------------------ export
def test_a_damaged_page_of_events_costs_no_memory(many_events: Path, tmp_path: Path) -> None:
    good, rescued = tmp_path / "good.zip", tmp_path / "rescued.zip"
    with Bank(many_events) as bank:
        bank.export_zip(good)
    before = good.read_bytes()
    harm(many_events, "events")
    with Bank(many_events) as bank:
        assert "is damaged" in " ".join(bank.verify().problems)
        report = bank.export_zip(rescued)
        assert report.memories == len(FEW) and report.refused
        assert all(s.startswith("The events of memory m") for s in report.refused)
        with pytest.raises(LatentmemError, match=r"lacks .*good.zip was left as it is"):
            bank.export_zip(good)
    assert good.read_bytes() == before
    with Bank() as fresh:
        assert fresh.import_zip(rescued).added == len(FEW) and fresh.verify().problems == []


def test_an_event_with_a_wrong_checksum_is_missed_by_name(
    many_events: Path, tmp_path: Path
) -> None:
    good, one = tmp_path / "good.zip", FEW[2].id
    with Bank(many_events) as bank:
        bank.quarantine(one, "harmful")
        bank.export_zip(good)
        before = good.read_bytes()
        change(
            many_events,
            f"UPDATE events SET detail = '{{}}' WHERE memory_id = '{one}' AND kind = 'quarantined'",
        )
        with pytest.raises(LatentmemError, match=f"1 damaged events of memory {one} are left out"):
            bank.export_zip(good)
        assert good.read_bytes() == before
        report = bank.export_zip(tmp_path / "new.zip")
    assert (report.memories, report.events) == (len(FEW), len(FEW) * EACH)
    assert report.refused == [
        f"1 damaged events of memory {one} are left out: run `latentmem verify`."
    ]
    assert zipfile.is_zipfile(tmp_path / "new.zip")


# ------------------------------------------------------------------ verify
def test_what_is_deleted_while_it_is_verified_is_no_problem(
    many_events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bank(many_events) as bank, Bank(many_events) as other:
        for seed in range(3):
            receipt = make_receipt(seed, FEW[seed])
            bank.keep_receipt(receipt, events_of(receipt))

        def meanwhile(db: sqlite3.Connection) -> Iterator[str]:
            other.delete(FEW[0].id)
            other.forget()
            yield from ()

        monkeypatch.setattr(database, "_file", meanwhile)
        assert bank.verify().problems == []
        monkeypatch.undo()
        packed = Store.packed

        def torn(store: Store, ident: str) -> Any:
            if ident == FEW[1].id:
                other.delete(ident)
            return packed(store, ident)

        monkeypatch.setattr(Store, "packed", torn)
        assert bank.verify().problems == []
        monkeypatch.undo()
        assert len(bank) == 4 and bank.verify().memories == 4


def test_an_orphan_that_goes_while_it_is_verified_is_no_problem(many_events: Path) -> None:
    change(many_events, f"UPDATE events SET memory_id = 'm00' WHERE seq = {EACH}")

    class Late:
        """A connection on which the orphan is found and is gone when it is read."""

        def __init__(self, db: Any) -> None:
            self.db = db

        def execute(self, sql: str, *values: Any) -> Any:
            return self.db.execute(sql.replace("WHERE seq = ?", "WHERE seq = -?"), *values)

    with Bank(many_events) as bank, bank._store.reading() as db:
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
    many_events: Path, cli: Terminal
) -> None:
    assert (
        subprocess.run([sys.executable, "-c", HALF, str(many_events)]).returncode == -signal.SIGKILL
    )
    assert Path(f"{many_events}-journal").exists()
    with pytest.raises(
        LatentmemError, match=r"left in the middle of a write.* `latentmem verify`"
    ) as error:
        Bank(many_events, read_only=True)
    assert isinstance(error.value, schema.Unfinished) and "\n" not in str(error.value)
    result = cli("doctor", "--json")
    assert result.exit_code == 1 and "left in the middle of a write" in result.stderr
    assert json.loads(result.stdout)["sections"]["bank"]["state"] == "left in the middle of a write"
    assert "all is well" in cli.ok("verify")
    with Bank(many_events, read_only=True) as bank:
        assert len(bank.events()) == len(FEW) * EACH
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


# ------------------------------------------------------------------ kill -9
RENEW = 6  # kills that one file lives through, so that the moment of its making is struck too

# One process imports everything, once, and forks a child for every kill; only the child opens the
# bank.
NURSERY = """
import json, os, sys
from tests.bank_samples import make_memory, make_receipt
from latentmem.bank import Bank
from latentmem.engine.receipts import events
from latentmem.records import Event
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def work(path, number):
    say("child", os.getpid())
    with Bank(path) as bank:
        while True:
            memory = make_memory(number, tokens=20, hidden=128)
            say("memory", number, bank.put(memory))
            say("event", number, bank.record(Event(memory.id, "used")).id)
            receipt = make_receipt(number, memory)
            bank.keep_receipt(receipt, events(receipt))
            say("receipt", number, receipt.id)
            number += 1
with Bank() as warm:
    warm.record(Event(warm.put(make_memory(0)), "used"))
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            work(*json.loads(line))
        finally:
            os._exit(1)
    say("ended", os.waitpid(pid, 0)[1])
"""


def killed(
    nursery: subprocess.Popen[bytes], path: Path, start: int, seconds: float, making: bool
) -> list[tuple[str, int, str]]:
    """What a child acknowledged before it was killed, so many seconds after its first memory, or,
    with `making`, after it began to make the file."""
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(json.dumps([str(path), start]).encode() + b"\n")
    nursery.stdin.flush()
    pid = int(nursery.stdout.readline().split()[1])
    told = [] if making else [nursery.stdout.readline().split()]
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    while (words := nursery.stdout.readline().split())[0] != b"ended":
        told.append(words)
    assert int(words[1]) == signal.SIGKILL, "the child ended by itself"
    return [(kind.decode(), int(number), ident.decode()) for kind, number, ident in told]


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        yield process
        process.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_acknowledged_memories_survive_kill_9(
    nursery: subprocess.Popen[bytes], tmp_path: Path, night: bool
) -> None:
    kills = 500 if night else 12
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    acknowledged = torn = 0
    memories: dict[str, int] = {}
    events: set[str] = set()
    receipts: set[str] = set()
    for kill in range(kills):
        path = tmp_path / f"bank{kill // RENEW}.sqlite"
        if kill % RENEW == 0:
            memories, events, receipts = {}, set(), set()
        told = killed(nursery, path, kill * 1000, rng.uniform(0, 0.2), making=kill % RENEW == 0)
        memories |= {ident: number for kind, number, ident in told if kind == "memory"}
        events |= {ident for kind, _, ident in told if kind == "event"}
        receipts |= {ident for kind, _, ident in told if kind == "receipt"}
        torn += Path(f"{path}-journal").exists()
        acknowledged += len(told)
        with Bank(path) as bank:
            report = bank.verify()
            assert report.problems == [], f"kill {kill} of seed {seed}"
            assert events <= {event.id for event in bank.events()}, f"kill {kill} of seed {seed}"
            kept = {receipt.id for receipt in bank.receipts()}
            assert receipts <= kept, f"kill {kill} of seed {seed}"
            assert [len(bank.events(receipt_id=ident)) for ident in kept] == [3] * len(kept), (
                f"kill {kill} of seed {seed}"
            )
            assert {e.receipt_id for e in bank.events()} - {""} <= kept, (
                f"kill {kill} of seed {seed}"
            )
            for ident, number in memories.items():
                assert_same(bank.get(ident), make_memory(number, tokens=20, hidden=128))
    print(
        f"\n{kills} kills (seed {seed}), {torn} of them inside a transaction: {acknowledged} "
        "writes were acknowledged, 0 were lost, verify was clean each time"
    )
    assert acknowledged > 0
