"""`backup` and `repair`: what is whole comes into the copy, what is lost is named, and the bank
stays as it was."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank
from latentmem.bank.repair import RepairReport, backup, repair
from latentmem.records import Event, LatentmemError, Status
from tests.bank.test_damage import MADE, SHUT, path  # noqa: F401 - a fixture
from tests.bank_samples import assert_same, make_memory, older
from tests.cli_samples import Terminal

PAGE = 4096


def last(records: Iterator[Any]) -> Any:
    *before, report = records
    assert before and all(isinstance(r, Status) for r in before)
    return report


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql)


def rescued(path: Path, name: str = "new.sqlite") -> tuple[RepairReport, Path]:
    before, new = path.read_bytes(), path.with_name(name)
    report = last(repair(path, new))
    assert path.read_bytes() == before and report.memories == len(Bank(new))
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    return report, new


def test_a_whole_bank_is_repaired_to_the_same(path: Path) -> None:
    report, new = rescued(path)
    assert report == RepairReport(12, 13, 1, [])
    with Bank(path) as a, Bank(new) as b:
        assert a.infos() == b.infos() and b.verify().problems == []
        assert sorted(a.events(), key=str) == sorted(b.events(), key=str)
        assert a.receipts() == b.receipts() and b.info(SHUT.id).quarantined


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_bank_is_repaired_without_being_upgraded(path: Path, version: int) -> None:
    older(path, version)
    report, new = rescued(path)
    assert report == RepairReport(12, 13, version - 1, []) and Bank(new).info(SHUT.id).quarantined


@pytest.mark.parametrize(
    ("sql", "told", "memories"),
    [
        ("UPDATE parts SET bytes = x'00' WHERE seq = 4 AND part = 'soft_prompt'", "is lost", 11),
        ("DELETE FROM parts WHERE seq = 4 AND part = 'record'", "is lost", 11),
        ("DELETE FROM keys WHERE seq = 4", "is lost", 11),
        ("UPDATE parts SET bytes = x'00' WHERE seq = 4 AND part = 'traces'", "its traces.", 12),
        ("DELETE FROM parts WHERE seq = 4 AND part = 'steps'", "its curve.", 12),
        ("UPDATE keys SET bytes = x'00' WHERE seq = 4 AND kind = 'kv'", "its kv key.", 12),
        ("DELETE FROM keys WHERE seq = 4 AND kind = 'input'", "its input key.", 12),
    ],
)
def test_what_is_lost_is_named(path: Path, sql: str, told: str, memories: int) -> None:
    change(path, sql)
    report, new = rescued(path)
    assert report.memories == memories and MADE[3].id in report.lost[0] and told in report.lost[0]
    assert MADE[3].name in report.lost[0]
    assert len(report.lost) == 1 + (memories == 11) and Bank(new).verify().problems == []


def test_a_memory_whose_entry_is_damaged_is_saved_from_its_parts(path: Path) -> None:
    change(path, "UPDATE memories SET label = '99', id = 'm0' WHERE seq = 4")
    report, new = rescued(path)
    assert report.memories == 12 and report.lost == []
    assert_same(Bank(new).get(MADE[3].id), MADE[3])


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET kind = 'puarantined' WHERE kind = 'quarantined'",
        "UPDATE events SET detail = '{}' WHERE kind = 'quarantined'",
        "DELETE FROM events WHERE kind = 'quarantined'",
        "UPDATE memories SET states = 0 WHERE states = 1",
    ],
)
def test_a_lost_quarantine_is_a_quarantine_again(path: Path, sql: str) -> None:
    change(path, sql)
    with Bank(path) as bank:
        assert bank.verify().problems
        assert bank.search(SHUT.keys["input"])[0].memory_id != SHUT.id
        if "memories" not in sql:
            with pytest.raises(LatentmemError, match=r"cannot be released\. .*latentmem repair"):
                bank.release(SHUT.id)
            assert bank.info(SHUT.id).quarantined and "are damaged" in bank.info(SHUT.id).shut
    report, new = rescued(path)
    with Bank(new) as bank:
        assert bank.info(SHUT.id).quarantined and bank.verify().problems == []
        assert sum("put in quarantine" in s for s in report.lost) == ("memories" not in sql)
        bank.release(SHUT.id)
        assert bank.search(SHUT.keys["input"])[0].memory_id == SHUT.id


def test_an_overwritten_page_costs_what_is_on_it(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third page in turn, at night every one. What is lost is named."""
    good, saved = path.read_bytes(), []
    pages = range(0, len(good), PAGE if night else 3 * PAGE)
    for start in pages:
        noise = random.Random(start).randbytes(PAGE)
        path.write_bytes(good[:start] + noise + good[start + PAGE :])
        report, new = rescued(path, f"new{start}.sqlite")
        with Bank(new) as bank:
            assert bank.verify().problems == []
            assert SHUT.id not in bank or bank.info(SHUT.id).quarantined
            for memory in MADE:
                if memory.id in bank and memory.id not in " ".join(report.lost):
                    assert_same(bank.get(memory.id), memory)
            assert len(bank) == 12 or report.lost
            saved.append(len(bank))
    with capsys.disabled():
        print(f"\n{sum(saved)} of {12 * len(pages)} memories saved, at least {min(saved)} of 12")
    assert sum(saved) > 8 * len(pages)


def test_a_backup_is_the_bank_at_one_moment(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "folder" / "copy.sqlite"
    with Bank(path) as bank:
        report = last(backup(path, copy))
        bank.put(make_memory(50))
    assert report.bytes == copy.stat().st_size and [p.name for p in copy.parent.iterdir()] == [
        copy.name
    ]
    with Bank(copy) as bank:
        assert len(bank) == 12 and bank.verify().problems == []
        for memory in MADE:
            assert_same(bank.get(memory.id), memory)


def test_a_backup_that_is_stopped_leaves_nothing(path: Path, tmp_path: Path) -> None:
    records = backup(path, tmp_path / "copy.sqlite")
    next(records)
    records.close()
    assert not list(tmp_path.glob("copy*"))


@pytest.mark.parametrize("act", [backup, repair])
def test_nothing_is_replaced_and_what_is_no_bank_is_refused(
    act: Any, path: Path, tmp_path: Path
) -> None:
    with pytest.raises(LatentmemError, match="is there already and is not replaced"):
        list(act(path, path))
    (tmp_path / "text").write_text("Not a bank at all. " * 200)
    change(tmp_path / "other", "CREATE TABLE songs (title TEXT)")
    for other in ("text", "other", "none"):
        with pytest.raises(LatentmemError, match=r"no.* bank|cannot be read") as error:
            list(act(tmp_path / other, tmp_path / "new.sqlite"))
        assert "\n" not in str(error.value) and not (tmp_path / "new.sqlite").exists()


def test_the_commands(path: Path, tmp_path: Path, cli: Terminal) -> None:
    assert "is copied to" in cli.ok("backup", str(path), str(tmp_path / "copy.sqlite"))
    assert "nothing was lost" in cli.ok("repair", str(path), str(tmp_path / "new.sqlite"))
    change(path, "DELETE FROM keys WHERE seq = 4")
    result = cli("repair", str(path), str(tmp_path / "newer.sqlite"))
    assert result.exit_code == 1 and "11 memories" in result.stdout
    assert f"Memory {MADE[3].id}" in result.stderr and "saving memories (1 of 12)" in result.stderr
    with Bank(path) as bank:
        bank.record(Event(MADE[0].id, "used"))
