"""Which memory is tried, and why none: over a bank of two memories with keys written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from latentmem.bank.key_index import OtherKeys
from latentmem.method.retrieval import Search, choose
from latentmem.records import Hit, Problem

SEARCH = Search("input", 2, 0.25, "a model", "an embedder")
KEYS = {"near": [1.0, 0.0], "far": [0.6, 0.8], "asked": [0.8, 0.6]}
ASKED = Problem("asked")


def key(problem: Problem, kind: str = "input") -> np.ndarray:
    return np.array(KEYS[problem.text], np.float32)


class Two:
    """A bank of two memories; `near` is at 0.8 and `far` at 0.96 from what is asked."""

    def __init__(self) -> None:
        self.memories = {
            name: SimpleNamespace(
                id=name, name=name, problem=Problem(name), keys={"input": key(Problem(name))}
            )
            for name in ("near", "far")
        }

    def get(self, name: str) -> SimpleNamespace:
        return self.memories[name]

    def search(
        self, here: np.ndarray, *, kind: str, k: int, model: str, exclude: list[str]
    ) -> tuple[Hit, ...]:
        assert (kind, k, model) == ("input", 2, "a model")
        left = [m for m in self.memories.values() if m.id not in exclude]
        found = [(float(here @ m.keys["input"]), m) for m in left]
        ranked = sorted(found, key=lambda pair: -pair[0])
        return tuple(Hit(m.id, m.name, s, rank + 1) for rank, (s, m) in enumerate(ranked))


def test_the_nearest_memory_is_tried() -> None:
    choice = choose(Two(), key, ASKED, SEARCH)
    assert choice.memory.id == choice.used.memory_id == "far" and choice.skip_reason == ""
    assert [h.similarity for h in choice.hits] == pytest.approx([0.96, 0.8])


def test_the_memory_of_an_id_is_tried_however_near_it_is() -> None:
    choice = choose(Two(), key, ASKED, Search("input", 1, 1.0, "", ""), "near")
    assert choice.memory.id == "near" and choice.used.similarity == pytest.approx(0.8)
    bank = Two()
    bank.memories["near"].keys = {"kv": np.ones(3)}
    assert choose(bank, key, ASKED, SEARCH, "near").used.similarity == 0.0, "nothing to compare"


def refusing(self: Two, *_: object, **__: object) -> tuple[Hit, ...]:
    raise OtherKeys("The search key has 2 numbers.")


def test_a_memory_with_a_foreign_or_forged_key_is_passed_over_and_marked() -> None:
    """Nothing but the next memory changes: one bad key does not switch memories off."""
    bank = Two()
    bank.memories["far"].problem = Problem("near")
    choice = choose(bank, key, ASKED, SEARCH)
    assert choice.memory.id == choice.used.memory_id == "near" and choice.used.rank == 2
    assert [h.memory_id for h in choice.hits] == ["far", "near"]
    assert choice.hits[0].passed_over == "its key was not made by an embedder"
    strict = choose(bank, key, ASKED, Search("input", 2, 0.9, "a model", "an embedder"))
    assert strict.memory is None and "similarity 0.80, below the threshold" in strict.skip_reason
    assert "1 memory was passed over, since its key" in strict.skip_reason


def test_why_no_memory_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(bank: Two, search: Search = SEARCH, memory: str = "auto") -> str:
        choice = choose(bank, key, ASKED, search, memory)
        assert choice.memory is None and choice.used is None
        return choice.skip_reason

    assert "switched off" in reason(Two(), memory="off")
    strict = Search("input", 2, 0.97, "a model", "an embedder")
    assert "similarity 0.96, below the threshold 0.97" in reason(Two(), strict)
    strange = Two()
    strange.memories["far"].problem = Problem("near")  # another embedder made both keys
    strange.memories["near"].problem = Problem("far")
    assert (
        "2 memories were passed over, the first since its key was not made by an embedder: choose"
        in reason(strange)
    )
    empty = Two()
    empty.memories = {}
    assert "holds no memory" in reason(empty)
    monkeypatch.setattr(Two, "search", refusing)
    assert reason(Two()) == "No memory is tried. The search key has 2 numbers."
