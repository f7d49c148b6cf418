"""The online protocol: problems arrive one at a time, and each is answered with the memories of earlier ones only.

Each arrival is answered by every system, scored, and only then learnt from. The records that this yields are what the
command line prints and the app's Stream panel draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..baselines.base import System
from ..records import LatentmemError, Status
from .datasets import DataSet, unique
from .journal import Journal
from .tally import Tally
from .work import Asked, Entrant, Event, ask, lesson


def run(entrants: Sequence[Entrant], data: DataSet, journal: Journal, *, block: int = 1) -> Iterator[Event]:
    """The stream, from where the journal stands to its end. Closing the generator stops it; calling again goes on.

    `block`: how many problems arrive together; they are answered before any of them is learnt from. A text that comes
    twice is met once, or its second time would be no new problem.
    """
    problems = tuple(unique(data.problems))
    tally = Tally(len(problems) * sum(len(e.forms) for e in entrants))
    wanted = {(e.name, f.name) for e in entrants for f in e.forms}
    tally.add(r for r in journal.results() if (r.system, r.form) in wanted)
    yield tally.progress()
    if tally.done == tally.total and not _unlearnt(entrants, journal, -(-len(problems) // block)):
        return
    systems: list[tuple[Entrant, System, int]] = []
    for entrant in entrants:
        system = entrant.make()
        systems.append((entrant, system, journal.restore(entrant.name, system.load)))
    for place, first in enumerate(range(0, len(problems), block)):
        batch = Asked(data.name, "", first, problems[first : first + block])
        for entrant, system, learnt in systems:
            yield from _met(entrant, system, batch, place, learnt, journal, tally, len(problems))
        last = first + block >= len(problems)
        for entrant, system, learnt in systems:
            if entrant.learns and place >= learnt:
                yield Status(f"{entrant.name} learns from problem {first + 1} of {len(problems)}", first, len(problems))
                yield from lesson(system, batch.problems, "", journal, entrant.name, place, whole=False, last=last)


def _met(entrant: Entrant, system: System, batch: Asked, place: int, learnt: int, journal: Journal, tally: Tally,
         total: int) -> Iterator[Event]:
    """One system's replies to an arrival, in each form, as far as they are not written yet."""
    for form in entrant.forms:
        unit = f"{entrant.name}/{form.name}/{place}"
        if unit in journal:
            continue
        if learnt > place:
            name, remedy = journal.remedies.name(journal.folder), journal.remedies.anew
            raise LatentmemError(f"{name} has no replies of {entrant.name} ({form.name}) to problem {batch.first + 1}, "
                                 f"from which it has learnt since: {remedy}.")
        yield Status(f"{entrant.name} ({form.name}) answers problem {batch.first + 1} of {total}", batch.first, total)
        results = ask(system, form, batch)
        journal.append(unit, results)
        tally.add(results)
        yield from results
        yield tally.progress()


def _unlearnt(entrants: Sequence[Entrant], journal: Journal, blocks: int) -> bool:
    """True if a system has still to learn from the last arrival: what it learnt there belongs to its costs."""
    return any(e.learns and f"{e.name}/lesson/{blocks - 1}" not in journal for e in entrants)
