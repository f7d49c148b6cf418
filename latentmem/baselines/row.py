"""What the rows have in common: doing nothing where there is nothing to do, and replying with one sampled side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..records import Hit, KeyKind, Problem, Record
from .base import Cost, Form, Reply
from .sampler import Sampled, Sampler

Key = Callable[[Problem, KeyKind], np.ndarray]  # a problem's retrieval key, a unit vector [d]


def blank(problem: Problem) -> Problem:
    """The same question without its truth, which is not even looked at."""
    return Problem(problem.text, problem.id, None, problem.source)


class Row:
    """A system that learns nothing; the others replace what they do."""

    needs_labels = False

    def __init__(self, name: str, sampler: Sampler) -> None:
        self.name, self.sampler, self.spent = name, sampler, Cost()

    def fit(self, problems: Sequence[Problem]) -> Iterator[Record]:
        yield from ()

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        yield from ()

    def save(self, folder: Path) -> None:
        """Nothing was learnt."""

    def load(self, folder: Path) -> None:
        """Nothing was learnt."""

    def one_side(self, problem: Problem, form: Form, sampled: Sampled, hit: Hit | None = None) -> Reply:
        """The reply of a system that samples one side only: its vote's label is the answer."""
        return Reply(problem.id, self.name, form.name, sampled.vote.label, {sampled.vote.side: sampled.vote},
                     sampled.traces, sampled.cost, hit, None, hit is not None)
