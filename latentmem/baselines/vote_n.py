"""vote_n: the majority of N zero-shot traces, the competitor that spends its compute on answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..records import LatentmemError, Problem
from .base import VOTE, VOTES, Form, Reply
from .row import Row, blank
from .sampler import Ask, Sampler


class VoteN(Row):
    """Asked for one trace or for a vote, it always votes with its own N; the first traces are zero_shot's own.

    To compare at equal compute, choose N so that its tokens are those of the other system (the report counts it).
    """

    def __init__(self, sampler: Sampler, traces: int = VOTES, temperature: float = VOTE.temperature,
                 name: str = "vote_n") -> None:
        if traces < 1:
            raise LatentmemError(f"A vote of {traces} traces is none: use 1 or more.")
        super().__init__(name, sampler)
        self.form = Form("vote", traces, temperature)

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        for problem, sampled in zip(problems, self.sampler.sample([Ask(p) for p in problems], self.form), strict=True):
            yield self.one_side(problem, replace(self.form, name=form.name), sampled)
