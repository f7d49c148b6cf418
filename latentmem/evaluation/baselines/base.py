"""The base of every system, and the systems that learn nothing: zero_shot, vote_n,
untrained_prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...records import Hit, KeyKind, LatentmemError, Problem, Record
from ..results import VOTE, VOTES, AnswerMode, Cost, Reply
from .sampler import Ask, Sampled, Sampler

Key = Callable[[Problem, KeyKind], np.ndarray]  # a problem's retrieval key, a unit vector [d]


def blank(problem: Problem) -> Problem:
    """The same question without its truth, which is not even read."""
    return Problem(problem.text, problem.id, None, problem.source)


class BaseSystem:
    """A system that learns nothing; the others override what they do."""

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

    def one_side(
        self, problem: Problem, mode: AnswerMode, sampled: Sampled, hit: Hit | None = None
    ) -> Reply:
        """The reply of a system that samples one side only: its vote's label is the answer."""
        return Reply(
            problem.id,
            self.name,
            mode.name,
            sampled.vote.label,
            {sampled.vote.side: sampled.vote},
            sampled.traces,
            sampled.cost,
            hit,
            None,
            hit is not None,
        )


# ---------- zero_shot: chain of thought, no memory.


class ZeroShot(BaseSystem):
    """The model alone, in the mode asked for."""

    def __init__(self, sampler: Sampler, name: str = "zero_shot") -> None:
        super().__init__(name, sampler)

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        for problem, sampled in zip(
            problems, self.sampler.sample([Ask(p) for p in problems], mode), strict=True
        ):
            yield self.one_side(problem, mode, sampled)


# ---------- vote_n: the majority of N zero-shot traces; it spends its compute on answering.


class VoteN(BaseSystem):
    """Votes with its own N whether it is asked for one trace or for a vote; the first traces are
    zero_shot's own.

    To compare at equal compute, choose N so that it takes as many tokens as the other system (the
    report counts them).
    """

    def __init__(
        self,
        sampler: Sampler,
        traces: int = VOTES,
        temperature: float = VOTE.temperature,
        name: str = "vote_n",
    ) -> None:
        if traces < 1:
            raise LatentmemError(
                f"A vote needs at least one trace and here it has {traces}: use 1 or more."
            )
        super().__init__(name, sampler)
        self.mode = AnswerMode("vote", traces, temperature)

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        for problem, sampled in zip(
            problems, self.sampler.sample([Ask(p) for p in problems], self.mode), strict=True
        ):
            yield self.one_side(problem, replace(self.mode, name=mode.name), sampled)


# ---------- untrained_prompt: the soft prompt before training, a control for its mere presence.


class UntrainedPrompt(BaseSystem):
    """The model behind the embeddings of `init_text`, repeated or cut to `virtual_tokens`."""

    def __init__(
        self,
        sampler: Sampler,
        init_text: str,
        virtual_tokens: int = 20,
        name: str = "untrained_prompt",
    ) -> None:
        super().__init__(name, sampler)
        self.soft = sampler.model.text_prompt(init_text, virtual_tokens)

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        asks = [Ask(blank(p), self.soft, side="memory") for p in problems]
        for ask, sampled in zip(asks, self.sampler.sample(asks, mode), strict=True):
            yield self.one_side(ask.problem, mode, sampled)
