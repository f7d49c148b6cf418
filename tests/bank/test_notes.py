"""Notes and tags on memories; what tells a reader of a bank that it changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank, Overlay, notes
from latentmem.records import Event, LatentmemError
from tests.bank_samples import make_memory


def filled(n: int = 3) -> tuple[Bank, list[str]]:
    bank = Bank()
    return bank, [bank.put(make_memory(seed)) for seed in range(n)]


# ------------------------------------------------------------------ tags
def test_tags_come_and_go_and_the_last_word_counts() -> None:
    bank, (a, b, c) = filled()
    assert notes.tag(bank, [a, b], "  Good  One ") == 2 and notes.tag(bank, [a], "good one") == 0
    assert notes.tag(bank, [a], "zoo") == 1
    assert notes.tags(bank) == {a: ("good one", "zoo"), b: ("good one",)}
    assert notes.tag(bank, [a, c], "GOOD ONE", on=False) == 1
    assert notes.tags(bank) == {a: ("zoo",), b: ("good one",)} and notes.tags(bank, a) == {
        a: ("zoo",)
    }
    assert notes.tag(bank, [a], "good one") == 1 and notes.tags(bank, a)[a] == ("good one", "zoo")
    assert notes.tag(bank, [a[:9]], "short id") == 1 and "short id" in notes.tags(bank)[a]


@pytest.mark.parametrize("bad", ["", "  ", "x" * 33, "a,b", "a\x00b"])
def test_a_tag_that_does_not_fit_is_one_sentence(bad: str) -> None:
    bank, (a, *_) = filled()
    with pytest.raises(LatentmemError, match="tag"):
        notes.tag(bank, [a], bad)
    with pytest.raises(LatentmemError, match="no memory"):
        notes.tag(bank, ["m000nothere"], "x")
    assert bank.events() == []


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]), st.booleans()), max_size=12)
)
def test_tags_are_what_a_set_would_hold(steps: list[tuple[int, str, bool]]) -> None:
    bank, ids = filled()
    model: dict[str, set[str]] = {i: set() for i in ids}
    for which, name, on in steps:
        notes.tag(bank, [ids[which]], name, on)
        (model[ids[which]].add if on else model[ids[which]].discard)(name)
    assert notes.tags(bank) == {i: tuple(sorted(names)) for i, names in model.items() if names}


def test_tags_and_notes_of_a_foreign_bank_are_not_believed() -> None:
    bank, (a, *_) = filled()
    for detail in ({"tag": 3}, {"tag": "UPPER"}, {"tag": "y" * 99}, {}, {"tag": "ok", "on": "yes"}):
        bank.record(Event(a, "tag", detail=detail))
    for detail in ({"text": 3}, {"text": " "}, {}, {"removes": 4}):
        bank.record(Event(a, "note", detail=detail))
    assert notes.tags(bank) == {} and notes.notes(bank) == {}
    bank.record(Event(a, "note", detail={"text": "z" * 5000}))
    assert len(notes.notes(bank)[a][0].text) == notes.MOST_NOTE


def test_tags_and_notes_survive_an_export(tmp_path: Path) -> None:
    bank, (a, b, _) = filled()
    notes.tag(bank, [a, b], "kept")
    note = notes.add_note(bank, a, "Half \ud800 a character")
    bank.export_zip(tmp_path / "x.zip")
    other = Bank()
    other.import_zip(tmp_path / "x.zip")
    assert notes.tags(other) == notes.tags(bank) and notes.notes(other) == {a: (note,)}


def test_many_tags_are_one_transaction() -> None:
    bank, ids = filled(40)
    before = bank._store.writes
    assert notes.tag(bank, ids, "all") == 40 and bank._store.writes == before + 1
    assert len(bank.events(kind="tag")) == 40


# ------------------------------------------------------------------ notes
def test_notes_are_kept_newest_first_and_removed_one_by_one() -> None:
    bank, (a, b, _) = filled()
    first, second = notes.add_note(bank, a, "first"), notes.add_note(bank, a, " second\n")
    assert notes.notes(bank, a) == {a: (second, first)} and second.text == "second"
    notes.remove_note(bank, a, first.id)
    assert [n.text for n in notes.notes(bank)[a]] == ["second"]
    for note_id, memory in ((first.id, a), (second.id, b), ("nonsense", a)):
        with pytest.raises(LatentmemError, match="no note"):
            notes.remove_note(bank, memory, note_id)
    for bad in (" ", "x" * 2001):
        with pytest.raises(LatentmemError, match="note"):
            notes.add_note(bank, a, bad)


def test_a_visitors_notes_stay_with_the_visitor() -> None:
    bank, (a, *_) = filled()
    mine, theirs = Overlay(bank), Overlay(bank)
    own = mine.put(make_memory(9))
    assert notes.tag(mine, [a, own], "mine") == 2
    kept = notes.add_note(mine, a, "hello")
    assert notes.tags(mine) == {a: ("mine",), own: ("mine",)} and notes.notes(mine, a)[a] == (kept,)
    notes.remove_note(mine, a, kept.id)
    assert not notes.notes(mine) and not notes.tags(theirs) and bank.events() == []


# ------------------------------------------------------------------ reading
def test_the_stamps_tell_what_changed(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "b.sqlite")
    a = bank.put(make_memory(0))
    both = bank.memories_stamp(), bank.stamp()
    assert (bank.memories_stamp(), bank.stamp()) == both, "nothing changed"
    bank.record(Event(a, "used"))
    assert bank.memories_stamp() == both[0] and bank.stamp() != both[1]
    for change in (
        lambda: bank.put(make_memory(1)),
        lambda: bank.quarantine(a, "x"),
        lambda: bank.delete(a),
    ):
        before = bank.memories_stamp(), bank.stamp()
        change()
        assert bank.memories_stamp() != before[0] and bank.stamp() != before[1]
    before = bank.memories_stamp(), bank.stamp()
    with Bank(tmp_path / "b.sqlite") as other:
        other.put(make_memory(2))
    assert bank.memories_stamp() != before[0] and bank.stamp() != before[1]


def test_an_overlay_changes_with_either_bank_and_with_what_is_beside() -> None:
    bank, (a, *_) = filled()
    overlay = Overlay(bank)
    for change in (
        lambda: overlay.record(Event(a, "used")),
        lambda: overlay.put(make_memory(8)),
        lambda: bank.put(make_memory(9)),
    ):
        before = overlay.stamp()
        change()
        assert overlay.stamp() != before


def test_all_soft_prompts_in_one_pass_without_the_damaged() -> None:
    bank, ids = filled(70)
    found = dict(bank.soft_prompts())
    assert list(found) == ids
    for seed, ident in enumerate(ids):
        np.testing.assert_array_equal(found[ident], make_memory(seed).soft_prompt)
    with bank._store.writing() as db:
        db.execute("UPDATE parts SET bytes = X'00' WHERE part = 'soft_prompt' AND seq = 3")
    assert len(dict(bank.soft_prompts())) == 69
    overlay = Overlay(bank)
    own = overlay.put(make_memory(99))
    assert list(dict(overlay.soft_prompts()))[-1] == own
