"""Imported memories: on probation, trusted, in quarantine by themselves, and hubs; over a real bank
with receipts written by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from latentmem.bank import Bank
from latentmem.engine.receipts import Circumstances, events, judged, write
from latentmem.method import trust
from latentmem.method.routing import route
from latentmem.records import (
    Cluster,
    Event,
    Hit,
    LatentmemError,
    Memory,
    Problem,
    Receipt,
    Side,
    Vote,
)

RNG = np.random.default_rng(0)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x)).astype(np.float32)


def memory(name: str, key: np.ndarray | None = None) -> Memory:
    made = unit(RNG.normal(size=8)) if key is None else unit(key)
    prompt = RNG.normal(size=(2, 4)).astype(np.float32)
    return Memory(
        Problem(name), prompt, {"input": made}, "model", "a model", Vote((), 0, 0), (), (), 0
    )


def archive(*some: Memory, also: Event | None = None) -> io.BytesIO:
    with Bank() as bank:
        bank.put_all(some)
        if also is not None:
            bank.record(also)
        file = io.BytesIO()
        bank.export_zip(file)
    return io.BytesIO(file.getvalue())


@pytest.fixture
def bank() -> Bank:
    """A bank into which one memory, MADE, was imported."""
    bank = Bank()
    assert bank.import_zip(archive(MADE)).added == 1
    return bank


MADE = memory("made elsewhere")


def vote(label: str | None, side: Side = "zero_shot") -> Vote:
    return Vote((Cluster(label, (0, 1)),) if label else (), 2, 2 if label else 0, True, side)


def answered(bank: Bank, problem: str, alone: str, other: str, n: int = 0) -> Receipt:
    """The receipt of an answer that tried MADE, kept in the bank and reviewed."""
    votes: dict[Side, Vote] = {"zero_shot": vote(alone), "memory": vote(other, "memory")}
    scores = {"zero_shot": 0.5, "memory": 1.0}
    sentence = trust.probation(bank, MADE)
    way = route(*votes.values(), scores, verifier="judge", probation=sentence)
    hit = Hit(MADE.id, MADE.name, 0.9, 1)
    around = Circumstances("model", "a model", {}, 0, "input", (hit,), hit)
    slip = write(Problem(problem), around, way, votes, (), 1.0, f"2026-01-01T00:00:{n:02d}+00:00")
    bank.keep_receipt(slip, events(slip))
    trust.review(bank, MADE.id)
    return slip


def judge(bank: Bank, slip: Receipt, correct: bool) -> Event | None:
    bank.record_all(judged(slip, correct))
    return trust.review(bank, MADE.id)


def test_own_memories_and_the_shipped_ones_are_not_on_probation(bank: Bank) -> None:
    from latentmem.files import example

    own = memory("made here")
    bank.put(own)
    assert trust.probation(bank, own) == ""
    with Bank() as other:
        other.import_zip(archive(own), trusted=True)
        assert trust.probation(other, own) == "", "its owner says that it is theirs"
        other.import_zip(example("bank.zip"))
        assert len(other) == 7 and not other.events(kind="imported"), "known by their checksum"


def test_on_probation_a_memory_never_answers(bank: Bank) -> None:
    sentence = trust.probation(bank, MADE)
    assert sentence == (
        "The memory was imported and is on probation: it answers once it has agreed with the model "
        "alone on 3 problems (0 so far)."
    )
    for alone, other in (("7", "42"), (None, "42"), ("7", "7"), ("7", None)):
        made = route(vote(alone), vote(other, "memory"), probation=sentence)
        assert made.answer == alone and made.side == ("zero_shot" if alone else None)
        assert made.agreed == (alone == other) and made.reason.endswith(sentence)
        assert made.probation == sentence
    slip = answered(bank, "one", "7", "42")
    assert slip.memory_id is None and slip.answer == "7"
    assert {e.kind for e in bank.events(MADE.id)} == {"imported", "retrieved", "used"}


def test_it_is_trusted_after_agreeing_on_enough_problems(bank: Bank) -> None:
    for n, problem in enumerate(["one", "one", " one", "two"]):
        answered(bank, problem, "7", "7", n)
        assert trust.probation(bank, MADE), "one problem counts once"
    answered(bank, "three", "7", "7", 9)
    assert trust.probation(bank, MADE) == ""
    (event,) = bank.events(MADE.id, kind="trusted")
    assert event.detail["reason"] == "agreed with the model alone on 3 problems"
    assert answered(bank, "four", "7", "42").memory_id == MADE.id, "now it may answer"


def test_no_archive_tells_a_bank_whom_to_trust(bank: Bank) -> None:
    """Neither events of trust nor receipts travel, and forged ones are refused."""
    for n, problem in enumerate(["one", "two", "three"]):
        answered(bank, problem, "7", "7", n)
    file = io.BytesIO()
    bank.export_zip(file)
    with Bank() as other:
        other.import_zip(io.BytesIO(file.getvalue()))
        assert "(0 so far)" in trust.probation(other, MADE)
        assert other.info(MADE.id).counters.agreed == 3, "what was counted elsewhere is shown"


@pytest.mark.parametrize("kind", ["imported", "trusted"])
def test_forged_events_of_trust_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("latentmem.bank.archive.LOCAL_KINDS", ())
        forged = archive(MADE, also=Event(MADE.id, kind))  # type: ignore[arg-type]
    with Bank() as other:
        report = other.import_zip(forged)
        assert report.events == 0 and f"says that a memory is {kind}" in report.refused[0]
        assert trust.probation(other, MADE)


def test_a_memory_that_hurts_beyond_chance_goes_into_quarantine(bank: Bank) -> None:
    """Seven of seven judged disagreements; on probation those where the model was right."""
    for n in range(6):
        assert judge(bank, answered(bank, f"p{n}", "7", "42", n), True) is None
    judge(bank, answered(bank, "both wrong", "8", "42", 10), False)  # may have been right
    assert not bank.info(MADE.id).quarantined
    for n in range(20, 24):
        done = judge(bank, answered(bank, f"p{n}", "7", "42", n), True)
    assert done is not None and done.kind == "quarantined" and bank.info(MADE.id).quarantined
    assert done.detail["reason"].startswith(
        "It hurts beyond chance: 10 of 11 judged disagreements with the model alone went against it"
    )
    bank.release(MADE.id)
    assert judge(bank, answered(bank, "again", "7", "42", 30), True) is None, "a new start"


def test_own_memories_are_left_to_their_owner() -> None:
    with Bank() as bank:
        bank.put(MADE)
        for n in range(12):
            judge(bank, answered(bank, f"p{n}", "7", "42", n), False)
        assert bank.info(MADE.id).counters.hurt == 12 and not bank.info(MADE.id).quarantined


def test_the_tail_of_the_binomial_is_exact() -> None:
    assert trust.at_least(7, 7) == 1 / 128 and trust.at_least(0, 0) == 1
    assert trust.at_least(4, 6, 6) == pytest.approx(406 / 6**6)
    assert trust.at_least(5, 9, 1) == 1, "one memory alone is always the nearest"
    assert 0 < trust.at_least(900, 2000, 1000) < 1e-300 or trust.at_least(900, 2000, 1000) == 0


def test_a_hub_is_named_and_makes_room(bank: Bank) -> None:
    """Eight memories in eight directions, and one imported in the middle of them."""
    own = [memory(f"own {i}", np.eye(8)[i] + 0.4) for i in range(8)]
    middle, edge = memory("middle", np.ones(8)), memory("edge", np.eye(8)[0] + 0.3)
    bank.delete(MADE.id)
    bank.import_zip(archive(middle, edge))
    assert trust.hub(bank, middle, "input") == "", "there is nothing to compare with"
    bank.put_all(own)
    words = trust.hub(bank, middle, "input")
    assert words == "it is a hub, nearest for 8 of 8 other memories' problems, beyond chance"
    assert trust.hub(bank, edge, "input") == trust.hub(bank, own[0], "input") == ""
    assert trust.standing(bank, middle, "input").endswith("problems, beyond chance.")
    here = unit(np.eye(8)[2] + 1.2)
    near = {m.id: float(m.keys["input"] @ here) for m in (middle, *own)}
    assert max(near, key=near.__getitem__) == middle.id
    hit = Hit(middle.id, middle.name, near[middle.id], 1)
    assert trust.outdone(bank, "input", 0.25, here, middle, hit) == words
    assert trust.outdone(bank, "input", 0.999, here, middle, hit) == "", "no other is near enough"


def test_old_receipts_and_hits_have_no_probation() -> None:
    from latentmem.records import from_json, to_json

    with Bank() as bank:
        bank.put(MADE)
        slip = answered(bank, "one", "7", "42")
    text = to_json(slip).replace(', "probation": ""', "").replace(', "passed_over": ""', "")
    assert "probation" not in text and from_json(Receipt, text) == replace(slip)
    with pytest.raises(LatentmemError):
        from_json(Receipt, text[:-1])
