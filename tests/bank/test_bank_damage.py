"""What happens to a bank when the disk, another process or a stranger does it harm: one sentence,
and nothing lost."""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path

import pytest

from latentmem.bank import Bank, schema
from latentmem.records import Event, LatentmemError
from tests.bank_samples import assert_same, make_memory

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
    assert (
        "There is no bank at" in refusal(tmp_path / "none", read_only=True)
        and not (tmp_path / "none").exists()
    )
    (tmp_path / "short").write_bytes(path.read_bytes()[:20_000])
    assert "is damaged" in refusal(tmp_path / "short")
    (tmp_path / "empty").touch()
    assert len(Bank(tmp_path / "empty")) == 0


def test_newer_and_altered_banks_are_refused(path: Path) -> None:
    change(path, "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM memories; END")
    assert "does not have the tables" in refusal(path)
    change(path, "DROP TRIGGER t")
    assert len(Bank(path)) == 12
    change(path, "PRAGMA user_version = 3")
    assert "newer latentmem (bank version 3, this one reads 2): update latentmem" in refusal(path)


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
        ("DELETE FROM keys WHERE seq = 4", "has no key"),
        (
            "UPDATE memories SET label = '99' WHERE seq = 4",
            "says label = '99', its record says '3'",
        ),
        ("UPDATE memories SET problem_text = '' WHERE seq = 4", "says problem_text = ''"),
        (
            "UPDATE memories SET problem_text = CAST(x'ff00ff' AS TEXT) WHERE seq = 4",
            "says problem_text",
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
        change(
            path, f"UPDATE events SET memory_id = 'm00' WHERE id = '{events[1].id}'"
        )  # foreign keys are off there
        told = " ".join(bank.verify().problems)
        assert f"Event {events[0].id} is damaged" in told
        assert f"Event {events[1].id} belongs to memory m00, which is not in the bank" in told
        assert bank.events() == events[2:]


def survey(path: Path) -> bool:
    """Uses everything on a damaged bank: only sentences may come out. True: verify found it whole,
    and it is."""
    try:
        with Bank(path) as bank:
            try:
                whole = bank.verify().problems == []
            except LatentmemError:
                whole = False
            for act in (
                bank.infos,
                bank.events,
                lambda: bank.keys("input"),
                lambda: bank.search(MADE[0].keys["input"]),
                *(lambda m=m: assert_same(bank.get(m.id), m) for m in MADE),
            ):
                try:
                    act()
                except LatentmemError:
                    assert not whole
            return whole
    except LatentmemError:
        return False


def test_any_overwritten_page_is_found(path: Path, tmp_path: Path) -> None:
    good, copy = path.read_bytes(), tmp_path / "copy.sqlite"
    for start in range(0, len(good), 4096):
        noise = random.Random(start).randbytes(4096)
        copy.write_bytes(good[:start] + noise + good[start + 4096 :])
        assert not survey(copy), f"page {start // 4096 + 1}"


def test_any_flipped_bit_is_found_or_does_no_harm(path: Path, tmp_path: Path) -> None:
    """`survey` compares every memory with what was put whenever `verify` is content."""
    good, copy = bytearray(path.read_bytes()), tmp_path / "copy.sqlite"
    rng = random.Random(1)
    for _ in range(40):
        place, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
        good[place] ^= bit
        copy.write_bytes(good)
        survey(copy)
        good[place] ^= bit


def test_a_damaged_page_is_one_sentence_and_an_export_names_what_it_lacks(tmp_path: Path) -> None:
    """The first page of the table of keys: search refuses, every whole memory can be exported."""
    path, made = tmp_path / "bank.sqlite", [make_memory(i, dim=384) for i in range(12)]
    with Bank(path) as bank:
        for memory in made:
            bank.put(memory)
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'keys'").fetchone()[0]
    db.close()
    data = bytearray(path.read_bytes())
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5, "not an interior page of a table"
    cell = int.from_bytes(page[12:14], "big")
    leaf = int.from_bytes(page[cell : cell + 4], "big")
    data[(leaf - 1) * 4096 + 3 : (leaf - 1) * 4096 + 83] = b"\xff" * 80
    path.write_bytes(data)
    with Bank(path) as bank:
        with pytest.raises(LatentmemError, match=r"is damaged .*`latentmem verify`, or import"):
            bank.search(made[0].keys["input"])
        assert len(bank.infos()) == 12 and bank.verify().problems
        report = bank.export_zip(tmp_path / "rescued.zip")
        assert 6 < report.memories < 12 and report.memories + len(report.refused) == 12
        assert made[0].id in " ".join(report.refused)
    with Bank() as fresh:
        assert (
            fresh.import_zip(tmp_path / "rescued.zip").added == report.memories
            and fresh.verify().problems == []
        )
