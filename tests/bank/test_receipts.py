"""Receipts in a bank: what comes back, how many stay, and how a bank of before receipts is
opened."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank, schema, serialization
from latentmem.bank import bank as bank_receipts
from latentmem.engine.receipts import events
from latentmem.records import (
    Event,
    LatentmemError,
    Problem,
    Receipt,
    Route,
    Trace,
    from_json,
    to_json,
)
from tests.bank_samples import make_memory, make_receipt, older
from tests.fuzz_samples import damaged, is_sentence, twisted

ONE, TWO = make_memory(0), make_memory(1)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=500)


def filled() -> Bank:
    bank = Bank()
    for memory in (ONE, TWO):
        bank.put(memory)
    return bank


def ask(bank: Bank, seed: int, memory=ONE) -> Receipt:
    receipt = make_receipt(seed, memory)
    bank.keep_receipt(receipt, events(receipt))
    return receipt


# ------------------------------------------------------------------ keeping and reading
@given(
    text=WORDS,
    said=WORDS,
    seed=st.integers(0, 2**63 - 1),
    score=st.floats(allow_nan=False, allow_infinity=False),
    answer=st.none() | WORDS,
)
def test_a_receipt_comes_back_with_all_but_long_texts_and_tokens(
    text: str, said: str, seed: int, score: float, answer: str | None
) -> None:
    route = Route("memory", answer, False, said, {"memory": score}, "judge")
    trace = Trace(0, text, answer, True, 9, token_ids=(1, 2), entropy=abs(score))
    made = make_receipt(
        seed,
        ONE,
        problem=Problem("? " + text),
        answer=answer,
        route=route,
        traces=(trace,),
        settings={"seed": seed, "key": "kv", "top_p": 0.5},
    )
    with Bank() as bank:
        bank.keep_receipt(made)
        found = bank.receipt(made.id)
        assert replace(found, traces=()) == replace(made, traces=())
        kept = found.traces[0]
        assert replace(kept, text=text, token_ids=(1, 2)) == trace
        assert (
            kept.text == text
            if len(text) <= serialization.MOST_TEXT
            else (
                len(kept.text) == serialization.MOST_TEXT
                and text.startswith(kept.text[:-1])
                and kept.text.endswith("…")
            )
        )
        assert bank.verify().problems == [] and bank.stats()["receipts"] == 1


def test_receipts_are_found_by_the_memories_that_took_part() -> None:
    bank = filled()
    first, second, alone = ask(bank, 1), ask(bank, 2, TWO), make_receipt(3)
    bank.keep_receipt(alone, events(alone))
    assert [r.id for r in bank.receipts()] == [alone.id, second.id, first.id]
    assert [r.id for r in bank.receipts(limit=1)] == [alone.id] and bank.receipts(limit=0) == []
    assert [r.id for r in bank.receipts(ONE.id[:8])] == [first.id]
    assert bank.asked(TWO.id) == {second.id: second.problem.text}
    assert [e.kind for e in bank.events(receipt_id=first.id)] == [
        "verifier_won",
        "used",
        "retrieved",
    ], "in their order"
    with pytest.raises(LatentmemError, match="no memory"):
        bank.receipts("m000nothere")


def test_keeping_the_same_again_changes_nothing() -> None:
    bank = filled()
    first = ask(bank, 1)
    bank.keep_receipt(replace(first, seconds=99.0))
    assert bank.receipt(first.id).seconds == 1.5 and len(bank.receipts()) == 1


def test_a_receipt_and_its_events_are_kept_together_or_not_at_all() -> None:
    bank, receipt = filled(), make_receipt(1, ONE)
    for bad in (Event(ONE.id, "nonsense"), Event(ONE.id, "used", detail={"x": float("nan")})):  # type: ignore[arg-type]
        with pytest.raises(LatentmemError):
            bank.keep_receipt(receipt, [*events(receipt), bad])
    with pytest.raises(LatentmemError, match="cannot be written as JSON"):
        bank.keep_receipt(replace(receipt, seconds=float("inf")), events(receipt))
    db = bank._store._db
    assert db is not None and bank.events() == [] and bank.receipts() == []
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(LatentmemError, match="full, so nothing was stored"):
        bank.keep_receipt(replace(receipt, problem=Problem("x" * 20_000)), events(receipt))
    assert bank.events() == [] and bank.receipts() == []


def test_a_receipt_outlives_its_memory_and_does_not_travel(tmp_path: Path) -> None:
    bank = filled()
    kept = ask(bank, 1)
    bank.export_zip(tmp_path / "a.zip")
    with Bank() as other:
        other.import_zip(tmp_path / "a.zip", trusted=True)
        assert other.receipts() == []
        assert other.asked(ONE.id) == {}
        assert len(other.events(ONE.id)) == 3
        with pytest.raises(LatentmemError, match="no receipt"):
            other.receipt(kept.id)
    bank.delete(ONE.id)
    assert bank.receipt(kept.id).memory_id == ONE.id
    assert bank.events() == []
    assert bank.verify().problems == []
    late = make_receipt(2, ONE)  # the memory went while its answer was given
    bank.keep_receipt(late, events(late))
    assert bank.receipt(late.id).answer == "4" and bank.events() == []


@pytest.mark.parametrize("ident", ["r404", "", "½", "r" * 500, "r1' OR 1=1", None])
def test_a_receipt_that_is_gone_is_one_sentence(ident: str) -> None:
    with pytest.raises(
        LatentmemError, match=r"There is no receipt .{1,50} here: .* newest 2000 .*\.$"
    ):
        filled().receipt(ident)


# ------------------------------------------------------------------ bounds
@given(most=st.integers(1, 6), asked=st.lists(st.integers(0, 9), max_size=15))
def test_the_newest_stay(most: int, asked: list[int]) -> None:
    with Bank(most_receipts=most) as bank:
        for seed in asked:
            bank.keep_receipt(make_receipt(seed))
        kept: list[int] = []
        for seed in asked:  # the same again is no newer
            kept = kept if seed in kept else [*kept, seed][-most:]
        assert [r.seed for r in bank.receipts()] == kept[::-1]


def test_large_receipts_leave_room_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    size = serialization.receipt_row(make_receipt(0))["size"]
    monkeypatch.setattr(bank_receipts, "ROOM", size // 2 + 20)
    with Bank(most_receipts=6) as bank:
        for seed in range(9):
            bank.keep_receipt(make_receipt(seed))
        assert [r.seed for r in bank.receipts()] == [8, 7, 6]


def test_the_events_of_an_old_answer_stay_when_its_receipt_goes() -> None:
    bank = Bank(most_receipts=1)
    bank.put(ONE)
    ask(bank, 1), ask(bank, 2)
    assert len(bank.receipts()) == 1 and bank.info(ONE.id).counters.used == 2


# ------------------------------------------------------------------ damage
@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "UPDATE receipts SET body = replace(body, '\"4\"', '\"5\"') WHERE seq = 1",
            "is damaged: its checksum does not match",
        ),
        ("UPDATE receipts SET body = x'00' WHERE seq = 1", "is damaged"),
        ("UPDATE receipts SET problem = 'other' WHERE seq = 1", "is damaged"),
        ("UPDATE receipts SET size = 1 WHERE seq = 1", "says size = '1'"),
    ],
)
def test_verify_names_a_damaged_receipt_and_the_others_go_on(sql: str, told: str) -> None:
    bank = filled()
    first, second = ask(bank, 1), ask(bank, 2)
    bank._store._db.execute(sql)  # type: ignore[union-attr]
    problems = bank.verify().problems
    assert len(problems) == 1 and first.id in problems[0] and told in problems[0]
    assert bank.receipt(second.id).seed == 2 and second.id in {r.id for r in bank.receipts()}
    if "checksum" in told:
        assert [r.id for r in bank.receipts()] == [second.id]
        with pytest.raises(LatentmemError, match="is damaged"):
            bank.receipt(first.id)


# ------------------------------------------------------------------ banks of before receipts
@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A bank of version 1, with two memories and an event that names a receipt."""
    path = tmp_path / "old.sqlite"
    with Bank(path) as bank:
        bank.put(ONE), bank.put(TWO)
        bank.record(Event(ONE.id, "used", receipt_id="r1"))
    older(path, 1)
    return path


