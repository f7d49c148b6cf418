"""The last votes of this process, so that distilling a problem just solved does not sample it again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from .records import Trace, Vote

Thought = tuple[tuple[Trace, ...], Vote]


class Thoughts:
    """Bounded, thread-safe: what made a vote (problem, model, sampling settings, seed) -> its traces and the vote.

    All draws are seeded, so what is remembered is what would be sampled again.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[str, Thought] = OrderedDict()

    def get(self, key: str) -> Thought | None:
        with self._lock:
            return self._kept.get(key)

    def put(self, key: str, traces: Sequence[Trace], vote: Vote) -> Thought:
        thought = (tuple(sorted(traces, key=lambda t: t.row)), vote)
        with self._lock:
            self._kept[key] = thought
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return thought
