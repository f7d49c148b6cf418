"""What every answering system of the comparison has in common: one signature, one way of sampling,
one account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...records import Hit, Problem, Record, Route, Trace, Vote


@dataclass(frozen=True, slots=True)
class AnswerMode:
    """How many traces answer a problem: one greedy trace, or a vote of several sampled ones."""

    name: str
    traces: int
    temperature: float  # 0 is greedy


ONE = AnswerMode("one", 1, 0.0)
VOTE = AnswerMode("vote", 8, 0.8)
VOTES = 16  # N of vote_n: as many traces as elm writes for a vote of eight on each side


@dataclass(frozen=True)
class TrainingSchedule:
    """How an offline row is trained: how long, with how many problems a step (fewer if there are
    not that many), how fast.
    `every`: steps between checkpoints."""

    steps: int = 20
    batch: int = 4
    learning_rate: float = 1e-3
    every: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent: tokens sampled, tokens read as prompts, seconds of the machine."""

    tokens: int = 0
    read: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.tokens + other.tokens, self.read + other.read, self.seconds + other.seconds
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """One system's answer to one problem, with what is needed to judge it afterwards. It never saw
    the truth.

    `votes` maps each side that was sampled ("zero_shot", "memory") to its vote. `hit` is the memory
    or experience that was tried, `route` what the router did with it; both are None for systems
    that have none.
    """

    problem_id: str
    system: str
    form: str
    answer: str | None
    votes: Mapping[str, Vote]
    traces: tuple[Trace, ...]
    cost: Cost
    hit: Hit | None = None
    route: Route | None = None
    used: bool = False  # an experience was in play (coverage counts these)
    scores: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # verifier -> side -> score, on disagreements


class System(Protocol):
    """An answering system. Problems reach it without their truth (`Problem.unlabelled()`), except
    `offline_grpo`'s `fit`, which is the one row that learns from labels and says so by
    `needs_labels`."""

    name: str
    needs_labels: bool
    spent: Cost  # on learning, so far

    def fit(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Learn from a whole training set at once (the offline rows); the online rows learn from
        each in turn."""

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Take in problems that were just answered (the online rows); the offline rows do nothing."""

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        """Answer several problems, in shared batches, with what was learnt so far. Yields in the
        order of `problems`."""

    def save(self, folder: Path) -> None:
        """Write what was learnt, so that a killed run resumes."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; an empty folder is nothing learnt."""
