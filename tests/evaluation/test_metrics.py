"""Intervals, estimators, scores and votes against values worked out by hand; results as they are
judged."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from latentmem.bench import report
from latentmem.evaluation import metrics
from latentmem.evaluation.metrics import (
    Estimate,
    bootstrap,
    flips,
    nearest_share,
    paired,
    pass_at_k,
    share,
)
from latentmem.evaluation.page import percent, points
from latentmem.evaluation.results import Cost, Learned, Reply, Result, SideResult, Taught, judge
from latentmem.records import Cluster, Hit, Problem, Route, Trace, Vote

# ---------- Scores against small cases worked out by hand.


def side(label: str | None, right: bool, ratio: float = 0.5) -> SideResult:
    return SideResult(label, right, ratio, (right,), (True,), 10, 1)


def result(
    problem: str,
    system: str,
    correct: bool,
    *,
    form: str = "one",
    alone: bool | None = None,
    memory: bool | None = None,
    **more,
) -> Result:
    """A result; `alone` and `memory` say which sides it has and whether they are right. Equal
    answers agree."""
    sides, same = {}, alone == memory and alone
    if alone is not None:
        sides["zero_shot"] = side("yes" if alone else "no", alone)
    if memory is not None:
        sides["memory"] = side("yes" if memory else "nope", memory)
    return Result(
        "toy",
        "toy",
        problem,
        "toy",
        0,
        system,
        form,
        "yes",
        "yes" if correct else "no",
        correct,
        sides,
        memory is not None,
        **{"agreed": bool(same), **more},
    )


BASE = [
    result(p, "zero_shot", ok, alone=ok, tokens=10)
    for p, ok in zip("abcd", (True, False, False, True), strict=True)
]


def test_a_reply_is_judged_side_by_side() -> None:
    """Four traces: two say 16, one says 16.0 (the same), one is cut off; the memory's side says 20,
    wrongly."""

    def trace(row: int, answer: str | None, finished: bool, side: str) -> Trace:
        return Trace(row, "", answer, finished, 5, side)  # type: ignore[arg-type]

    traces = (
        trace(0, "16", True, "zero_shot"),
        trace(1, "7", True, "zero_shot"),
        trace(2, "16.0", True, "zero_shot"),
        trace(3, "16", False, "zero_shot"),
        trace(0, "20", True, "memory"),
    )
    votes = {
        "zero_shot": Vote((Cluster("16", (0, 2)), Cluster("7", (1,))), 4, 3),
        "memory": Vote((Cluster("20", (0,)),), 1, 1, side="memory"),
    }
    reply = Reply(
        "p",
        "elm",
        "vote",
        "20",
        votes,
        traces,
        Cost(25, 8, 1.5),
        Hit("m1", "a taxi", 0.75, 1),
        Route("memory", "20", False, "why"),
        True,
        {"judge": {"zero_shot": 0.1, "memory": 0.9}},
    )
    r = judge(Problem("?", "p", "16", "toy"), reply, dataset="toy", learned_on="toys", index=3)
    assert (r.correct, r.chosen, r.memory, r.similarity, r.tokens, r.index) == (
        False,
        "memory",
        "m1",
        0.75,
        25,
        3,
    )
    alone = r.sides["zero_shot"]
    assert (alone.label, alone.right, alone.majority_ratio) == ("16", True, 0.5)
    assert alone.traces_right == (True, False, True, False), "a trace that was cut off is not right"
    assert alone.traces_agree == (True, False, True, False) and (alone.tokens, alone.finished) == (
        20,
        3,
    )
    assert (alone.margin, r.sides["memory"].margin) == (1, 1), (
        "two votes against one, one against none"
    )
    assert not r.sides["memory"].right


def test_the_table_by_hand() -> None:
    """zero_shot is right on a and d; elm on a, b and c: helped b and c, hurt d, so +1 of 4."""
    elm = [
        result("a", "elm", True, alone=True, memory=True),
        result("b", "elm", True, alone=False, memory=True, chosen="memory"),
        result("c", "elm", True, alone=False, memory=True, chosen="memory"),
        result(
            "d", "elm", False, alone=True, memory=False, chosen="memory", tokens=30, seconds=2.0
        ),
    ]
    lessons = [
        Learned(
            "toy",
            "elm",
            0,
            ("x", "y"),
            (Taught("x", "m1", ""), Taught("y", None, "unanimous")),
            Cost(500, 10, 9.0),
        )
    ]
    base, row = metrics.table([*BASE, *elm], lessons)
    assert (base.system, base.accuracy.mean, base.delta, base.helped, base.tokens) == (
        "zero_shot",
        0.5,
        None,
        None,
        40,
    )
    assert (row.accuracy.mean, row.delta.mean, row.helped, row.hurt) == (0.75, 0.25, 2, 1)
    assert (row.coverage, row.judged, row.routing_accuracy) == (1.0, 3, pytest.approx(2 / 3))
    assert (row.tokens, row.seconds, row.learn_tokens, row.learn_seconds, row.memories) == (
        30,
        2.0,
        500,
        9.0,
        1,
    )


def test_the_vote_of_equal_tokens_by_hand() -> None:
    base, row = metrics.table([*BASE, *(replace(r, system="elm", tokens=30) for r in BASE)])
    assert (base.tokens, row.tokens) == (40, 120), "a trace of the model alone has 10 tokens"
    assert metrics.equal_votes(base, [base, row]) == 1
    assert metrics.equal_votes(row, [base, row]) == 3
    # (120 + 200) / 4 problems / 10 tokens
    assert metrics.equal_votes(replace(row, learn_tokens=200), [base, row]) == 8
    assert metrics.equal_votes(replace(row, tokens=1), [base, row]) == 1, (
        "a vote has a trace at least"
    )
    assert metrics.equal_votes(row, [row]) is None


def test_forms_and_data_sets_are_not_mixed() -> None:
    other = [replace(r, form="vote", correct=True) for r in BASE]
    elsewhere = [replace(r, dataset="other", correct=False) for r in BASE]
    rows = metrics.table([*BASE, *other, *elsewhere])
    assert [(r.dataset, r.form, r.accuracy.mean) for r in rows] == [
        ("toy", "one", 0.5),
        ("toy", "vote", 1.0),
        ("other", "one", 0.0),
    ]


def test_without_a_common_problem_nobody_is_helped_or_hurt() -> None:
    base, row = metrics.table([*BASE, result("z", "elm", True, alone=False, memory=True)])
    assert (row.delta, row.helped, row.hurt) == (None, None, None) and base.n == 4


SCORES = {
    "judge": {"zero_shot": 0.2, "memory": 0.9},
    "vote_share": {"zero_shot": 0.5, "memory": 0.5},
}


def with_routers(results: list[Result]) -> list[Result]:
    """The results, and for each system with two sides what each verifier and the oracle make of
    them."""
    more = []
    for system in metrics.two_sided(results):
        mine = [r for r in results if r.system == system]
        for router in (*metrics.verifiers(mine), metrics.ORACLE):
            more += metrics.rerouted(mine, router)
    return [*results, *more]


def test_each_verifier_and_the_oracle_route_the_same_traces() -> None:
    """b: only the memory is right; d: only the model alone. The judge always likes the memory, a
    tie goes to the model."""
    elm = [
        result("a", "elm", True, alone=True, memory=True, chosen="zero_shot"),
        result("b", "elm", False, alone=False, memory=True, chosen="zero_shot", scores=SCORES),
        result("c", "elm", False, alone=False, chosen="zero_shot"),
        result("d", "elm", True, alone=True, memory=False, chosen="zero_shot", scores=SCORES),
    ]
    both = with_routers([*BASE, *elm])
    right = {
        name: [r.correct for r in both if r.system == name]
        for name in dict.fromkeys(r.system for r in both)
    }
    assert right == {
        "zero_shot": [True, False, False, True],
        "elm": [True, False, False, True],
        "elm (judge)": [True, True, False, False],
        "elm (vote_share)": [True, False, False, True],
        "elm (oracle router)": [True, True, False, True],
    }
    found = {x.router: x for x in metrics.routing([*BASE, *elm])}
    assert {k: (x.judged, x.accuracy) for k, x in found.items()} == {
        "as run": (2, 0.5),
        "judge": (2, 0.5),
        "vote_share": (2, 0.5),
    }
    x = found["judge"]
    assert (
        x.memory_right_taken,
        x.memory_right_missed,
        x.alone_right_taken,
        x.alone_right_missed,
    ) == (1, 0, 0, 1)


def test_a_side_without_an_answer_needs_no_verifier() -> None:
    r = result("a", "elm", True, alone=False, memory=True)
    mute = replace(
        r, sides={**r.sides, "zero_shot": SideResult(None, False, 0.0, (False,), (False,), 9, 0)}
    )
    assert metrics.side_by(mute, "judge") == "memory" and not metrics.differ(mute)


def test_the_votes_metrics_by_hand() -> None:
    """One vote 3 of 4 for the right label, one 2 of 4 for a wrong label where one other trace is
    right."""
    good = SideResult("1", True, 0.75, (True, True, True, False), (True, True, True, False), 40, 4)
    bad = SideResult(
        "2", False, 0.5, (False, False, True, False), (True, True, False, False), 40, 4
    )
    m = metrics.vote_metrics([good, bad])
    assert m == {
        "majority_ratio": 0.625,
        "label_accuracy": 0.5,
        "reward_accuracy": pytest.approx(
            (1.0 + 0.25) / 2
        ),  # of `bad` only the last trace is rewarded rightly
        "ground_truth_ratio": 0.5,
        "pass@1": pytest.approx(0.5),
        "pass@2": pytest.approx((1.0 + 0.5) / 2),
        "pass@4": 1.0,
    }
    assert metrics.vote_metrics([]) == {}


def test_the_curve_of_a_stream() -> None:
    those = [
        replace(result("x", "elm", ok), index=i) for i, ok in ((2, True), (0, True), (1, False))
    ]
    assert metrics.curve(those) == [(1, 1.0), (2, 0.5), (3, pytest.approx(2 / 3))]


def test_what_each_memory_did() -> None:
    those = [
        replace(result("a", "elm", True, alone=True, memory=True, memory_name="taxi"), memory="m1"),
        replace(result("b", "elm", True, alone=False, memory=True), memory="m1"),
        replace(result("d", "elm", False, alone=True, memory=False), memory="m2"),
        replace(result("c", "unrouted", True, memory=True), memory="m2"),
    ]
    found = {s.memory: s for s in metrics.memory_effects([*BASE, *those])}
    assert (found["m1"].used, found["m1"].helped, found["m1"].hurt, found["m1"].name) == (
        2,
        ("b",),
        (),
        "taxi",
    )
    assert (found["m2"].used, found["m2"].helped, found["m2"].hurt) == (2, ("c",), ("d",))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_no_router_beats_the_oracle_and_helped_less_hurt_is_the_difference(
    cases: list[tuple[bool, bool, bool]],
) -> None:
    base = [
        result(str(i), "zero_shot", alone, alone=alone) for i, (alone, _, _) in enumerate(cases)
    ]
    elm = []
    for i, (alone, memory, takes) in enumerate(cases):
        scores = {} if alone and memory else {"judge": {"zero_shot": 0.5, "memory": float(takes)}}
        elm.append(
            result(
                str(i),
                "elm",
                memory if takes else alone,
                alone=alone,
                memory=memory,
                chosen="memory" if takes else "zero_shot",
                scores=scores,
            )
        )
    rows = {r.system: r for r in metrics.table(with_routers([*base, *elm]))}
    best = rows["elm (oracle router)"]
    assert all(best.accuracy.mean >= r.accuracy.mean for r in rows.values()) and best.hurt == 0
    for r in rows.values():
        if r.delta is not None:
            assert r.delta.mean == pytest.approx((r.helped - r.hurt) / r.n)
            assert r.delta.mean == pytest.approx(r.accuracy.mean - rows["zero_shot"].accuracy.mean)


def test_the_sides_of_the_vote_are_those_of_one_system_over_the_same_problems() -> None:
    elm = [
        result("a", "elm", True, form="vote", alone=False, memory=True),
        result("b", "elm", True, form="vote", alone=True),
    ]
    rest = [
        result("a", "vote_n", True, form="vote", alone=True),
        result("a", "elm", True, alone=True, memory=True),
    ]
    base = [result(p, "zero_shot", True, form="vote", alone=True) for p in "abc"]
    found = dict(metrics.vote_sides([*rest, *base, *elm]))
    assert list(found) == ["elm: alone", "elm: with it (post_)"]
    assert [s.right for s in found["elm: alone"]] == [False] and [
        s.right for s in found["elm: with it (post_)"]
    ] == [True]
    assert [(t, len(s)) for t, s in metrics.vote_sides([*rest, *base])] == [("zero_shot: alone", 3)]
    assert metrics.vote_sides(rest[1:]) == []


def test_problems_of_one_name_in_two_sets_are_not_mixed() -> None:
    """Of "a" in the other set, which the model alone gets wrong, the memory gets it right."""
    elsewhere = [replace(result("a", "zero_shot", False, alone=False), dataset="other")]
    used = replace(result("a", "elm_unrouted", True, memory=True), memory="m1")
    mine = [used, replace(used, dataset="other")]
    (found,) = metrics.memory_effects([*BASE, *elsewhere, *mine])
    assert (found.helped, found.hurt, found.used) == (("a",), (), 2)


def test_gates_by_hand() -> None:
    """Eight traces each: 3 to 1 and right; 3 to 2, wrong; 5 to 3, right; all eight, which no gate
    lets through; none; and one of an older version, whose lead is not known."""

    def met(problem: str, right: bool, most: int, margin: int | None) -> Result:
        r = result(problem, "zero_shot", right, form="vote", alone=right)
        agree = (True,) * most + (False,) * (8 - most)
        alone = replace(r.sides["zero_shot"], traces_agree=agree, traces_right=agree, margin=margin)
        return replace(r, sides={"zero_shot": alone})

    votes = [
        met("a", True, 3, 2),
        met("b", False, 3, 1),
        met("c", True, 5, 2),
        met("d", True, 8, 8),
        met("e", False, 0, 0),
        met("f", True, 3, None),
        result("a", "zero_shot", True, alone=True),
        result("a", "elm", True, form="vote", alone=True),
    ]
    found = {(g.votes, g.lead): (g.met, g.passed, g.right) for g in metrics.gates(votes)}
    assert found[1, 0] == found[3, 1] == (5, 3, 2)
    assert found[3, 2] == found[2, 2] == (5, 2, 2)
    assert found[4, 2] == (5, 1, 1)
    assert found[6, 2] == (5, 0, 0)
    assert metrics.gates([met("f", True, 3, None)]) == [] == metrics.gates([])


def test_thirds_by_hand() -> None:
    """Nine problems, nearer ones later. The memory is right on the middle three and the last, the
    model alone on the first and the last two; the router's choice does not matter. Of a system
    with eight problems nothing is said."""
    base = [result(str(i), "zero_shot", i in (0, 7, 8), alone=i in (0, 7, 8)) for i in range(9)]
    elm = [
        result(
            str(i),
            "elm",
            False,
            alone=i in (0, 7, 8),
            memory=i in (3, 4, 5, 8),
            similarity=0.1 * i,
            chosen="zero_shot",
        )
        for i in reversed(range(9))
    ]
    told = [
        *base,
        *elm,
        *[replace(r, system="icl_raw") for r in elm[:8]],
        result("x", "elm", True, memory=True, similarity=0.9),
    ]
    assert [(x.system, x.n, x.right, x.alone, x.helped, x.hurt) for x in metrics.thirds(told)] == [
        ("elm", 3, 0, 1, 0, 1),
        ("elm", 3, 3, 0, 3, 0),
        ("elm", 3, 1, 2, 0, 1),
    ]
    assert [(round(x.low, 1), round(x.high, 1)) for x in metrics.thirds(told)] == [
        (0.0, 0.2),
        (0.3, 0.5),
        (0.6, 0.8),
    ]
    assert metrics.thirds(elm) == []


# ---------- Intervals and estimators against values worked out by hand.


def test_the_interval_of_a_share_is_the_exact_one() -> None:
    """Clopper and Pearson's interval of 30 of 100 is 21.24 % to 39.98 %."""
    found = share(30, 100)
    assert found is not None and (found.n, found.mean) == (100, 0.3)
    assert (found.low, found.high) == pytest.approx((0.2124, 0.3998), abs=1e-4)


