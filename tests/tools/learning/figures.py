"""Figures from outcomes: mean accuracy of a trace, the vote, and paired differences with their
intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from latentmem.evaluation.metrics import paired
from latentmem.records import Problem
from tests.tools.learning.store import read

Outcomes = Mapping[str, list[dict[str, Any]]]  # problem id -> the outcomes of its traces


def outcomes(results: Path, system: str, problems: Sequence[Problem]) -> Outcomes:
    """What a system's traces came to, of these problems."""
    wanted, found = {p.id for p in problems}, {}
    for row in read(results / "outcomes" / f"{system}.jsonl"):
        if row["problem"] in wanted:
            found.setdefault(row["problem"], {})[row["row"]] = row
    return {p: [rows[i] for i in sorted(rows)] for p, rows in found.items()}


def voted(rows: Sequence[dict[str, Any]]) -> float:
    """Whether the majority is right; ties count by the share of the right among them."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        if row["finished"] and row["answer"] is not None:
            entry = counts.setdefault(
                "right" if row["right"] else row["answer"], [0, int(row["right"])]
            )
            entry[0] += 1
    if not counts:
        return 0.0
    most = max(n for n, _ in counts.values())
    return fmean(r for n, r in counts.values() if n == most)


def vote_curve(found: Outcomes, draws: int = 20) -> list[float]:
    """Accuracy of the vote of k = 1 .. n traces, by subsampling."""
    rng, n = np.random.default_rng(0), min(len(rows) for rows in found.values())
    return [
        fmean(
            voted([rows[i] for i in rng.permutation(len(rows))[:k]])
            for rows in found.values()
            for _ in range(draws)
        )
        for k in range(1, n + 1)
    ]


def means(found: Outcomes) -> dict[str, float]:
    """Problem -> share of its traces that are right."""
    return {p: fmean(r["right"] for r in rows) for p, rows in found.items()}


def summary(found: Outcomes) -> dict[str, float]:
    rows = [r for group in found.values() for r in group]
    return {
        "n": len(found),
        "traces": len(rows),
        "mean": fmean(r["right"] for r in rows),
        "vote": fmean(voted(g) for g in found.values()),
        "pass": fmean(any(r["right"] for r in g) for g in found.values()),
        "finished": fmean(r["finished"] for r in rows),
        "tokens": fmean(r["tokens"] for r in rows),
        "entropy": fmean(r["entropy"] for r in rows),
    }


def table(results: Path, systems: Sequence[str], problems: Sequence[Problem]) -> None:
    """Print each system's summary and its paired difference to the first one's."""
    first = outcomes(results, systems[0], problems)
    for system in systems:
        found = outcomes(results, system, problems)
        said = " ".join(
            f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
            for k, v in summary(found).items()
        )
        gap = paired(means(found), means(first))
        print(f"{system:32} {said}  {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] of {gap.n}")


def within(
    gaps: Mapping[str, float], group: Callable[[str], str], draws: int = 10_000
) -> list[float]:
    """The 95 % interval of the mean of paired differences, problems drawn again within each
    group."""
    rng, groups = np.random.default_rng(0), {}
    for problem, gap in gaps.items():
        groups.setdefault(group(problem), []).append(gap)
    drawn = [
        np.concatenate([rng.choice(values, len(values)) for values in groups.values()]).mean()
        for _ in range(draws)
    ]
    return [float(q) for q in np.quantile(drawn, (0.025, 0.975))]
