"""The two things that both protocols do with a system: ask it a batch, and let it learn from a batch.

Here the truth is taken off the problems: what a system is given has `answer=None`, except in `fit` of a system that says
that it needs labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..baselines.base import ONE, VOTE, Cost, Form, System
from ..records import Delta, Distilled, LatentmemError, Problem, Status, Step, Trace, Vote
from .journal import Journal
from .results import Learned, Result, judge, taught
from .tally import Progress

FORMS: dict[str, Form] = {form.name: form for form in (ONE, VOTE)}
Event = Status | Step | Distilled | Result | Learned | Progress  # what a protocol yields


@dataclass(frozen=True)
class Entrant:
    """A system of the comparison and the forms it answers in. `make` is called when its turn comes. `learns`: "online",
    from problems that it has answered; "offline", from a whole training set before; "" not at all."""

    name: str
    forms: tuple[Form, ...]
    make: Callable[[], System]
    learns: str = ""


@dataclass(frozen=True)
class Asked:
    """A batch of problems, with their places in the test part or in the stream."""

    dataset: str
    learned_on: str
    first: int
    problems: tuple[Problem, ...]


def ask(system: System, form: Form, batch: Asked) -> list[Result]:
    """The replies to a batch, judged. Raises LatentmemError if the system leaves a problem out."""
    replies = list(system.reply([p.unlabelled() for p in batch.problems], form))
    if [r.problem_id for r in replies] != [p.id for p in batch.problems]:
        raise LatentmemError(f"{system.name} answered {len(replies)} of {len(batch.problems)} problems or in another order: "
                             "it cannot be compared.")
    return [judge(p, r, dataset=batch.dataset, learned_on=batch.learned_on, index=batch.first + i)
            for i, (p, r) in enumerate(zip(batch.problems, replies, strict=True))]


def teach(system: System, problems: Sequence[Problem], learned_on: str, place: int, *,
          whole: bool) -> Iterator[Status | Step | Distilled | Learned]:
    """Let a system learn from problems: from a whole training set (`fit`), or from what it has just met (`learn`).

    Yields what is worth showing of its records, and last the Learned.
    """
    before = system.spent
    given = problems if whole and system.needs_labels else [p.unlabelled() for p in problems]
    truth, found = {p.id: p for p in problems}, []
    for record in system.fit(given) if whole else system.learn(given):
        if isinstance(record, Distilled):
            found.append(taught(record, truth[record.problem_id]))
        if not isinstance(record, (Delta, Trace, Vote)):
            yield record  # type: ignore[misc]
    spent = Cost(system.spent.tokens - before.tokens, system.spent.read - before.read, system.spent.seconds - before.seconds)
    yield Learned(learned_on, system.name, place, tuple(p.id for p in problems), tuple(found), spent)


def lesson(system: System, problems: Sequence[Problem], learned_on: str, journal: Journal, name: str, place: int, *,
           whole: bool, last: bool = False) -> Iterator[Event]:
    """`teach`, and what was learnt into the journal. Nothing is kept of a lesson that is broken off."""
    for record in teach(system, problems, learned_on, place, whole=whole):
        if isinstance(record, Learned):
            journal.keep(name, f"{name}/lesson/{place}", record, system.save, must=last)
        yield record
