from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmem.method.voting import gate, majority_rewards, verdict_stands, vote
from latentmem.records import Cluster, Trace


def traces(*answers: str | None, rows: list[int] | None = None) -> list[Trace]:
    """One trace a row; None: finished without a box; a leading '~': boxed but cut off."""
    rows = list(range(len(answers))) if rows is None else rows
    return [
        Trace(row, "", a.lstrip("~") if a else a, finished=not (a or "").startswith("~"), tokens=1)
        for row, a in zip(rows, answers, strict=True)
    ]


def test_a_vote_by_hand():
    v = vote(traces("7", r"\frac12", "0.5", "8", None, "1/2", "~1/2", "7.0"), side="memory")
    assert v.clusters == (Cluster(r"\frac12", (1, 2, 5)), Cluster("7", (0, 7)), Cluster("8", (3,)))
    assert (v.label, v.total, v.voters, v.margin, v.majority_ratio, v.decided) == (
        r"\frac12",
        8,
        6,
        1,
        3 / 8,
        True,
    )
    assert v.side == "memory" and not v.abstained


def test_a_tie_goes_to_the_earliest_row():
    v = vote(traces("3", "4", "4", "3"))
    assert v.label == "3" and [c.rows for c in v.clusters] == [(0, 3), (1, 2)] and v.margin == 0
    assert vote(traces(None, "4", "3", "4", "3")).label == "4"


def test_unfinished_and_unboxed_traces_do_not_vote():
    v = vote(traces("~3", None, "~3", "4"))
    assert v.label == "4" and v.voters == 1 and v.majority_ratio == 1 / 4


def test_nobody_votes():
    v = vote(traces(None, "~3"))
    assert v.abstained and v.label is None and v.decided and v.majority_ratio == 0 and v.margin == 0
    assert vote([]).abstained and vote([]).decided and not vote([], total=3).decided


def test_a_trace_joins_the_earliest_cluster_whose_first_answer_is_the_same():
    """50% is the same as 50 and as 0.5, which differ: the rows decide, not the order of arrival."""
    assert [c.rows for c in vote(traces("50", "50%", "0.5")).clusters] == [(0, 1), (2,)]
    assert [c.rows for c in vote(traces("50%", "50", "0.5")).clusters] == [(0, 1, 2)]
    assert [c.rows for c in vote(traces("0.5", "50", "50%")).clusters] == [(0, 2), (1,)]


@pytest.mark.parametrize(
    "answers, rows, total, decided",
    [
        (["1", "1", "1"], [0, 1, 2], 4, True),
        (["1", "1"], [0, 1], 4, True),  # two open can tie only, and the tie goes to row 0
        (["1", "1"], [2, 3], 4, False),  # rows 0 and 1 are open and would win the tie
        (["1", "1"], [0, 3], 4, True),
        (["1", "1", "2"], [0, 1, 2], 4, True),
        (["2", "1", "1"], [0, 1, 2], 4, False),  # a tie would go to the 2 of row 0
        (["2", "1", "1"], [1, 2, 3], 4, False),
        (["1", "1", "2"], [1, 2, 3], 4, False),  # a 2 in row 0 would be the earliest
        (["1", "1", None], [0, 1, 2], 4, True),
        ([None, None], [0, 1], 3, False),
        (["1", "1"], [7, 9], 4, False),  # rows of unknown numbering: any tie may be lost
        (["1", "1", "1"], [7, 8, 9], 5, True),
    ],
)
def test_decided_by_hand(answers, rows, total, decided):
    assert vote(traces(*answers, rows=rows), total=total).decided is decided


ANSWERS = st.sampled_from(["1", "2", "3", None, "~1"])


CASES = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(ANSWERS, min_size=n, max_size=n),
        st.permutations(range(n)),
        st.integers(0, min(n, 4)),
    )
)


