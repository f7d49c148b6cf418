"""An own bank over a shared one: reads as if both were one, and nothing is ever written to the
shared one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank, Overlay
from latentmem.bank import overlay as overlays
from latentmem.bank.key_index import OtherKeys
from latentmem.bank.notes import tag, tags
from latentmem.engine.receipts import events
from latentmem.records import Event, LatentmemError
from tests.bank_samples import archive_of, assert_same, bank_of, make_memory, make_receipt, unit

SHARED, MINE = range(5), range(5, 9)


def filled(bank: Bank, seeds: range) -> Bank:
    for seed in seeds:
        bank.put(make_memory(seed))
    return bank


@pytest.fixture
def shared() -> Bank:
    return filled(Bank(":memory:"), SHARED)


@pytest.fixture
def overlay(shared: Bank) -> Overlay:
    return filled(Overlay(shared, most=6), MINE)


def ids(seeds: range) -> list[str]:
    return [make_memory(seed).id for seed in seeds]


@pytest.fixture(scope="module")
def searched() -> tuple[Overlay, Bank]:
    """An overlay, and one bank with all its memories; for searching only."""
    return filled(Overlay(filled(Bank(":memory:"), SHARED)), MINE), filled(
        filled(Bank(":memory:"), SHARED), MINE
    )


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    model=st.sampled_from([None, "model0", "model1"]),
    gone=st.sets(st.integers(0, 8), max_size=4),
)
def test_search_is_that_of_one_bank_with_all_memories(
    searched: tuple[Overlay, Bank], seed: int, k: int, model: str | None, gone: set[int]
) -> None:
    key, exclude = unit(np.random.default_rng(seed), 6), [make_memory(i).id for i in gone]
    ours, theirs = (bank.search(key, k=k, model=model, exclude=exclude) for bank in searched)
    assert [(h.memory_id, h.rank, h.name) for h in ours] == [
        (h.memory_id, h.rank, h.name) for h in theirs
    ]
    assert np.allclose([h.similarity for h in ours], [h.similarity for h in theirs])
    assert [h.margin is None for h in ours] == [h.margin is None for h in theirs]
    assert np.allclose([h.margin or 0 for h in ours], [h.margin or 0 for h in theirs], atol=1e-6)


def test_a_shared_bank_of_another_embedder_does_not_hide_ones_own_memories() -> None:
    own = make_memory(1, dim=6)
    overlay = Overlay(Bank(":memory:"))
    overlay.curated.put(make_memory(2, dim=9))
    with pytest.raises(OtherKeys, match="has 6 numbers, but the input keys of the bank have 9"):
        overlay.search(own.keys["input"])
    overlay.put(own)
    assert [h.memory_id for h in overlay.search(own.keys["input"], k=5)] == [own.id]


def test_rows_and_keys_are_those_of_both(overlay: Overlay) -> None:
    both = filled(filled(Bank(":memory:"), SHARED), MINE)
    assert [i.id for i in overlay.infos()] == [i.id for i in both.infos()] and len(overlay) == 9
    assert [i.id for i in overlay.infos(limit=3)] == [i.id for i in both.infos(limit=3)]
    assert [i.id for i in overlay.infos(source="set1")] == [i.id for i in both.infos(source="set1")]
    assert [i.id for i in overlay.infos(text="6 plus")] == [make_memory(6).id]
    names, keys = overlay.keys("input", model="model1")
    others, same = both.keys("input", model="model1")
    assert names == others and np.array_equal(keys, same)
    for seed in (0, 6):
        assert_same(overlay.get(make_memory(seed).id), make_memory(seed))
        assert overlay.info(make_memory(seed).id[:10]).id == make_memory(seed).id
    with pytest.raises(LatentmemError, match="no memory 'm000nothere'"):
        overlay.get("m000nothere")


def test_nothing_is_written_to_the_shared_bank(overlay: Overlay, shared: Bank) -> None:
    one, own = ids(SHARED)[0], ids(MINE)[0]
    for event in (Event(one, "used"), Event(own, "used"), Event(one, "helped")):
        overlay.record(event)
    overlay.quarantine(one, "not for me")
    overlay.put(make_memory(0))  # it is there already
    with pytest.raises(LatentmemError, match="only its keeper"):
        overlay.delete(one)
    overlay.delete(own)
    assert len(shared) == 5 and shared.events() == [] and not shared.info(one).quarantined
    assert one in overlay
    assert own not in overlay
    assert not overlay.owns(one)
    assert overlay.owns(ids(MINE)[1])


def test_what_happens_to_a_shared_memory_is_seen_here(overlay: Overlay) -> None:
    one = ids(SHARED)[0]
    for kind in ("used", "used", "hurt"):
        overlay.record(Event(one, kind, receipt_id="r1"))
    assert (overlay.info(one).counters.used, overlay.info(one).counters.hurt) == (2, 1)
    assert [e.kind for e in overlay.events(one)] == ["hurt", "used", "used"]
    assert [e.kind for e in overlay.events(kind="hurt", receipt_id="r1")] == ["hurt"]
    assert len(overlay.events(limit=2)) == 2 and len({e.id for e in overlay.events()}) == 3
    key = make_memory(0).keys["input"]
    assert overlay.search(key)[0].memory_id == one
    overlay.quarantine(one, "harmful")
    assert overlay.search(key)[0].memory_id != one and one not in overlay.keys("input")[0]
    assert overlay.search(key, include_quarantined=True)[0].memory_id == one
    assert [i.id for i in overlay.infos(quarantined=True)] == [one]
    overlay.release(one)
    assert overlay.search(key)[0].memory_id == one and not overlay.info(one).quarantined
    with pytest.raises(LatentmemError, match="no kind of event"):
        overlay.record(Event(one, "nonsense"))  # type: ignore[arg-type]


def test_the_keepers_quarantine_stands(shared: Bank, overlay: Overlay) -> None:
    one = ids(SHARED)[1]
    shared.quarantine(one, "wrong label")
    with pytest.raises(LatentmemError, match="only they can release"):
        overlay.release(one)
    assert overlay.info(one).quarantined


def test_two_overlays_know_nothing_of_each_other(shared: Bank) -> None:
    a, b = Overlay(shared), Overlay(shared)
    a.put(make_memory(7))
    a.record(Event(ids(SHARED)[0], "used"))
    key = make_memory(7).keys["input"]
    assert make_memory(7).id not in b and make_memory(7).id not in [i.id for i in b.infos()]
    assert make_memory(7).id not in [h.memory_id for h in b.search(key, k=9)] and b.events() == []
    with pytest.raises(LatentmemError):
        b.get(make_memory(7).id)


def test_receipts_stay_with_the_visitor(shared: Bank, overlay: Overlay) -> None:
    keepers, mine, both = (
        make_receipt(1, make_memory(0)),
        make_receipt(2, make_memory(5)),
        make_receipt(3, make_memory(0)),
    )
    shared.keep_receipt(keepers, events(keepers))
    before = list(shared._store._db.iterdump())  # type: ignore[union-attr]
    for r in (mine, both):
        overlay.keep_receipt(r, events(r))
    assert list(shared._store._db.iterdump()) == before, "the shared bank is never written to"  # type: ignore[union-attr]
    assert overlay.receipt(both.id).memory_id == make_memory(0).id
    assert overlay.info(make_memory(0).id).counters.used == 2
    assert [r.id for r in overlay.receipts()] == [both.id, mine.id] and len(
        overlay.receipts(limit=1)
    ) == 1
    assert overlay.asked(make_memory(0).id) == {both.id: both.problem.text}, (
        "what the keeper asked is not shown"
    )
    assert [r.id for r in overlay.receipts(make_memory(5).id)] == [mine.id]
    other = Overlay(shared)
    for ident in (keepers.id, mine.id, both.id):
        with pytest.raises(LatentmemError, match="no receipt"):
            other.receipt(ident)
    assert other.receipts() == [] and other.asked(make_memory(0).id) == {}
    with pytest.raises(LatentmemError, match="no receipt"):
        overlay.receipt(keepers.id)
    assert overlay.forget([mine.id]) == 1 and [r.id for r in overlay.receipts()] == [both.id]
    assert overlay.forget() == 1 and [r.id for r in shared.receipts()] == [keepers.id]


def test_a_visitor_keeps_so_many_receipts_and_no_more(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "MOST_RECEIPTS", 3)
    small = Overlay(overlay.curated)
    for i in range(5):
        small.keep_receipt(make_receipt(i))
    assert [r.seed for r in small.receipts()] == [4, 3, 2]
    gone = make_receipt(9, make_memory(12))  # of a memory that the keeper deleted meanwhile
    small.keep_receipt(gone, events(gone))
    assert small.receipt(gone.id).memory_id == gone.memory_id and small.events() == []


def test_there_is_room_for_so_many_and_no_more(overlay: Overlay) -> None:
    overlay.put(make_memory(9)), overlay.put(make_memory(10))
    with pytest.raises(LatentmemError, match="7 memories are more than the 6"):
        overlay.put(make_memory(11))
    overlay.put(make_memory(10))  # the same again needs no room
    assert len(overlay.own) == 6


def test_export_and_import(overlay: Overlay, shared: Bank, tmp_path) -> None:
    report = overlay.export_zip(tmp_path / "mine.zip")
    assert report.memories == 4
    assert overlay.export_zip(tmp_path / "both.zip", [*ids(range(4, 7))]).memories == 3
    other = Overlay(shared, most=6)
    with pytest.raises(LatentmemError, match="no memory of your own"):
        other.export_zip(tmp_path / "none.zip")
    taken = other.import_zip(tmp_path / "both.zip")
    assert (taken.added, taken.skipped) == (2, 1)
    assert other.owns(ids(MINE)[0])
    assert not other.owns(ids(SHARED)[4])
    taken = other.import_zip(tmp_path / "mine.zip")
    assert (taken.added, taken.skipped) == (2, 2) and len(other.own) == 4
    small = Overlay(shared, most=3)
    with pytest.raises(LatentmemError, match="more than the 3"):
        small.import_zip(tmp_path / "mine.zip")
    assert len(small.own) == 0 and small.import_zip(tmp_path / "both.zip").added == 2
    overlay.export_peft(ids(SHARED)[0], tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()


def test_what_an_export_lacks_is_said(overlay: Overlay, shared: Bank, tmp_path) -> None:
    one, other = ids(SHARED)[:2]
    for event in (Event(one, "used"), Event(other, "used"), Event(ids(MINE)[0], "used")):
        (shared if event.memory_id in shared else overlay).record(event)
    good = tmp_path / "good.zip"
    chosen = [one, other, ids(MINE)[0]]
    assert overlay.export_zip(good, chosen).events == 3
    before = good.read_bytes()
    db = shared._store._db
    assert db is not None
    db.execute("UPDATE parts SET bytes = zeroblob(9) WHERE seq = 1 AND part = 'traces'")
    db.execute(f"UPDATE events SET kind = 'hurt' WHERE memory_id = '{other}'")
    report = overlay.export_zip(tmp_path / "rescued.zip", chosen)
    assert (report.memories, report.events, len(report.refused)) == (2, 1, 2)
    told = " ".join(report.refused)
    assert f"Memory {one} is damaged" in told and f"1 damaged events of memory {other}" in told
    with pytest.raises(LatentmemError, match="lacks 2 memories or events of them"):
        overlay.export_zip(good, chosen)
    assert good.read_bytes() == before


def test_what_an_import_leaves_out_is_said(
    overlay: Overlay, shared: Bank, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay.export_zip(tmp_path / "mine.zip")
    small = Overlay(shared, most=6)
    copied = overlays._copied

    def worn(bank: Bank, names) -> object:
        bank._store._db.execute(
            "UPDATE parts SET bytes = zeroblob(9) WHERE seq = 1 AND part = 'traces'"
        )  # type: ignore[union-attr]
        return copied(bank, names)

    monkeypatch.setattr(overlays, "_copied", worn)
    taken = small.import_zip(tmp_path / "mine.zip")
    assert taken.added == len(small.own) == 3
    assert len(taken.refused) == 1
    assert "is damaged" in taken.refused[0]


def test_the_newest_event_is_the_first_whatever_the_time_zone(
    overlay: Overlay, shared: Bank
) -> None:
    one, mine = ids(SHARED)[0], ids(MINE)[0]
    shared.record(Event(one, "used", created="2026-01-01T12:00:00+03:00", id="early"))
    overlay.record(Event(mine, "used", created="2026-01-01T11:00:00+00:00", id="late"))
    assert [e.id for e in overlay.events()] == ["late", "early"]


def test_a_bank_knows_whether_it_was_ever_used() -> None:
    bank = Bank(":memory:")
    assert bank.untouched
    bank.put(make_memory(0))
    bank.delete(make_memory(0).id)
    assert len(bank) == 0 and not bank.untouched


# ------------------------------------------------------------------ limits
def test_a_visitor_brings_no_longer_prompt_than_the_shared_app_makes() -> None:
    visitor = Overlay(bank_of(make_memory(0)), most=3, longest=32)
    report = visitor.import_zip(archive_of(make_memory(1), make_memory(2, tokens=33)))
    assert (report.added, report.skipped) == (1, 0) and len(visitor.own) == 1
    assert len(report.refused) == 1
    assert "33 virtual tokens, more than the 32 that this shared app allows" in report.refused[0]


def test_all_that_is_a_visitors_own_is_weighed() -> None:
    shared, one = make_memory(0), make_memory(1)
    visitor = Overlay(bank_of(shared), most=20)
    visitor.import_zip(archive_of(one))
    visitor.most_bytes = visitor.own.stats()["used"] + 2000
    for target in (one, shared):
        for _ in range(2):
            visitor.record(Event(target.id, "used"))
            visitor.record(Event(target.id, "note", detail={"text": "z" * 500}))
    for target in (one, shared):
        with pytest.raises(
            LatentmemError, match="more than the 0 MiB that this shared app keeps for you"
        ):
            visitor.record(Event(target.id, "note", detail={"text": "z" * 4000}))
    for add in (
        lambda: visitor.import_zip(archive_of(make_memory(2))),
        lambda: visitor.put(make_memory(3, tokens=400)),
    ):
        with pytest.raises(LatentmemError, match="delete some memories"):
            add()
    assert len(visitor.own) == 1
    notes = [e for e in visitor.events(kind="note") if e.detail]
    for undo in (
        lambda: visitor.quarantine(shared.id, "harmful"),
        lambda: visitor.release(one.id),
        lambda: visitor.record(Event(shared.id, "tag", detail={"tag": "x", "on": False})),
        lambda: visitor.record(Event(notes[0].memory_id, "note", detail={"removes": notes[0].id})),
    ):
        undo()
    visitor.delete(one.id)
    visitor.put(make_memory(4))
    assert len(visitor.own) == 1, "where some were deleted there is room again"


def test_an_archive_is_weighed_by_what_is_new_in_it() -> None:
    many = [make_memory(i, tokens=500) for i in range(8)]
    visitor = Overlay(bank_of(*many), most=2, most_bytes=100_000)
    everything = archive_of(*many, make_memory(9))
    assert everything.getbuffer().nbytes > 100_000
    report = visitor.import_zip(everything)
    assert (report.added, report.skipped) == (1, 8)


def test_what_a_visitor_did_outlasts_what_answers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make_memory(0)
    visitor = Overlay(bank_of(memory))
    monkeypatch.setattr(overlays, "MOST_EVENTS", 3)
    visitor.quarantine(memory.id, "harmful")
    for _ in range(5):
        visitor.record(Event(memory.id, "retrieved"))
    assert visitor.info(memory.id).quarantined and len(visitor.events(memory.id)) == 3
    for _ in range(2):
        visitor.record(Event(memory.id, "note", detail={"text": "mine"}))
    with pytest.raises(LatentmemError, match="3 notes and changes of shared memories are as many"):
        visitor.record(Event(memory.id, "note", detail={"text": "one more"}))
    visitor.keep_receipt(make_receipt(1, memory), [Event(memory.id, "used")])
    assert [e.kind for e in visitor.events(memory.id)] == ["note", "note", "quarantined"], (
        "an answer is given all the same"
    )
    visitor.release(memory.id)
    assert not visitor.info(memory.id).quarantined, "in place of the state that it overrides"


def test_tags_of_many_are_given_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, mine = [make_memory(i) for i in range(4)], make_memory(9)
    visitor = Overlay(bank_of(*shared))
    visitor.put(mine)
    names = [m.id for m in (*shared, mine)]
    assert tag(visitor, names, "one") == 5
    monkeypatch.setattr(overlays, "MOST_EVENTS", 6)
    with pytest.raises(LatentmemError, match="are as many as this shared app keeps"):
        tag(visitor, names, "two")
    assert set(tags(visitor).values()) == {("one",)} and len(tags(visitor)) == 5
    monkeypatch.setattr(
        visitor.own, "record_all", lambda events: (_ for _ in ()).throw(LatentmemError("full"))
    )
    with pytest.raises(LatentmemError, match="full"):
        tag(visitor, names, "one", on=False)
    assert set(tags(visitor).values()) == {("one",)}, "and what was recorded beside is undone"


def test_an_upload_is_counted_and_weighed_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = Overlay(bank_of(make_memory(0)), most=2)
    many = archive_of(*(make_memory(i) for i in range(1, 6)))
    monkeypatch.setattr("latentmem.bank.archive._arrays_of", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(
        LatentmemError, match="holds 5 memories, more than the 3 that there is room for"
    ):
        visitor.import_zip(many)
    monkeypatch.setattr(overlays, "MOST_BYTES", 1 << 10)
    with pytest.raises(LatentmemError, match="unpacks to 0 MiB, more than the 0 MiB allowed here"):
        visitor.import_zip(archive_of(make_memory(1)))
    assert len(visitor.own) == 0
