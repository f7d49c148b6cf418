"""Notes, tags, what an explorer reads of a bank, and the words beside a virtual token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank
from latentmem.bank import notes as notes
from latentmem.bank.overlay import Overlay
from latentmem.bank.reads import memories_stamp, soft_prompts, stamp
from latentmem.model import vocabulary
from latentmem.records import Event, LatentmemError
from tests.bank_samples import make_memory
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer


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
    both = memories_stamp(bank), stamp(bank)
    assert (memories_stamp(bank), stamp(bank)) == both, "nothing changed"
    bank.record(Event(a, "used"))
    assert memories_stamp(bank) == both[0] and stamp(bank) != both[1]
    for change in (
        lambda: bank.put(make_memory(1)),
        lambda: bank.quarantine(a, "x"),
        lambda: bank.delete(a),
    ):
        before = memories_stamp(bank), stamp(bank)
        change()
        assert memories_stamp(bank) != before[0] and stamp(bank) != before[1]
    before = memories_stamp(bank), stamp(bank)
    with Bank(tmp_path / "b.sqlite") as other:
        other.put(make_memory(2))
    assert memories_stamp(bank) != before[0] and stamp(bank) != before[1]


def test_an_overlay_changes_with_either_bank_and_with_what_is_beside() -> None:
    bank, (a, *_) = filled()
    overlay = Overlay(bank)
    for change in (
        lambda: overlay.record(Event(a, "used")),
        lambda: overlay.put(make_memory(8)),
        lambda: bank.put(make_memory(9)),
    ):
        before = stamp(overlay)
        change()
        assert stamp(overlay) != before


def test_all_soft_prompts_in_one_pass_without_the_damaged() -> None:
    bank, ids = filled(70)
    found = dict(soft_prompts(bank))
    assert list(found) == ids
    for seed, ident in enumerate(ids):
        np.testing.assert_array_equal(found[ident], make_memory(seed).soft_prompt)
    with bank._store.writing() as db:
        db.execute("UPDATE parts SET bytes = X'00' WHERE part = 'soft_prompt' AND seq = 3")
    assert len(dict(soft_prompts(bank))) == 69
    overlay = Overlay(bank)
    own = overlay.put(make_memory(99))
    assert list(dict(soft_prompts(overlay)))[-1] == own


# ------------------------------------------------------------------ words
def test_the_nearest_words_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "CHUNK", 50)  # 258 words in six chunks
    torch.manual_seed(0)
    table = torch.randn(258, 16)
    table[7] = 0  # a word that was never trained
    prompt = torch.randn(4, 16).numpy()
    prompt[2] = 3 * table[65].numpy()
    found = vocabulary.nearest_words(table, tiny_tokenizer(), prompt, 3)
    unit = table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)
    exact = torch.from_numpy(prompt / np.linalg.norm(prompt, axis=1, keepdims=True)) @ unit.T
    for row, scores in zip(found, exact, strict=True):
        assert [w.token for w in row] == [
            int(i) for i in scores.argsort(descending=True) if i != 7
        ][:3]
        assert [w.cosine for w in row] == pytest.approx(
            sorted(scores.tolist(), reverse=True)[:3], abs=1e-5
        )
    assert found[2][0].token == 65 and found[2][0].cosine == pytest.approx(1)
    assert found[2][0].text == tiny_tokenizer().decode([65])
    with pytest.raises(LatentmemError, match="16 numbers a token and the model's words have 8"):
        vocabulary.nearest_words(table[:, :8], tiny_tokenizer(), prompt)


def test_words_of_a_memory_need_the_model_that_made_it() -> None:
    model = tiny_model()
    mine = make_memory(1, hidden=32, model=model.fingerprint)
    assert [len(row) for row in vocabulary.memory_words(model, mine, 2)] == [2] * 4
    with pytest.raises(LatentmemError, match="made by name1 and the model in use is tiny"):
        vocabulary.memory_words(model, make_memory(1, hidden=32))


@pytest.mark.parametrize("tied", [True, False])
def test_the_size_of_a_model_is_what_transformers_counts(tied: bool) -> None:
    expected = sum(p.numel() for p in tiny_hf(tie_word_embeddings=tied).parameters())
    assert vocabulary.parameters(tiny_model(tie_word_embeddings=tied)) == expected