@settings(max_examples=120, deadline=None)
@given(CASES)
def test_decided_means_that_no_completion_changes_the_label(case):
    """Exactly: all ways in which the open rows can end are tried, a new answer and silence among
    them (a second new answer would only take votes from the first)."""
    answers, order, still_open = case
    every = traces(*answers)
    ended, open_rows = [every[i] for i in order[still_open:]], list(order[:still_open])
    now = vote(ended, total=len(every))
    outcomes = {
        vote(ended + traces(*rest, rows=open_rows)).label
        for rest in product(["1", "2", "3", "4", None], repeat=still_open)
    }
    # each answer is written in one way here
    unchanged = all(label == now.label for label in outcomes)
    assert now.decided == (unchanged if still_open else True)


@settings(max_examples=300, deadline=None)
@given(CASES, st.integers(1, 4), st.integers(0, 3))
def test_a_verdict_stands_if_no_completion_changes_it(case, votes, lead):
    """Exactly: whether the gate opens is the same in every completion, where the label is."""
    answers, order, still_open = case
    every = traces(*answers)
    ended, open_rows = [every[i] for i in order[still_open:]], list(order[:still_open])
    now = vote(ended, total=len(every))
    shut = {
        gate(vote(ended + traces(*rest, rows=open_rows)), votes, lead) is None
        for rest in product(["1", "2", "3", "4", None], repeat=still_open)
    }
    stands = len(shut) == 1 and now.decided
    assert verdict_stands(now, still_open, votes, lead) == (stands if still_open else True)


@given(
    st.lists(
        st.sampled_from(["1", "1.0", "1/1", "2", "4/2", "50", "50%", "0.5", None]), max_size=8
    ),
    st.randoms(),
)
def test_the_order_of_arrival_does_not_matter(answers, random):
    every = traces(*answers)
    shuffled = random.sample(every, len(every))
    v = vote(every)
    assert vote(shuffled) == v and majority_rewards(shuffled, v) == majority_rewards(every, v)
    assert v.voters == sum(c.size for c in v.clusters) == sum(t.votes for t in every)
    assert sorted(r for c in v.clusters for r in c.rows) == [t.row for t in every if t.votes]
    assert all(c.answer == every[c.rows[0]].answer for c in v.clusters)
    assert [(-c.size, c.rows[0]) for c in v.clusters] == sorted(
        (-c.size, c.rows[0]) for c in v.clusters
    )


def test_rewards_by_hand():
    every = traces("7", r"\frac12", "0.5", None, "~1/2")
    v = vote(every)
    assert majority_rewards(every, v) == (0.0, 1.0, 1.0, 0.0, 0.0)
    assert majority_rewards(every[::-1], v) == (0.0, 1.0, 1.0, 0.0, 0.0)
    silent = traces(None, "~3")
    assert majority_rewards(silent, vote(silent)) == (0.0, 0.0)


@pytest.mark.parametrize(
    "answers, why",
    [
        (["1"] * 8, "Nothing to learn: all 8 attempts already agree."),
        (["1"], "Nothing to learn: a single attempt has no other to compare with."),
        ([None, "~1", None], "Nothing to learn: no attempt of 3 finished with a boxed answer."),
        (
            ["1", "1", "2", "3"],
            "The vote is too weak to learn from: the majority has 2 votes of 4 and needs 3.",
        ),
        (
            ["1", "2", "3", "4"],
            "The vote is too weak to learn from: the majority has 1 vote of 4 and needs 3.",
        ),
        (
            ["1", "1", "1", "2", "2"],
            "The vote is too close to learn from: the majority leads by 1 vote and needs 2.",
        ),
        (["1", "1", "1", "2"], None),
        (["1"] * 7 + ["~1"], None),  # the unfinished one is rewarded 0: there is a gradient
        (["1"] * 7 + [None], None),
    ],
)
def test_the_gate_says_why(answers, why):
    v = vote(traces(*answers))
    assert gate(v, votes=3, lead=2) == why


@given(st.lists(st.sampled_from(["1", "2", "3", None, "~1"]), max_size=8))
def test_a_vote_that_passes_the_gate_has_unequal_rewards(answers):
    every = traces(*answers)
    v = vote(every)
    passes, unequal = gate(v, votes=1, lead=0) is None, len(set(majority_rewards(every, v))) == 2
    assert passes == unequal


def test_two_traces_of_one_row_are_a_bug():
    with pytest.raises(AssertionError, match="share a row"):
        vote(traces("1", "2", rows=[3, 3]))
