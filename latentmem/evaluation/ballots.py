"""What the votes of a run say by themselves: TTRL's measures, how far agreement can be believed, what a gate lets through.

Pure functions. Words of the field as in TTRL (arXiv 2504.16084): majority_ratio, label_accuracy, reward_accuracy,
ground_truth_ratio, pass@k.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..voting import unfit
from .results import Result, SideResult
from .scoring import BASE, two_sided
from .statistics import pass_at_k


def vote_metrics(sides: Sequence[SideResult], prefix: str = "") -> dict[str, float]:
    """majority_ratio, label_accuracy, reward_accuracy, ground_truth_ratio and pass@k of votes; `prefix` "post_" for the
    side with a memory. Empty for none."""
    if not sides:
        return {}
    found = {
        "majority_ratio": fmean(s.majority_ratio for s in sides),
        "label_accuracy": fmean(s.right for s in sides),
        "reward_accuracy": fmean(fmean(a == b for a, b in zip(s.traces_agree, s.traces_right, strict=True)) for s in sides),
        "ground_truth_ratio": fmean(fmean(s.traces_right) for s in sides),
    }
    n = min(len(s.traces_right) for s in sides)
    for k in [k for k in (1, 2, 4, 8, 16) if k <= n]:
        found[f"pass@{k}"] = fmean(pass_at_k(len(s.traces_right), sum(s.traces_right), k) for s in sides)
    return {prefix + name: value for name, value in found.items()}


def vote_sides(results: Sequence[Result]) -> list[tuple[str, list[SideResult]]]:
    """(title, votes) of one run: each routed system's two sides over the same problems, or, without one, the model alone."""
    found = [r for r in results if r.form == "vote"]
    out: list[tuple[str, list[SideResult]]] = []
    for system in two_sided(found):
        both = [r.sides for r in found if r.system == system and {"zero_shot", "memory"} <= r.sides.keys()]
        out += [(f"{system}: alone", [s["zero_shot"] for s in both]), (f"{system}: with it (post_)", [s["memory"] for s in both])]
    if not out and (alone := [r.sides[BASE] for r in found if r.system == BASE]):
        out = [(f"{BASE}: alone", alone)]
    return out


def agreement_bins(sides: Sequence[SideResult]) -> list[tuple[float, float, int]]:
    """(majority ratio, share of right labels, votes) for each ratio that occurs: how far agreement can be believed."""
    by: dict[float, list[bool]] = defaultdict(list)
    for s in sides:
        if s.label is not None:
            by[round(s.majority_ratio, 6)].append(s.right)
    return [(ratio, fmean(values), len(values)) for ratio, values in sorted(by.items())]


GATES = ((1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 2), (5, 2), (6, 2))  # (votes, lead), for votes of eight


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate (SCRL, arXiv 2603.19880) would have let through of some votes, and how many of those labels are right."""

    votes: int
    lead: int
    met: int
    passed: int
    right: int


def gates(results: Sequence[Result]) -> list[Gate]:
    """Each of GATES over the votes of the model alone. Votes of older runs, whose lead was not written down, do not count."""
    sides = [r.sides[BASE] for r in results if (r.system, r.form) == (BASE, "vote") and BASE in r.sides]
    known = [(s.right, sum(s.traces_agree), s.margin, len(s.traces_agree)) for s in sides if s.margin is not None]
    through = {g: [right for right, most, margin, total in known if not unfit(most, margin, total, *g)] for g in GATES}
    return [Gate(*g, len(known), len(those), sum(those)) for g, those in through.items()] if known else []
