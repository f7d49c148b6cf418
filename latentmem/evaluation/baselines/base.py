"""The base of every system, and those that learn nothing: zero_shot, vote_n, untrained_prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ...records import Hit, KeyKind, Problem, Record, Side
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
        vote, traces = sampled.vote, sampled.traces
        what = self.name, mode.name, vote.label, {vote.side: vote}, traces, sampled.cost
        return Reply(problem.id, *what, hit, None, hit is not None)

    def replies(
        self,
        problems: Sequence[Problem],
        mode: AnswerMode,
        soft: Tensor | None = None,
        side: Side = "zero_shot",
        sampler: Sampler | None = None,
    ) -> Iterator[Reply]:
        """One side of each problem: the model alone, or behind a soft prompt."""
        asks = [Ask(blank(p), soft, side=side) for p in problems]
        sampled = (sampler or self.sampler).sample(asks, mode)
        for ask, one in zip(asks, sampled, strict=True):
            yield self.one_side(ask.problem, mode, one)


# ---------- zero_shot: chain of thought, no memory.


class ZeroShot(BaseSystem):
    """The model alone, in the mode asked for."""

    def __init__(self, sampler: Sampler, name: str = "zero_shot") -> None:
        super().__init__(name, sampler)

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        return self.replies(problems, mode)


# ---------- vote_n: the majority of N zero-shot traces; it spends its compute on answering.


class VoteN(BaseSystem):
    """Votes with its own N whether it is asked for one trace or for a vote; the first traces are
    zero_shot's own.

    To compare at equal compute, choose N so that it takes as many tokens as the other system (the
    report counts them).
    """

    def __init__(self, sampler: Sampler, traces: int = VOTES, name: str = "vote_n") -> None:
        super().__init__(name, sampler)
        self.traces = traces

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        return self.replies(problems, AnswerMode(mode.name, self.traces, VOTE.temperature))


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
        return self.replies(problems, mode, self.soft, "memory")
