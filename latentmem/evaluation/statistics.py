"""Intervals and estimators. Pure functions over plain numbers; every draw is seeded, so a report is the same each time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TypeVar

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of n values, and its 95 % interval."""

    n: int
    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, lowest: float = 0.0,
              highest: float = 1.0) -> Estimate | None:
    """The mean with its percentile bootstrap interval (Efron 1979); None for no values.

    Resampling n of n values with replacement is drawing the counts of each different value from a multinomial
    distribution, which is what is done. Where all values are equal, resampling sees no spread and would give an interval
    of no width. Then the bound is the exact one for a share of which no case was seen, 1 - 0.025^(1/n), taken between
    `lowest` and `highest`, which the values cannot leave.
    """
    n = len(values)
    if n == 0:
        return None
    different, counts = np.unique(np.asarray(values, float), return_counts=True)
    mean = float(np.mean(np.asarray(values, float)))
    if len(different) == 1:
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        return Estimate(n, mean, mean - unseen * (mean - lowest), mean + unseen * (highest - mean))
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ different / n  # [resamples]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(n, mean, float(low), float(high))


def share(right: int, n: int) -> Estimate | None:
    """The share of `right` among n cases, with the interval of `bootstrap`."""
    return bootstrap([1.0] * right + [0.0] * (n - right))


def paired(first: Mapping[K, float], second: Mapping[K, float], *, seed: int = 0) -> Estimate | None:
    """The mean of first - second over the problems that both answered, with its paired bootstrap interval."""
    shared = [key for key in first if key in second]
    return bootstrap([first[key] - second[key] for key in shared], seed=seed, lowest=-1.0, highest=1.0)


def flips(first: Mapping[K, bool], second: Mapping[K, bool]) -> tuple[int, int]:
    """(helped, hurt): problems right in `first` and wrong in `second`, and the reverse, of those in both."""
    shared = [key for key in first if key in second]
    return (sum(first[k] and not second[k] for k in shared), sum(second[k] and not first[k] for k in shared))


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that at least one of k traces is right, unbiased from n >= k of which `right` are: 1 - C(n-c,k)/C(n,k)
    (Chen et al. 2021, arXiv 2107.03374)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {right} right among {n} has no meaning: 1 <= k <= n and 0 <= right <= n.")
    return 1.0 - comb(n - right, k) / comb(n, k)


def nearest_share(keys: np.ndarray, families: Sequence[str]) -> tuple[float, float]:
    """How often the nearest other key [n, d] (unit rows) is of the same family, and how often a random other would be."""
    n = len(families)
    if n < 2:
        raise ValueError(f"{n} keys have no neighbours: give at least two.")
    similar = np.asarray(keys, float) @ np.asarray(keys, float).T  # [n, n]
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.argmax(1)
    same = np.array([[a == b for b in families] for a in families])  # [n, n]
    return float(same[np.arange(n), nearest].mean()), float((same.sum() - n) / (n * (n - 1)))
