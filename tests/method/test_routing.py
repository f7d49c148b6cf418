"""Which side answers, the receipt that says so, and the events it leaves."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmem.engine import receipts
from latentmem.method.prompts import judge_messages
from latentmem.method.routing import _judging, disagree, judge, route, settled
from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel
from latentmem.records import Cluster, Hit, Problem, Receipt, Trace, Vote, from_json, to_json
from tests.tiny import tiny_model


def ballot(label, votes=5, total=8, side="zero_shot"):
    if label is None:
        return Vote((), total, 0, side=side)
    return Vote((Cluster(label, tuple(range(votes))),), total, votes, side=side)


def test_agreement_is_the_answer_and_needs_no_verifier():
    r = route(ballot("1/2"), ballot("0.5", side="memory"))
    assert (r.side, r.answer, r.agreed) == (
        "zero_shot",
        "1/2",
        True,
    ) and r.reason == "Both sides gave the same answer."


def test_disagreement_goes_to_the_higher_score():
    assert disagree(ballot("3"), ballot("4"))
    r = route(ballot("3"), ballot("4"), {"zero_shot": 0.4, "memory": 0.9}, verifier="judge")
    assert (r.side, r.answer, r.agreed) == (
        "memory",
        "4",
        False,
    ) and "3 alone (score 0.4), 4 with the memory (score 0.9)" in r.reason
    r = route(ballot("3"), ballot("4"), {"zero_shot": 0.9, "memory": 0.4}, verifier="judge")
    assert (r.side, r.answer) == ("zero_shot", "3")


def test_a_tie_goes_to_the_model_alone():
    r = route(ballot("3"), ballot("4"), {"zero_shot": 0.5, "memory": 0.5}, verifier="vote_share")
    assert r.side == "zero_shot"
    assert r.reason == "Tie (5 of 8 each), so the model's own answer stands."


def test_abstentions():
    assert route(ballot(None), ballot("4")).side == "memory"
    assert route(ballot("3"), ballot(None)).side == "zero_shot"
    nobody = route(ballot(None), ballot(None))
    assert nobody.side is None and nobody.answer is None
    assert route(ballot("3"), None, skip_reason="The bank is empty.").reason == "The bank is empty."
    assert route(ballot(None), None).side is None
    assert not disagree(ballot("3"), None) and not disagree(ballot(None), ballot("3"))


@given(
    st.sampled_from([None, "1", "2"]),
    st.sampled_from([None, "1", "2"]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_answer_is_always_one_sides_label(a, b, x, y):
    r = route(ballot(a), ballot(b), {"zero_shot": x, "memory": y})
    assert r.answer in {a, b}
    assert (r.answer is None) == (a is None and b is None)
    assert r.reason.endswith(".")
    assert r.side is None or r.answer == {"zero_shot": a, "memory": b}[r.side]


def written(zero, memory, used=True, scores=None, last=5) -> Receipt:
    hit = Hit("m1", "Tom has 3 apples", 0.81, 1, 0.2)
    around = receipts.Circumstances(
        "f", "tiny", {"rollouts": 2}, 7, "input", (hit,), hit if used else None
    )
    votes = {
        "zero_shot": ballot(zero, 2, 2),
        **({"memory": ballot(memory, 2, 2, "memory")} if used else {}),
    }
    traces = [
        Trace(1, "b", "4", True, 3, token_ids=(1, 2, 3)),
        Trace(0, "a", "3", True, 2, token_ids=(4, last)),
    ]
    chosen = route(votes["zero_shot"], votes.get("memory"), scores, verifier="vote_share")
    return receipts.write(
        Problem("How many?"), around, chosen, votes, traces, 1.5, "2026-01-01T00:00:00+00:00"
    )


def test_receipt_names_the_memory_that_answered():
    r = written("3", "4", scores={"zero_shot": 0.2, "memory": 0.8})
    assert r.memory_id == "m1"
    assert r.answer == "4"
    assert r.tokens == 5
    assert [t.row for t in r.traces] == [0, 1]
    assert "answered by memory m1" in r.sentence()
    assert {e.kind for e in receipts.events(r)} == {"retrieved", "used", "verifier_won"}


def test_receipt_of_a_memory_that_lost_or_agreed():
    lost = written("3", "4", scores={"zero_shot": 0.8, "memory": 0.2})
    assert lost.memory_id is None and "tried and not followed" in lost.sentence()
    assert {e.kind for e in receipts.events(lost)} == {"retrieved", "used"}
    agreed = written("3", "3")
    assert agreed.memory_id is None and "agrees" in agreed.sentence()
    assert {e.kind for e in receipts.events(agreed)} == {"retrieved", "used", "agreed"}
    assert "No memory was used" in written("3", None, used=False).sentence()


def test_verdicts_count_as_help_only_where_the_memory_changed_the_answer():
    changed = written("3", "4", scores={"zero_shot": 0.2, "memory": 0.8})
    assert [e.kind for e in receipts.judged(changed, True)] == ["feedback", "helped"]
    assert [e.kind for e in receipts.judged(changed, False)] == ["feedback", "hurt"]
    assert [e.kind for e in receipts.judged(written("3", "3"), True)] == ["feedback"]
    alone_silent = written(None, "4")
    assert [e.kind for e in receipts.judged(alone_silent, True)] == ["feedback", "helped"]
    assert [e.kind for e in receipts.judged(alone_silent, False)] == ["feedback"], (
        "a model without an answer lost nothing"
    )
    assert receipts.judged(written("3", None, used=False), True) == []


def test_receipt_survives_json():
    r = written("3", "4", scores={"zero_shot": 0.2, "memory": 0.8})
    assert from_json(Receipt, to_json(r)) == r


def test_token_digest_depends_on_tokens_alone():
    a, b = written("3", "3"), written("3", "4", scores={"zero_shot": 0.2, "memory": 0.8})
    assert a.answer != b.answer and a.token_digest == b.token_digest
    assert a.token_digest != written("3", "3", last=6).token_digest


def test_a_solution_that_does_not_fit_is_judged_by_its_end():
    """The judging chat of a long trace may exceed the context in which the trace itself fits."""
    model = tiny_model(seed=5, num_hidden_layers=2)
    short = LanguageModel(
        model.body, model.tokenizer, name="short", fingerprint="s", ends=model.ends, context=260
    )
    end = "so it is 7"
    assert len(model.render(judge_messages("How many?", "first " * 200 + end))) > 260
    assert 0 <= judge(short, Problem("How many?"), ["first " * 200 + end]) <= 1
    assert len(_judging(short, "How many?", "first " * 200 + end)) <= 260
    assert (
        model.tokenizer.decode(_judging(short, "How many?", "first " * 200 + end)).count(
            "so it is 7"
        )
        == 1
    )
    assert _judging(short, "How many?", end) == model.render(judge_messages("How many?", end))


# ---------- What no trace to come can change.

ANSWERS = st.sampled_from(["1", "2", None])


def side(answers, name):
    return [Trace(i, "", a, True, 1, side=name) for i, a in enumerate(answers) if a != "open"]


def chosen_side(alone, helped, probation=""):
    """The route by shares, as `decide` takes it."""
    scores = {"zero_shot": alone.majority_ratio, "memory": helped.majority_ratio}
    found = route(alone, helped, scores, verifier="vote_share", probation=probation)
    return found.side, found.answer, found.agreed


@settings(max_examples=200, deadline=None)
@given(
    st.lists(ANSWERS, min_size=2, max_size=5),
    st.data(),
    st.sampled_from(["", "It is on probation."]),
)
def test_settled_means_that_no_completion_changes_the_route(alone, data, probation):
    """Sound: all ways in which up to two open traces of each side can end are tried."""
    n = len(alone)
    helped = data.draw(st.lists(ANSWERS, min_size=n, max_size=n))
    open_rows = [
        data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True)) for _ in range(2)
    ]
    for answers, rows in zip((alone, helped), open_rows, strict=True):
        for row in rows:
            answers[row] = "open"
    names = ("zero_shot", "memory")
    votes = {s: vote(side(a, s), n, s) for s, a in zip(names, (alone, helped), strict=True)}
    still_open = {s: len(rows) for s, rows in zip(names, open_rows, strict=True)}
    outcomes = set()
    for ends in product(["1", "2", "3", None], repeat=sum(still_open.values())):
        rest = iter(ends)
        done = [[next(rest) if a == "open" else a for a in answers] for answers in (alone, helped)]
        full = [vote(side(a, s), n, s) for s, a in zip(names, done, strict=True)]
        outcomes.add(chosen_side(*full, probation))
    if settled(votes, still_open, "vote_share", probation):
        assert outcomes == {chosen_side(votes["zero_shot"], votes["memory"], probation)}
        assert settled(votes, still_open, "judge", probation) or disagree(*votes.values())


@pytest.mark.parametrize(
    "mine, theirs, left, verdict",
    [
        (6, 3, (2, 2), True),  # at most 5 against 6
        (5, 3, (2, 2), True),  # at most a tie, which is the model's own
        (5, 4, (2, 2), False),  # 6 against 5 is possible
        (3, 6, (2, 2), True),
        (4, 6, (2, 2), False),  # a tie is possible
    ],
)
def test_shares_that_can_no_longer_cross_by_hand(mine, theirs, left, verdict):
    votes = {"zero_shot": ballot("3", mine), "memory": ballot("4", theirs, side="memory")}
    still_open = dict(zip(votes, left, strict=True))
    assert settled(votes, still_open, "vote_share") == verdict
    assert not settled(votes, still_open, "judge"), "it reads all traces of the winners"
    same = votes | {"memory": ballot("3", theirs, side="memory")}
    assert settled(same, still_open, "judge"), "an agreement needs no verifier"
