"""zero_shot: chain of thought, no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import Problem
from .base import Form, Reply
from .row import Row, blank
from .sampler import Ask, Sampler


class ZeroShot(Row):
    """The model alone, in the form asked for."""

    def __init__(self, sampler: Sampler, name: str = "zero_shot") -> None:
        super().__init__(name, sampler)

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        for problem, sampled in zip(problems, self.sampler.sample([Ask(p) for p in problems], form), strict=True):
            yield self.one_side(problem, form, sampled)
