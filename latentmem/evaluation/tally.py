"""How a run stands: accuracy so far by system, coverage, routing. Counts only; intervals are for the end (`scoring`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .results import Result


@dataclass(frozen=True, slots=True)
class Standing:
    """One system in one form, over the problems that it has answered."""

    dataset: str
    system: str
    form: str
    n: int = 0
    right: int = 0
    used: int = 0  # an experience was in play
    judged: int = 0  # both sides had an answer, the answers differed, and exactly one was right
    routed: int = 0  # ... and the router took the right one
    tokens: int = 0
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.right / self.n if self.n else 0.0

    @property
    def coverage(self) -> float:
        return self.used / self.n if self.n else 0.0

    @property
    def routing_accuracy(self) -> float | None:
        return self.routed / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` replies, and how each system stands."""

    done: int
    total: int
    standings: tuple[Standing, ...]


def decisive(result: Result) -> str | None:
    """The side that is right, where both sides have an answer, the answers differ, and exactly one is right."""
    alone, helped = result.sides.get("zero_shot"), result.sides.get("memory")
    if alone is None or helped is None or result.agreed or alone.label is None or helped.label is None:
        return None
    if alone.right == helped.right:
        return None
    return "memory" if helped.right else "zero_shot"


@dataclass
class Tally:
    """Adds results up as they come."""

    total: int = 0
    done: int = 0
    _by: dict[tuple[str, str, str], Standing] = field(default_factory=dict)

    def add(self, results: Iterable[Result]) -> None:
        for r in results:
            key = (r.dataset, r.system, r.form)
            s, side = self._by.get(key, Standing(*key)), decisive(r)
            self._by[key] = Standing(*key, s.n + 1, s.right + r.correct, s.used + r.used, s.judged + (side is not None),
                                     s.routed + (side is not None and side == r.chosen), s.tokens + r.tokens,
                                     s.seconds + r.seconds)
            self.done += 1

    def progress(self) -> Progress:
        return Progress(self.done, self.total, tuple(self._by.values()))
