"""Confirmation of the critic: which of k traces it picks, and what its weight adds to a vote, on
untouched problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from latentmem.evaluation.metrics import paired
from latentmem.method.answers import same_answer
from tests.tools.learning import critic
from tests.tools.learning.plan import Lesson
from tests.tools.learning.value import Group, fit, running

WEIGHT = 0.5  # a value of this much more counts for e votes
SEEDS = (0, 1, 2)
Rows = Sequence[dict[str, Any]]  # outcomes of one problem's traces; with `value` and `cluster`


def critics(groups: Sequence[Group], seed: int) -> np.ndarray:
    """The critic [hidden] that is fitted without the `seed`-th third of the lessons."""
    return fit([g for i, g in enumerate(groups) if i % 3 != seed])


def all_so_far(work: Path, lessons: Sequence[Lesson]) -> list[Group]:
    """Features: the mean of all states so far, after each token (registered before confirming)."""
    groups = critic.load_groups(work, lessons)
    return [([running(s) for s in states], rewards) for states, rewards in groups]


def ends_only(work: Path, lessons: Sequence[Lesson]) -> list[Group]:
    """Features: the mean of a whole trace's states, one vector a trace: 14 KB a problem."""
    groups = critic.load_groups(work, lessons)
    return [([s.mean(0, keepdims=True) for s in states], rewards) for states, rewards in groups]


def shuffled(groups: Sequence[Group]) -> list[Group]:
    """A control: the same states with the rewards of each problem in another order."""
    rng = np.random.default_rng(0)
    return [(features, rng.permutation(rewards)) for features, rewards in groups]


def learning_curve(
    groups: Sequence[Group], problems: dict[str, Rows], sizes: Sequence[int]
) -> list[dict[str, float]]:
    """How the critic gets better with the votes that it has seen, over eight orders of them."""
    rng, found = np.random.default_rng(0), []
    orders = [rng.permutation(len(groups)) for _ in range(8)]
    for size in sizes:
        values = []
        for order in orders:
            weights = fit([groups[i] for i in order[:size]])
            again = {
                p: [{**r, "value": float(r["mean"] @ weights)} for r in rows]
                for p, rows in problems.items()
            }
            values.append((auc(again), fmean(scores(again, "critic", 2).values())))
        found.append(
            {
                "votes": size,
                "auc": fmean(a for a, _ in values),
                "critic@2": fmean(b for _, b in values),
            }
        )
    return found


