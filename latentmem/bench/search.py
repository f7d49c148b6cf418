"""Our side of the row about search: the 95th percentile of the milliseconds of one search in a large bank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bank import Bank
from ..records import Cluster, Memory, Problem, Vote
from .work import EMBEDDING, HITS, Side, Work

BATCH = 2000  # memories in one transaction


def unit_keys(count: int, seed: int, dim: int = EMBEDDING) -> np.ndarray:
    """Random unit keys [count, dim], float32, in 64 loose groups: what matters to an exact search is only their number."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((64, dim), np.float32)[rng.integers(0, 64, count)]
    keys += rng.standard_normal((count, dim), np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def ours(work: Work) -> Side:
    """Searches of the bank after the first, which reads the keys."""
    bank = filled(work.memories, work.seed)
    asked = unit_keys(work.queries, work.seed + 1)
    bank.search(asked[0], k=HITS)
    return Side(lambda: p95([lambda q=q: bank.search(q, k=HITS) for q in asked]),
                f"{work.memories} memories, {work.queries} searches for {HITS} each; the first search, which reads the "
                "bank, is not counted on either side")


def p95(calls: list[Callable[[], Any]]) -> float:
    """The 95th percentile of the milliseconds that the calls take."""
    took = []
    for call in calls:
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return float(np.percentile(took, 95))


def filled(count: int, seed: int, path: str | Path = ":memory:") -> Bank:
    """A bank of `count` memories with random input keys and small soft prompts, stored as `put` stores them."""
    bank = Bank(path)
    extend(bank, unit_keys(count, seed))
    return bank


def extend(bank: Bank, keys: np.ndarray, start: int = 0) -> None:
    """Add one memory for each key [n, d] in large transactions; the ids count from `start`."""
    from ..bank_codec import pack

    for at in range(0, len(keys), BATCH):
        memories = list(_memories(keys[at : at + BATCH], start + at))
        # One transaction for many: a put each would measure the disk.
        bank._store.add([(pack(m), m) for m in memories])


def _memories(keys: np.ndarray, start: int) -> Iterator[Memory]:
    vote = Vote((Cluster("1", (0, 1, 2, 3, 4)), Cluster("2", (5, 6, 7))), 8, 8)
    for i, key in enumerate(keys, start):
        yield Memory(Problem(f"What is {i} plus {i % 97}?", source=f"set {i % 5}"), np.full((1, 4), i, np.float32),
                     {"input": key}, "bench", "bench", vote, (), (), 1, {}, "2026-01-31T12:00:00+00:00")
