"""What a bad disk does to a bank: flipped bits, lost and swapped rows, cut files, full disks.

Only sentences may come out, nothing wrong is served, and nothing acknowledged is lost. The quick
suite runs a small part of each; `pytest --night tests/bank/test_damage.py` runs them at full
length. A failure says how many of how many trials went wrong.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest

from latentmem.bank import Bank
from latentmem.records import Event, LatentmemError
from tests.bank_samples import archive_of, assert_same, make_memory, make_receipt

T = TypeVar("T")
MADE = [make_memory(i, tokens=8, hidden=64) for i in range(12)]
TRUTH = {memory.id: memory for memory in MADE}
SHUT = MADE[5]
COSINES = {ident: float(m.keys["input"] @ SHUT.keys["input"]) for ident, m in TRUTH.items()}
NIGHT = 3000  # trials of a test at full length


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        for memory in MADE:
            bank.put(memory)
            bank.record(Event(memory.id, "used"))
        bank.quarantine(SHUT.id, "harmful")
        bank.keep_receipt(make_receipt(1, MADE[0]))
    return path


def flips(most: int, places: Sequence[int]) -> list[tuple[int, int]]:
    """(byte, mask) of at most so many bits to flip."""
    bits = list(product(places, [1 << bit for bit in range(8)]))
    return bits if len(bits) <= most else random.Random(1).sample(bits, most)


def flipped(path: Path, bits: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Path]]:
    """A copy of the bank with each of these bits flipped in turn, and the place of the bit."""
    data, copy = bytearray(path.read_bytes()), path.with_name("copy.sqlite")
    for place, mask in bits:
        data[place] ^= mask
        copy.write_bytes(data)
        data[place] ^= mask
        for left in path.parent.glob("copy.sqlite-*"):
            left.unlink()
        yield place, copy


def places(path: Path, texts: Sequence[str], table: str = "") -> list[int]:
    """Where the bytes of these texts stand in the file; `table`: only on the pages of its rows."""
    data, found = path.read_bytes(), set()
    for text in texts:
        at = -1
        while (at := data.find(text.encode(), at + 1)) >= 0:
            if at >= 4096 and (not table or _of_table(data, at)):
                found |= set(range(at, at + len(text.encode())))
    return sorted(found)


def _of_table(data: bytes, at: int) -> bool:
    return data[at // 4096 * 4096] == 0x0D  # the leaf of a table, not of an index


def survey(path: Path) -> str:
    """Use everything on a bank that may be damaged. Returns what went wrong: an exception that is
    no sentence, or something other than what was stored, with no word from `verify`."""
    wrong, content = "", whole(path)
    try:
        with Bank(path) as bank:
            for act in (
                lambda: served(bank),
                bank.events,
                bank.receipts,
                lambda: bank.keys("input"),
                lambda: found(bank),
                *(lambda i=i, m=m: assert_same(bank.get(i), m) for i, m in TRUTH.items()),
            ):
                try:
                    act()
                except LatentmemError:
                    wrong = wrong or ("verify is content" if content else "")
    except LatentmemError as e:
        wrong = "" if str(e).endswith(".") and "\n" not in str(e) else f"no sentence: {e}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return wrong


def whole(path: Path) -> bool:
    """Whether `verify` is content."""
    try:
        with Bank(path) as bank:
            return bank.verify().problems == []
    except LatentmemError:
        return False


def served(bank: Bank) -> None:
    """Every entry that is listed is the one that was stored."""
    for info in bank.infos():
        m = TRUTH[info.id]
        assert (info.problem, info.label, info.name, info.model_name, info.created) == (
            *(m.problem, m.label, m.name, m.model_name, m.created),
        )
        assert (info.model, info.best_step, info.majority_ratio, info.virtual_tokens) == (
            *(m.model, m.best_step, m.vote.majority_ratio, len(m.soft_prompt)),
        )


def found(bank: Bank) -> None:
    """What is searched for is found or missing, and what is in quarantine is not found."""
    hits = bank.search(SHUT.keys["input"], k=12)
    assert SHUT.id not in {hit.memory_id for hit in hits}, "the quarantine is undone"
    for hit in hits:
        assert abs(hit.similarity - COSINES[hit.memory_id]) < 1e-5, "another memory's key"


def told(trials: Iterable[T], wrong: list[str], capsys: pytest.CaptureFixture[str]) -> Iterator[T]:
    """The trials, with a line after every 500: a night may end early."""
    for number, trial in enumerate(trials):
        if number and number % 500 == 0:
            with capsys.disabled():
                print(f"\n{len(wrong)} of {number} went wrong so far", end="", flush=True)
        yield trial


def report(trials: int, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(wrong)} of {trials} went wrong")
    assert not wrong, f"{len(wrong)} of {trials}: {wrong[:3]}"


# ------------------------------------------------------------------ flipped bits
def test_no_flipped_bit_undoes_a_quarantine(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each bit of the event and of the memory's id, in the tables and in every index."""
    with Bank(path) as bank:
        (event,) = bank.events(kind="quarantined")
    words = ["quarantined", event.id, event.created, '{"reason":"harmful"}', SHUT.id]
    bits = flips(NIGHT if night else 120, places(path, words))
    wrong = [f"byte {place}" for place, copy in flipped(path, bits) if not closed(copy)]
    report(len(bits), wrong, capsys)