def test_a_step_that_was_released_never_changes() -> None:
    """Banks are compared with these definitions: a change here would refuse every bank that
    exists."""
    sums = [
        hashlib.sha256("".join(step.split()).encode()).hexdigest()[:16] for step in schema.STEPS
    ]
    assert sums == ["a0a73021c5abe80e", "30612000ae4a63f4", "ae9c5bbfed0ff29b"]


def test_an_older_bank_gains_its_table_when_it_is_opened_for_writing(old: Path) -> None:
    with Bank(old) as bank:
        receipt = ask(bank, 1)
        assert bank.verify().problems == []
        assert len(bank) == 2
        assert len(bank.events(receipt_id="r1")) == 1
    with Bank(old, read_only=True) as bank:
        assert bank.receipt(receipt.id).seed == 1


def test_an_older_bank_that_is_only_read_is_not_changed(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(LatentmemError, match=r"older latentmem \(bank version 1 of 3\).*verify`"):
        Bank(old, read_only=True)
    assert old.read_bytes() == before and sorted(p.name for p in old.parent.iterdir()) == [old.name]


def test_an_older_bank_that_was_tampered_with_is_refused_unchanged(old: Path) -> None:
    db = sqlite3.connect(old)
    db.executescript("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM memories; END;")
    db.close()
    before = old.read_bytes()
    with pytest.raises(LatentmemError, match="does not have the tables"):
        Bank(old)
    assert old.read_bytes() == before


def test_a_bank_that_another_brings_up_meanwhile_is_not_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other begins right after this one has read the version: the tables must be those of that
    version."""
    pragma, others = schema._pragma, [Thread(target=lambda: Bank(old).close())]

    def slow(db: sqlite3.Connection, name: str) -> int:
        found = pragma(db, name)
        if found == 1 and others:
            started.append(others.pop())
            started[0].start()
            time.sleep(0.3)
        return found

    started: list[Thread] = []
    monkeypatch.setattr(schema, "_pragma", slow)
    with Bank(old) as bank:
        ask(bank, 1)
    started[0].join()


def test_an_older_bank_leaves_a_copy_and_what_was_damaged_in_it_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four memories of version 2: whole, in quarantine, with damaged traces, with a quarantine that
    a flipped bit undid."""
    path, made = tmp_path / "bank.sqlite", [make_memory(i) for i in range(4)]
    with Bank(path) as bank:
        for memory in made:
            bank.put(memory)
        bank.quarantine(made[1].id, "x"), bank.quarantine(made[3].id, "x")
    older(path, 2)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE parts SET bytes = x'00' WHERE part = 'traces' AND seq = 3")
        db.execute(
            "UPDATE events SET kind = 'puarantined' WHERE memory_id = ? AND kind = 'quarantined'",
            (made[3].id,),
        )
    before = dumped(path)
    for _ in range(2):
        with Bank(path) as bank:
            assert [i.id for i in bank.infos(quarantined=False)] == [made[0].id]
            assert [h.memory_id for h in bank.search(made[0].keys["input"], k=9)] == [made[0].id]
            assert bank.info(made[1].id).shut == "" and "damaged" in bank.info(made[3].id).shut
            told = " ".join(bank.verify().problems)
            assert f"Memory {made[2].id} is damaged (its traces" in told
            assert f"Memory {made[3].id}: The events that say" in told
            assert len(bank) == 4
    copy = tmp_path / "bank.sqlite.version2"
    assert dumped(copy) == before and f"it stays in {copy}" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, copy.name]


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [*db.iterdump(), *map(str, db.execute("PRAGMA user_version"))]