def test_the_bootstrap_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap as theirs

    values = np.random.default_rng(3).uniform(-1, 1, size=80)
    ours = bootstrap(values.tolist())
    other = theirs(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    )
    assert ours is not None
    assert ours.low == pytest.approx(other.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(other.confidence_interval.high, abs=0.01)


def test_equal_values_do_not_pretend_to_be_certain() -> None:
    """0 of 20: the exact upper bound is 1 - 0.025^(1/20) = 0.1684. A difference that is 0 for all
    20 may be up to so much on either side."""
    none, whole, equal = share(0, 20), share(20, 20), bootstrap([0.0] * 20)
    assert none is not None and whole is not None and equal is not None
    assert (none.mean, none.low, none.high) == (0.0, 0.0, pytest.approx(0.16843, abs=1e-5))
    assert (whole.mean, whole.low, whole.high) == (1.0, pytest.approx(0.83157, abs=1e-5), 1.0)
    assert (equal.mean, equal.low, equal.high) == (0, -none.high, none.high)
    assert bootstrap([1.0] * 20) == Estimate(20, 1.0, pytest.approx(1 - 2 * none.high), 1.0)


def test_nothing_has_no_interval() -> None:
    assert share(0, 0) is None and bootstrap([]) is None
    assert paired({"a": 1.0}, {"b": 1.0}) is None


def test_the_paired_difference_is_over_shared_problems_only() -> None:
    found = paired(
        {"a": 1.0, "b": 0.0, "c": 1.0, "x": 1.0}, {"a": 0.0, "b": 0.0, "c": 1.0, "y": 0.0}
    )
    assert found is not None and (found.n, found.mean) == (3, pytest.approx(1 / 3))


def test_pairing_makes_the_interval_of_a_steady_gain_narrow() -> None:
    """Nine of ten problems alike and one gained in each ten: unpaired the intervals overlap, paired
    the gain is above 0."""
    without = {i: float(i % 10 < 5) for i in range(200)}
    with_it = {i: float(i % 10 < 6) for i in range(200)}
    gain = paired(with_it, without)
    a, b = (share(int(sum(those.values())), 200) for those in (with_it, without))
    assert gain is not None and a is not None and b is not None
    assert gain.low > 0 and a.low < b.high


def test_flips_by_hand() -> None:
    first = {"a": True, "b": True, "c": False, "d": False, "x": True}
    second = {"a": False, "b": True, "c": True, "d": False}
    assert flips(first, second) == (1, 1)


def test_pass_at_k_by_hand() -> None:
    """4 traces, 1 right: of the 6 pairs, 3 hold the right one. k = n asks whether any is right."""
    assert pass_at_k(4, 1, 2) == 0.5
    assert (pass_at_k(8, 1, 8), pass_at_k(8, 0, 8), pass_at_k(5, 3, 1)) == (
        1.0,
        0.0,
        pytest.approx(0.6),
    )


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    hits = sum(any(i < right for i in chosen) for chosen in combinations(range(n), k))
    assert pass_at_k(n, right, k) == pytest.approx(hits / comb(n, k))


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_stays_in_range(values: list[float]) -> None:
    found, right = bootstrap(values), share(values.count(1.0), len(values))
    assert found is not None and right is not None
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert 0 <= right.low <= right.mean <= right.high <= 1
    assert found == bootstrap(values), "the same values, the same interval"


def test_nearest_share_by_hand() -> None:
    """Points at 0, 5, 90 and 20 degrees: the first three have a nearest of their own family (the
    one at 90 the one at 20), the one at 20 has the one at 5. Of the 12 ordered pairs 4 are of
    one family."""
    angles = np.radians([0, 5, 90, 20])
    keys = np.stack([np.cos(angles), np.sin(angles)], 1)
    share, by_chance = nearest_share(keys, ["a", "a", "b", "b"])
    assert share == 0.75
    assert by_chance == pytest.approx(4 / 12)


# ---------- assets/results/README.md shows the committed figures and no others.


RESULTS = Path(__file__).parents[2] / "assets" / "results"
# Of different machines: their figures do not go into one file.
BENCHES = ("bench", "bench-xeon", "bench-distil", "bench-memory")
MET = {True: "yes", False: "**no**", None: "–"}


@pytest.fixture(scope="module")
def page() -> str:
    return (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return json.loads((RESULTS / "evidence.json").read_bytes())


def table_rows(page: str, head: str) -> list[str]:
    """The rows of all tables that begin with this head."""
    parts = page.split(f"\n{head}")[1:]
    return [line for part in parts for line in part.split("\n\n")[0].splitlines()[2:]]


def spans(row: dict[str, Any]) -> tuple[str, str]:
    """Accuracy, and the difference to the model alone, with their intervals."""
    accuracy = f"{percent(row['accuracy'])} ({100 * row['ci_low']:.1f} to "
    delta = points(row["delta_vs_zero_shot"])
    if delta != "–":
        low, high = (points(row[f"delta_ci_{end}"]) for end in ("low", "high"))
        delta += f" ({low} to {high})"
    return f"{accuracy}{100 * row['ci_high']:.1f})", delta


def test_the_tables_hold_every_row_of_the_evidence_once(
    page: str, rows: list[dict[str, Any]]
) -> None:
    want, alone = [], table_rows(page, "| run | learns from > asks |")
    for row in rows:
        accuracy, delta = spans(row)
        run, votes = row["settings"]["run"], row["settings"].get("votes")
        end = f"| {row['tokens']:,} |"
        if row["system"] == "zero_shot":
            assert any(run in one and f"| {accuracy} {end}" in one for one in alone), run
            continue
        name = f"`{row['system']}`" + (f" (N = {votes})" if votes else "")
        run += " on GSM8K" if row["dataset"] == "multiarith > gsm8k_test" else ""
        flips = "–" if row["helped"] is None else f"{row['helped']} / {row['hurt']}"
        start = f"| {name} | {run} | {row['seed']} | {row['n']} "
        want.append(f"{start}| {accuracy} | {delta} | {flips} {end}")
    assert sorted(table_rows(page, "| system | run | seed | n | accuracy")) == sorted(want)


def test_four_differences_survive_the_correction(page: str, rows: list[dict[str, Any]]) -> None:
    found = []
    for row in rows:
        if row["helped"] is not None and "_oracle" not in row["system"]:
            changed = row["helped"] + row["hurt"]
            chance = binomtest(row["helped"], changed).pvalue if changed else 1.0
            found.append((chance, (row["settings"]["run"], row["system"])))
    found.sort()
    holm = [chance * (len(found) - i) for i, (chance, _) in enumerate(found)]
    survive = found[: next(i for i, value in enumerate(holm) if value > 0.05)]
    assert f"Of the {len(found)} differences" in page
    assert {name for _, name in survive} == {
        ("multiarith-100-full", "vote_n"),
        ("multiarith-100-context", "reasoning_bank"),
        ("multiarith-300", "elm"),
        ("multiarith-300", "icl_refined"),
    }


def test_the_page_has_the_committed_benches(page: str) -> None:
    want = []
    for name in BENCHES:
        for row in report.read(RESULTS / f"{name}.json", "bench")["rows"]:
            ours, peer = (
                "–" if row[side] is None else f"{report.number(row[side])} {row['unit']}"
                for side in ("ours", "peer")
            )
            peer_name = "–" if row["peer"] is None else row["peer_name"]
            ratio, met = report.number(row["ratio"]), MET[row["met"]]
            start = f"| {row['what']} | {name}.json | {ours} | {peer_name} "
            want.append(f"{start}| {peer} | {ratio} | {row['target']} | {met} |")
    assert sorted(table_rows(page, "| what | file | ours |")) == sorted(want)


@pytest.mark.parametrize("name", ["bench", "bench-distil"])
def test_every_committed_row_was_measured_three_times_and_says_whether_the_target_was_met(
    name: str,
) -> None:
    for row in report.read(RESULTS / f"{name}.json", "bench")["rows"]:
        assert len(row["ours_runs"]) >= 3, row["name"]
        assert row["met"] is not None or not row["peer_runs"], row["name"]