def test_no_flipped_bit_ends_a_probation(
    tmp_path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, one = tmp_path / "bank.sqlite", MADE[0]
    with Bank(path) as bank:
        bank.import_zip(archive_of(one))
        (event,) = bank.events(kind="imported")
    bits = flips(
        NIGHT if night else 80, places(path, ["imported", event.id, event.created, one.id])
    )
    wrong = []
    for place, copy in flipped(path, bits):
        try:
            with Bank(copy) as bank:
                if bank.search(one.keys["input"]) and not bank.events(one.id, kind="imported"):
                    wrong.append(f"byte {place}")
        except LatentmemError:
            continue
    report(len(bits), wrong, capsys)


def closed(path: Path) -> bool:
    try:
        with Bank(path) as bank:
            found(bank)
    except LatentmemError:
        return True
    except AssertionError:
        return False
    return True


def test_no_flipped_bit_is_served_as_text(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each bit of the columns of an entry."""
    m = MADE[3]
    words = [m.problem.text, m.name, m.model, m.model_name, m.problem.source, m.created, m.id]
    bits = flips(NIGHT if night else 90, places(path, words, "memories"))
    wrong = []
    for place, copy in flipped(path, bits):
        try:
            with Bank(copy) as bank:
                served(bank)
        except LatentmemError:
            continue
        except Exception as e:
            wrong.append(f"byte {place}: {type(e).__name__}")
    report(len(bits), wrong, capsys)


def test_a_flipped_bit_in_the_schema_is_a_sentence(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first page: the header and the definitions of the tables."""
    bits, wrong = flips(NIGHT if night else 100, range(4096)), list[str]()
    for place, copy in told(flipped(path, bits), wrong, capsys):
        if w := survey(copy):
            wrong.append(f"{place}: {w}")
    report(len(bits), wrong, capsys)


def test_any_flipped_bit_and_any_cut_ends_in_a_sentence(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data, copy, rng = path.read_bytes(), path.with_name("copy.sqlite"), random.Random(2)
    wrong, trials = list[str](), 10_000 if night else 60
    for trial in told(range(trials), wrong, capsys):
        bad = bytearray(data)
        if trial % 5 == 0:
            del bad[rng.randrange(len(bad)) :]
        else:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        copy.write_bytes(bad)
        for left in path.parent.glob("copy.sqlite-*"):
            left.unlink()
        if w := survey(copy):
            wrong.append(f"trial {trial}: {w}")
    report(trials, wrong, capsys)


def test_any_overwritten_page_is_found(path: Path) -> None:
    good, copy = path.read_bytes(), path.with_name("copy.sqlite")
    for start in range(0, len(good), 4096):
        noise = random.Random(start).randbytes(4096)
        copy.write_bytes(good[:start] + noise + good[start + 4096 :])
        assert survey(copy) == "" and not whole(copy), f"page {start // 4096 + 1}"


# ------------------------------------------------------------------ rows of other memories
MOVES: dict[str, tuple[str, str, bool]] = {  # name -> table, which row of each memory, both ways
    "swapped input keys": ("keys", "kind = 'input'", True),
    "swapped kv keys": ("keys", "kind = 'kv'", True),
    "another memory's input key": ("keys", "kind = 'input'", False),
    "another memory's traces": ("parts", "part = 'traces'", False),
    "another memory's curve": ("parts", "part = 'steps'", False),
    "swapped traces": ("parts", "part = 'traces'", True),
}
DELETED = {"deleted input key": "input", "deleted kv key": "kv"}


@pytest.mark.parametrize("what", [*MOVES, *DELETED, "deleted quarantine"])
def test_verify_finds_rows_that_are_lost_or_another_memorys(
    path: Path, what: str, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    good, wrong = path.read_bytes(), []
    pairs = [(a, (a + 4) % 12 + 1) for a in range(1, 13, 1 if night else 3)]
    for a, b in pairs:
        path.write_bytes(good)
        with closing(sqlite3.connect(path)) as db, db:
            if what in DELETED:
                db.execute("DELETE FROM keys WHERE seq = ? AND kind = ?", (a, DELETED[what]))
            elif what in MOVES:
                move(db, *MOVES[what], a, b)
            else:
                db.execute("DELETE FROM events WHERE kind = 'quarantined'")
        with Bank(path) as bank:
            if not bank.verify().problems:
                wrong.append(f"{a}, {b}: verify is content")
            elif what != "deleted quarantine":
                found(bank)
    report(len(pairs), wrong, capsys)


def move(db: sqlite3.Connection, table: str, which: str, both: bool, a: int, b: int) -> None:
    """Give memory a the bytes and checksum of memory b's row, and, with `both`, b those of a."""
    read = f"SELECT bytes, sha256 FROM {table} WHERE {which} AND seq = ?"
    rows = [db.execute(read, (seq,)).fetchone() for seq in (a, b)]
    for seq, row in ((a, rows[1]), (b, rows[0]))[: 1 + both]:
        db.execute(
            f"UPDATE {table} SET bytes = ?, sha256 = ? WHERE {which} AND seq = ?", (*row, seq)
        )


# ------------------------------------------------------------------ full disks
FULL = """
import json, os, resource, signal, sys
from latentmem.bank import Bank
from latentmem.engine.receipts import events
from latentmem.records import Event, LatentmemError
from tests.bank_samples import make_memory, make_receipt
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, offsets = sys.argv[1], json.loads(sys.argv[2])
good = open(path, "rb").read()
for offset in offsets:
    with open(f"{path}.{offset}", "wb") as f:
        f.write(good)
    if not os.fork():
        told, limit = [], len(good) + offset
        with Bank(f"{path}.{offset}") as bank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                for number in range(100, 140):
                    memory = make_memory(number, tokens=8, hidden=64)
                    told.append(bank.put(memory))
                    told.append(bank.record(Event(memory.id, "used")).id)
                    receipt = make_receipt(number, memory)
                    bank.keep_receipt(receipt, events(receipt))
                    told.append(receipt.id)
            except LatentmemError as e:
                print(json.dumps([offset, told, str(e)]), flush=True)
            finally:
                os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system limits no file's size")
def test_a_full_disk_loses_nothing_that_was_acknowledged(
    path: Path, night: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond an offset, which lies anywhere in a page: writes end in the middle of
    a transaction, of the bank or of its journal."""
    rng = random.Random(3)
    offsets = sorted(rng.sample(range(400_000), 100 if night else 5))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), json.dumps(offsets)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [f"offset {o}: no sentence" for o in offsets if o not in {t[0] for t in told}]
    for offset, acknowledged, sentence in told:
        with Bank(f"{path}.{offset}") as bank:
            there = {m.id for m in bank.infos()} | {e.id for e in bank.events()}
            there |= {r.id for r in bank.receipts()}
            if bank.verify().problems or not {*acknowledged, *TRUTH} <= there:
                wrong.append(f"offset {offset}: {bank.verify().problems}")
            if not sentence.endswith(".") or not bank.put(make_memory(50)):
                wrong.append(f"offset {offset}: {sentence}")
    with capsys.disabled():
        print(f"\n{sum(len(t[1]) for t in told)} writes were acknowledged")
    report(len(offsets), wrong, capsys)
