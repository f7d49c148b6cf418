"""What a system of the comparison is asked and replies, and what a run writes down: one Result for
each reply, one Learned for each batch of problems to learn from.

Replies meet the answers of their problems here and nowhere else; systems get
`Problem.unlabelled()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ..method.answers import same_answer
from ..records import Distilled, Hit, Problem, Record, Route, Trace, Vote


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
    """How an offline system trains: the number of steps, problems a step (fewer if there are
    fewer), the learning rate."""

    steps: int = 20
    batch: int = 4
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens sampled, tokens read as prompts, seconds of the machine."""

    tokens: int = 0
    read: int = 0
    seconds: float = 0.0

    def __add__(self, o: Cost) -> Cost:
        return Cost(self.tokens + o.tokens, self.read + o.read, self.seconds + o.seconds)

    def __sub__(self, o: Cost) -> Cost:
        return Cost(self.tokens - o.tokens, self.read - o.read, self.seconds - o.seconds)


@dataclass(frozen=True, slots=True)
class Reply:
    """One system's answer to one problem, and what is needed to judge it. The system never saw the
    truth.

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
    # verifier -> side -> score, on disagreements
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class System(Protocol):
    """An answering system. Its problems have no truth (`Problem.unlabelled()`), except in `fit` of
    `offline_grpo`, which sets `needs_labels`."""

    name: str
    needs_labels: bool
    spent: Cost  # on learning, so far

    def fit(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Learn from a whole training set at once, as offline systems do."""

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Learn from problems that were just answered, as online systems do."""

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        """Answer problems in shared batches with what was learnt so far, in their order."""

    def save(self, folder: Path) -> None:
        """Write what was learnt, so that a killed run can continue."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; an empty folder means nothing was learnt."""


# ---------- What a run writes down: replies, judged by the truth, and lessons.


@dataclass(frozen=True, slots=True)
class SideResult:
    """One side of a reply: its vote and traces against the truth, in the order of rows."""

    label: str | None
    right: bool  # the majority is the truth
    majority_ratio: float
    traces_right: tuple[bool, ...]  # a trace that ends without a box is not right
    traces_agree: tuple[bool, ...]  # with the majority: the reward of the trace
    tokens: int
    finished: int  # traces that end with a boxed answer
    margin: int | None = None  # the majority's lead in votes; None in runs of older versions


@dataclass(frozen=True, slots=True)
class Result:
    """A judged reply. `sides` maps "zero_shot" and "memory" to what was sampled there."""

    dataset: str
    learned_on: str  # the data set that the system had learnt from, "" for the stream itself
    problem_id: str
    source: str
    index: int  # place in the test part or in the stream, from 0
    system: str
    form: str
    truth: str
    answer: str | None
    correct: bool
    sides: Mapping[str, SideResult]
    used: bool  # an experience was in play
    memory: str | None = None  # the memory or experience that was tried
    memory_name: str = ""
    similarity: float | None = None
    chosen: str | None = None  # the side that the router took
    agreed: bool = False
    # verifier -> side -> score
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tokens: int = 0
    read: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Taught:
    """What one problem gave: a memory, or why there is none. `label_right` is judged later."""

    problem_id: str
    memory: str | None
    reason: str
    label: str | None = None
    label_right: bool | None = None
    majority_ratio: float | None = None
    best_step: int | None = None
    agreement: tuple[float, ...] = ()  # by step


@dataclass(frozen=True, slots=True)
class Learned:
    """A system learnt from some problems, at the cost of `spent`."""

    learned_on: str
    system: str
    place: int  # how often it had learnt before
    problems: tuple[str, ...]
    taught: tuple[Taught, ...]
    spent: Cost


def side_result(truth: str, vote: Vote, traces: Sequence[Trace]) -> SideResult:
    """Judge a side's vote and traces by the truth."""
    ordered = sorted((t for t in traces if t.side == vote.side), key=lambda t: t.row)
    winners = set(vote.clusters[0].rows) if vote.clusters else set()
    return SideResult(
        label=vote.label,
        right=right(truth, vote.label),
        majority_ratio=vote.majority_ratio,
        traces_right=tuple(t.votes and right(truth, t.answer) for t in ordered),
        traces_agree=tuple(t.row in winners for t in ordered),
        tokens=sum(t.tokens for t in ordered),
        finished=sum(t.votes for t in ordered),
        margin=vote.margin,
    )


def right(truth: str, answer: str | None) -> bool:
    return answer is not None and same_answer(truth, answer)


def judge(problem: Problem, reply: Reply, *, dataset: str, learned_on: str, index: int) -> Result:
    """Judge a reply by the truth of its problem."""
    truth = problem.answer
    assert truth is not None and reply.problem_id == problem.id
    hit, way, cost = reply.hit, reply.route, reply.cost
    return Result(
        *(dataset, learned_on, problem.id, problem.source, index, reply.system, reply.form),
        truth=truth,
        answer=reply.answer,
        correct=right(truth, reply.answer),
        sides={name: side_result(truth, v, reply.traces) for name, v in reply.votes.items()},
        used=reply.used,
        memory=hit and hit.memory_id,
        memory_name=hit.name if hit else "",
        similarity=hit and hit.similarity,
        chosen=way and way.side,
        agreed=bool(way and way.agreed),
        scores={name: dict(sides) for name, sides in reply.scores.items()},
        **asdict(cost),
    )


def taught(done: Distilled, problem: Problem) -> Taught:
    """A finished distillation, with its pseudo-label judged."""
    memory = done.memory
    agreement = tuple(s.agreement for s in done.steps if s.agreement is not None)
    if memory is None:
        return Taught(done.problem_id, None, done.reason, agreement=agreement)
    ok = right(problem.answer, memory.label) if problem.answer is not None else None
    ratio = memory.vote.majority_ratio
    about = memory.id, done.reason, memory.label, ok, ratio, memory.best_step
    return Taught(done.problem_id, *about, agreement)


# ---------- The standing of a run: accuracy so far, coverage, routing. Counts without intervals.


@dataclass(frozen=True, slots=True)
class Standing:
    """One system in one form, over the problems that it has answered so far."""

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
    """`done` of `total` replies, and the standing of each system."""

    done: int
    total: int
    standings: tuple[Standing, ...]


def differ(result: Result) -> bool:
    """Whether both sides have an answer and the answers differ."""
    labels = [s.label for s in map(result.sides.get, ("zero_shot", "memory")) if s is not None]
    return len(labels) == 2 and None not in labels and not result.agreed


def decisive(result: Result) -> str | None:
    """The side that is right, where `differ` and exactly one is."""
    right = [
        name for name in ("zero_shot", "memory") if differ(result) and result.sides[name].right
    ]
    return right[0] if len(right) == 1 else None


@dataclass
class Tally:
    """Adds up results as they come."""

    total: int = 0
    done: int = 0
    _by: dict[tuple[str, str, str], Standing] = field(default_factory=dict)

    def add(self, results: Iterable[Result]) -> None:
        for r in results:
            key = (r.dataset, r.system, r.form)
            s, side = self._by.get(key, Standing(*key)), decisive(r)
            self._by[key] = replace(
                s,
                n=s.n + 1,
                right=s.right + r.correct,
                used=s.used + r.used,
                judged=s.judged + (side is not None),
                routed=s.routed + (side is not None and side == r.chosen),
                tokens=s.tokens + r.tokens,
                seconds=s.seconds + r.seconds,
            )
            self.done += 1

    def progress(self) -> Progress:
        return Progress(self.done, self.total, tuple(self._by.values()))
