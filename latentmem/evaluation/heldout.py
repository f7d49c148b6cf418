"""The held-out protocol: learn on one part, then answer another part that shares no problem with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from ..baselines.base import Form, System
from ..records import Problem, Status
from .datasets import DataSet
from .journal import Journal
from .tally import Tally
from .work import Asked, Entrant, Event, ask, lesson


def run(entrants: Sequence[Entrant], learn: DataSet, tests: Sequence[DataSet], journal: Journal, *, rows: int = 32,
        together: int = 2) -> Iterator[Event]:
    """All entrants one after another: what is not yet in the journal is done, and yielded.

    `rows`: traces sampled in one batch, at most (one problem's traces stay together). `together`: problems that a system
    learns from at a time; what was learnt is on disk after each time. A system that has nothing to do is not even made.
    """
    tally = Tally(sum(len(t.problems) * len(e.forms) for t in tests for e in entrants))
    wanted = {unit for e in entrants for unit, _, _ in _questions(e, learn, tests, rows)}
    tally.add(r for r in journal.results() if _unit_of(r.learned_on, r.dataset, r.system, r.form) in {_family(u) for u in wanted})
    yield tally.progress()
    for entrant in entrants:
        todo = [q for q in _questions(entrant, learn, tests, rows) if q[0] not in journal]
        name = f"{learn.name}/{entrant.name}"
        if not todo:
            continue
        system = entrant.make()
        yield from _taught(system, _lessons(entrant, learn.problems, together), learn, journal, name)
        for unit, form, batch in todo:
            yield Status(f"{entrant.name} ({form.name}) on {batch.dataset}: problems {batch.first + 1} to "
                         f"{batch.first + len(batch.problems)}")
            results = ask(system, form, batch)
            journal.append(unit, results)
            tally.add(results)
            yield from results
            yield tally.progress()


def _taught(system: System, lessons: Sequence[tuple[bool, Sequence[Problem]]], learn: DataSet, journal: Journal,
            name: str) -> Iterator[Event]:
    """Bring a system to where it has learnt the whole part, from wherever it stood."""
    done = journal.restore(name, system.load)
    for place, (whole, problems) in zip(count(done), lessons[done:], strict=False):
        yield Status(f"{system.name} learns from {len(problems)} of {len(learn.problems)} problems", place, len(lessons))
        yield from lesson(system, problems, learn.name, journal, name, place, whole=whole, last=place + 1 == len(lessons))


def _lessons(entrant: Entrant, problems: Sequence[Problem], together: int) -> list[tuple[bool, Sequence[Problem]]]:
    """(whole set?, problems) of each lesson: all at once for the rows that train on a set, a few at a time for the others."""
    if not problems or not entrant.learns:
        return []
    if entrant.learns == "offline":
        return [(True, problems)]
    return [(False, problems[i : i + together]) for i in range(0, len(problems), together)]


def _questions(entrant: Entrant, learn: DataSet, tests: Sequence[DataSet], rows: int) -> Iterator[tuple[str, Form, Asked]]:
    """(unit, form, batch) of everything that an entrant is asked."""
    for test in tests:
        for form in entrant.forms:
            size = max(1, rows // form.traces)
            for first in range(0, len(test.problems), size):
                batch = Asked(test.name, learn.name, first, test.problems[first : first + size])
                yield f"{_unit_of(learn.name, test.name, entrant.name, form.name)}/{first}", form, batch


def _unit_of(learned_on: str, dataset: str, system: str, form: str) -> str:
    return f"{learned_on}>{dataset}/{system}/{form}"


def _family(unit: str) -> str:
    return unit.rpartition("/")[0]