# ------------------------------------------------------------------ forgetting
def test_what_is_forgotten_is_gone_from_the_files_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "bank.sqlite"
    with Bank(file) as bank:
        bank.put(ONE)
        secret = make_receipt(5, ONE, problem=Problem("How many ZEBRAFISH are in the tank?"))
        bank.keep_receipt(secret, events(secret))
        others = [ask(bank, seed) for seed in range(3)]
        assert b"ZEBRAFISH" in b"".join(f.read_bytes() for f in tmp_path.iterdir())
        with pytest.raises(LatentmemError, match="no receipt 'r404' here, so none was deleted"):
            bank.forget([secret.id, "r404"])
        assert len(bank.receipts()) == 4
        assert bank.forget([secret.id, secret.id]) == 1
        assert not any(b"ZEBRAFISH" in f.read_bytes() for f in tmp_path.iterdir())
        assert {r.id for r in bank.receipts()} == {r.id for r in others} and bank.info(
            ONE.id
        ).counters.used == 4
        assert bank.forget() == 3 and bank.receipts() == [] and bank.forget() == 0
        again = ask(bank, 9)
        assert [r.id for r in bank.receipts()] == [again.id] and bank.verify().problems == []
    with Bank(file, read_only=True) as bank, pytest.raises(LatentmemError, match="reading only"):
        bank.forget()


def test_several_open_an_older_bank_at_once(old: Path) -> None:
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with Bank(old) as bank:
                ask(bank, seed)
        except BaseException as e:
            failed.append(e)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with Bank(old) as bank:
        assert {r.seed for r in bank.receipts()} == set(range(4)) and bank.verify().problems == []


def test_a_failed_step_leaves_the_older_bank_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = old.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(
            schema, "STEPS", (schema.STEPS[0], "CREATE TABLE receipts (seq);\nNOT SQL;\n")
        )
        with pytest.raises(sqlite3.OperationalError):
            Bank(old)
    assert old.read_bytes() == before
    assert len(Bank(old)) == 2


RECEIPT = to_json(make_receipt(1, make_memory(1)))


@given(st.data())
def test_fuzz_a_receipt(data: st.DataObject) -> None:
    """A receipt from a file is read or refused in a sentence, and a bank keeps what was read."""
    if data.draw(st.booleans()):
        text = json.dumps(data.draw(twisted(json.loads(RECEIPT)))).encode()
    else:
        text = data.draw(damaged(RECEIPT.encode()))
    try:
        read = from_json(Receipt, text)
        with Bank() as bank:
            bank.keep_receipt(read)
            assert bank.receipt(read.id).sentence() == read.sentence()
    except LatentmemError as e:
        assert is_sentence(str(e)), str(e)
