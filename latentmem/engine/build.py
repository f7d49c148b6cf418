"""A data set becomes a bank: each problem is voted on, and learnt from if its vote passes the gate.

What is done is never done again. The bank says what was learnt; a journal beside it says which
problems taught nothing, since those leave no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import Log
from ..method.voting import gate
from ..records import Distilled, Problem, Record, Vote, digest
from ..settings import Settings

if TYPE_CHECKING:
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


def build(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    votes_only: bool = False,
    journal: Path | None = None,
) -> Iterator[Record | Turn | Outcome]:
    """Learn from each problem in turn, or only vote on it: a Turn, the engine's records, an Outcome
    as soon as its memory is on the disk. A problem that was done before has its Outcome alone.

    `journal`: the file that remembers, from one run to the next, which problems taught nothing; one
    process at a time. Raises LatentmemError; the same call then goes on where it ended.
    """
    log = Log(journal)
    if not engine.ready:
        yield from engine.load()
    taught_nothing = {line["key"]: line for line in log.read()}
    limit = engine.settings.max_problem_chars
    for problem in problems:
        key = "" if journal is None else _key(engine, problem)
        if len(problem.text) > limit:
            words = f"It has {len(problem.text)} characters and the limit is {limit}: shorten it."
            yield Outcome(problem, unfit=words)
        elif memory := _known(engine, problem):
            yield Outcome(problem, memory=memory, known=True)
        elif before := taught_nothing.get(key):
            yield Outcome(problem, unfit=before["unfit"], nothing=before["nothing"])
        else:
            yield Turn(problem)
            for record in _records(engine, problem, votes_only):
                if isinstance(record, Outcome) and not votes_only and not record.memory:
                    said = {"unfit": record.unfit, "nothing": record.nothing}
                    log.append({"problem": problem.id, "key": key, **said})
                yield record


def _records(engine: Engine, problem: Problem, votes_only: bool) -> Iterator[Record | Outcome]:
    """The engine's records of one problem, with an Outcome in place of its Distilled."""
    s, first = engine.settings, None
    if not votes_only:
        engine.bank.check_room()
    for record in engine.think(problem) if votes_only else engine.distil(problem):
        if isinstance(record, Vote) and record.side == "zero_shot":
            first = record
        if not isinstance(record, Distilled):
            yield record
            continue
        unfit = gate(first, s.gate_votes, s.gate_lead) or "" if first else ""
        if record.memory is None:
            nothing = "" if unfit else record.reason
            yield Outcome(problem, first, unfit, nothing=nothing)
        elif record.kept:  # otherwise the error that follows says why
            yield Outcome(problem, first, memory=record.memory.id)
    if votes_only and first:
        yield Outcome(problem, first, gate(first, s.gate_votes, s.gate_lead) or "")


def _known(engine: Engine, problem: Problem) -> str:
    """The id of the memory that this model and recipe made of the same text, "" if there is none. A
    setting that a memory does not name, as an imported one, is no difference."""
    bank, wanted = engine.bank, engine.settings
    for info in bank.infos(text=problem.text, model=engine.model.fingerprint):
        if info.problem.text == problem.text:
            made = bank.get(info.id).settings.items()
            if all(getattr(wanted, k) == v for k, v in made if k in Settings.model_fields):
                return info.id
    return ""


def _key(engine: Engine, problem: Problem) -> str:
    """Of the problem, the model and the recipe: all that its outcome depends on."""
    from ..method.distillation import Recipe

    recipe = [(f.name, getattr(engine.settings, f.name)) for f in fields(Recipe)]
    return digest(problem.id, problem.text, engine.model.fingerprint, repr(recipe))


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
