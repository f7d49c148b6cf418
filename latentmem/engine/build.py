"""A data set becomes a bank: each problem is voted on, and learnt from if its vote passes the gate.

What is done is never done again. The bank says what was learnt; a journal beside it says which
problems taught nothing, since those leave no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import Log
from ..method.voting import gate
from ..records import Distilled, Problem, Record, Trace, Vote, digest
from ..settings import Settings

if TYPE_CHECKING:
    from ..bank import MemoryBank
    from .engine import Engine


@dataclass(frozen=True)
class Turn:
    """The records that follow are about this problem."""

    problem: Problem


@dataclass(frozen=True)
class Outcome:
    """What has become of one problem."""

    problem: Problem
    vote: Vote | None = None  # once all attempts have ended
    unfit: str = ""  # why it cannot be learnt from
    memory: str = ""  # the id of what was learnt, or was in the bank already
    known: bool = False  # ... already
    nothing: str = ""  # why nothing was learnt, although the vote was fit

    @property
    def open(self) -> bool:
        """Whether there is anything left to do."""
        return not (self.memory or self.nothing or self.unfit)


class Ledger:
    """What was done before: the bank says what was learnt, the journal what taught nothing."""

    def __init__(
        self, bank: MemoryBank, settings: Settings, model: str, journal: Path | None = None
    ) -> None:
        """`model`: its fingerprint. `journal`: the file that remembers, from one run to the next,
        which problems taught nothing; one process at a time. Raises LatentmemError."""
        self.bank, self.settings, self.model = bank, settings, model
        self._log = Log(journal)
        self._nothing = {line["key"]: line for line in self._log.read()}

    def outcome(self, problem: Problem) -> Outcome | None:
        """What has become of a problem that cannot be learnt from or was done before, else None."""
        if len(problem.text) > (limit := self.settings.max_problem_chars):
            words = f"It has {len(problem.text)} characters and the limit is {limit}: shorten it."
            return Outcome(problem, unfit=words)
        if memory := self._known(problem):
            return Outcome(problem, memory=memory, known=True)
        if self._nothing and (before := self._nothing.get(self._key(problem))):
            return Outcome(problem, unfit=before["unfit"], nothing=before["nothing"])
        return None

    def add(self, one: Outcome) -> None:
        """Remember an outcome that leaves no memory; it is on the disk when this returns."""
        if not one.memory:
            said = {"unfit": one.unfit, "nothing": one.nothing}
            self._log.append({"problem": one.problem.id, "key": self._key(one.problem), **said})

    def _known(self, problem: Problem) -> str:
        """The id of the memory that this model and recipe made of the same text, "" if there is
        none. A setting that a memory does not name, as an imported one, is no difference."""
        for info in self.bank.infos(text=problem.text, model=self.model):
            if info.problem.text == problem.text:
                made, ours = self.bank.get(info.id).settings, Settings.model_fields
                if all(getattr(self.settings, k) == v for k, v in made.items() if k in ours):
                    return info.id
        return ""

    def _key(self, problem: Problem) -> str:
        """Of the problem, the model and the recipe: all that its outcome depends on."""
        from ..method.distillation import Recipe

        recipe = [(f.name, getattr(self.settings, f.name)) for f in fields(Recipe)]
        return digest(problem.id, problem.text, self.model, repr(recipe))


def build(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    votes_only: bool = False,
    journal: Path | None = None,
    batch: int = 1,
) -> Iterator[Record | Turn | Outcome]:
    """Learn from the problems in turn, or only vote on them: a Turn, the engine's records, an
    Outcome as soon as its memory is on the disk. A problem that was done before has its Outcome
    alone. `batch`: how many are learnt from together.

    `journal`: that of the Ledger. Raises LatentmemError; the same call then goes on where it ended.
    """
    if not engine.ready:
        yield from engine.load()
    ledger = Ledger(engine.bank, engine.settings, engine.model.fingerprint, journal)
    together: list[Problem] = []
    for number, problem in enumerate(problems, 1):
        if before := ledger.outcome(problem):
            yield before
        else:
            together.append(problem)
        if together and (len(together) == batch or number == len(problems)):
            for record in _records(engine, together, votes_only):
                if isinstance(record, Outcome) and not votes_only:
                    ledger.add(record)
                yield record
            together = []


def _records(
    engine: Engine, problems: Sequence[Problem], votes_only: bool
) -> Iterator[Record | Turn | Outcome]:
    """The engine's records of some problems, each behind its Turn, with Outcomes in place of the
    Distilled."""
    if votes_only:
        for problem in problems:
            yield Turn(problem)
            yield from _vote(engine, problem)
        return
    engine.bank.check_room(len(problems))
    of = {problem.id: problem for problem in problems}
    firsts: dict[str, Vote] = {}
    heard, waiting = 0, iter(problems)  # the votes come first, one problem's after the other's
    now = next(waiting)
    yield Turn(now)
    for record in engine.distil_many(problems):
        if isinstance(record, Distilled):
            if one := _outcome(engine, of[record.problem_id], firsts, record):
                yield one
            continue
        yield record
        if isinstance(record, Trace) and record.side == "zero_shot":
            heard += 1
        elif isinstance(record, Vote) and record.side == "zero_shot":
            firsts[now.id] = record
            if heard % engine.settings.rollouts == 0 and (following := next(waiting, None)):
                now = following
                yield Turn(now)


def _vote(engine: Engine, problem: Problem) -> Iterator[Record | Outcome]:
    """The engine's records of a vote, then whether it can be learnt from."""
    s, last = engine.settings, None
    for record in engine.think(problem):
        yield record
        last = record if isinstance(record, Vote) else last
    if last:
        yield Outcome(problem, last, gate(last, s.gate_votes, s.gate_lead) or "")


def _outcome(
    engine: Engine, problem: Problem, firsts: Mapping[str, Vote], ended: Distilled
) -> Outcome | None:
    """What a distillation has come to; None if its memory could not be kept: the error that follows
    says why."""
    s, first = engine.settings, firsts.get(problem.id)
    if ended.memory is not None:
        return Outcome(problem, first, memory=ended.memory.id) if ended.kept else None
    unfit = gate(first, s.gate_votes, s.gate_lead) or "" if first else ""
    return Outcome(problem, first, unfit, nothing="" if unfit else ended.reason)


def summary(outcomes: Sequence[Outcome], kept: str = "kept") -> str:
    """What was learnt and `kept`, what not, and why, in one sentence."""
    fresh = sum(bool(one.memory) and not one.known for one in outcomes)
    total = f"{len(outcomes)} problem{'s' * (len(outcomes) != 1)}"
    parts = [f"{fresh} of {total} learnt and {kept}"]
    for n, words in (
        (sum(one.known for one in outcomes), "were in the bank already"),
        (sum(bool(one.unfit) for one in outcomes), "had no vote to learn from"),
        (sum(bool(one.nothing) for one in outcomes), "were tried and taught nothing"),
    ):
        if n:
            parts.append(f"{n} {words if n > 1 else words.replace('were', 'was')}")
    return "; ".join(parts) + "."