def valued(rows: Rows, means: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    """The outcomes with the critic's value of each trace, means [traces, hidden], and the number of
    its answer's cluster."""
    answers: list[str] = []
    found = []
    for row, mean in zip(rows, means, strict=True):
        cluster = -1
        if row["finished"] and row["answer"] is not None:
            cluster = next(
                (i for i, a in enumerate(answers) if same_answer(a, row["answer"])), len(answers)
            )
            if cluster == len(answers):
                answers.append(row["answer"])
        state = mean.astype(np.float64)
        found.append({**row, "mean": state, "value": float(state @ weights), "cluster": cluster})
    return found


def pick(some: Rows, key: Callable[[dict[str, Any]], float]) -> float:
    """Whether the trace of the highest key, of those that finished with a box, is right."""
    ended = [r for r in some if r["cluster"] >= 0]
    return float(max(ended, key=key)["right"]) if ended else 0.0


def weighed(some: Rows, weight: float | None) -> float:
    """Whether the vote is right, each trace counting exp(value / weight) (None: 1); a tie goes to
    the earliest."""
    sums: dict[int, float] = {}
    for r in some:
        if r["cluster"] >= 0:
            sums[r["cluster"]] = sums.get(r["cluster"], 0.0) + (
                1.0 if weight is None else float(np.exp(r["value"] / weight))
            )
    if not sums:
        return 0.0
    best = max(sums, key=lambda c: sums[c])
    return float(next(r for r in some if r["cluster"] == best)["right"])


SYSTEMS: dict[str, Callable[[Rows], float]] = {
    "vote": lambda some: weighed(some, None),
    "critic": lambda some: pick(some, KEYS["critic"]),
    "entropy": lambda some: pick(some, KEYS["entropy"]),
    "certainty": lambda some: pick(some, KEYS["certainty"]),
    "shorter": lambda some: pick(some, KEYS["shorter"]),
    "weighted": lambda some: weighed(some, WEIGHT),
}


def scores(problems: dict[str, Rows], system: str, k: int) -> dict[str, float]:
    """Problem -> accuracy over all sets of k of its traces."""
    judge = SYSTEMS[system]
    return {p: fmean(judge(some) for some in combinations(rows, k)) for p, rows in problems.items()}


def auc(problems: dict[str, Rows]) -> float:
    """How often a right trace has a higher value than a wrong one of the same problem; mean over
    problems that have both."""
    found = []
    for rows in problems.values():
        won, lost = ([r["value"] for r in rows if r["right"] == side] for side in (True, False))
        if won and lost:
            found.append(fmean((a > b) + 0.5 * (a == b) for a in won for b in lost))
    return fmean(found)


def routing(problems: dict[str, Rows], key: Callable[[dict[str, Any]], float]) -> tuple[float, int]:
    """Of pairs of finished traces of which one is right, how often the right one has the higher
    key; each problem counts by its pairs. And the number of pairs."""
    found = []
    for rows in problems.values():
        for a, b in combinations([r for r in rows if r["cluster"] >= 0], 2):
            if a["right"] != b["right"]:
                won, lost = (a, b) if a["right"] else (b, a)
                found.append(float(key(won) > key(lost)))
    return (fmean(found), len(found)) if found else (0.5, 0)


KEYS: dict[str, Callable[[dict[str, Any]], float]] = {
    "critic": lambda r: r["value"],
    "entropy": lambda r: -r["entropy"],
    "certainty": lambda r: r["certainty"],
    "shorter": lambda r: -r["tokens"],
}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the given order."""
    order, found, highest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        found[i] = highest
    return found


def p_value(first: dict[str, float], second: dict[str, float], draws: int = 20_000) -> float:
    """Two-sided, by flipping the signs of the paired differences."""
    gaps = np.array([first[p] - second[p] for p in first])
    flips = np.random.default_rng(0).choice((-1.0, 1.0), (draws, len(gaps))) @ gaps
    return float((1 + (np.abs(flips) >= abs(gaps.sum()) - 1e-12).sum()) / (draws + 1))


def contrast(
    problems: dict[str, Rows], first: str, second: str, k: int, dataset: str, seed: int
) -> dict[str, Any]:
    """One line: the paired difference of two systems with k traces each."""
    a, b = scores(problems, first, k), scores(problems, second, k)
    gap = paired(a, b)
    return {
        "dataset": dataset,
        "seed": seed,
        "n": gap.n,
        "metric": f"accuracy@{k}",
        "system": first,
        "against": second,
        "mean": fmean(a.values()),
        "against_mean": fmean(b.values()),
        "estimate": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "p": p_value(a, b),
    }


REGISTERED = (("critic", 2), ("weighted", 3), ("weighted", 4))  # each against the vote


def report(
    groups: Sequence[Group], outcomes: dict[str, Rows], means: dict[str, np.ndarray], dataset: str
) -> list[dict[str, Any]]:
    """Of each seed's critic the AUC, the accuracy of every way to choose among k traces, and the
    contrasts; means[problem] [traces, hidden] are those of the outcomes' traces."""
    found = []
    for seed in SEEDS:
        weights = critics(groups, seed)
        rows = {p: valued(group, means[p], weights) for p, group in outcomes.items()}
        sizes = range(1, min(map(len, rows.values())) + 1)
        curves = {
            name: [round(fmean(scores(rows, name, k).values()), 4) for k in sizes]
            for name in SYSTEMS
        }
        lines = [contrast(rows, system, "vote", k, dataset, seed) for system, k in REGISTERED]
        adjusted = holm([line["p"] for line in lines])
        lines = [{**line, "holm_p": p} for line, p in zip(lines, adjusted, strict=True)]
        others = ("entropy", "certainty", "shorter")
        lines += [contrast(rows, "critic", other, 2, dataset, seed) for other in others]
        routed = {name: routing(rows, key) for name, key in KEYS.items()}
        found.append(
            {
                "seed": seed,
                "auc": auc(rows),
                "routing": routed,
                "curves": curves,
                "contrasts": lines,
            }
        )
    return found
