"""The protocols: held-out, online, keys; and what they do with a system: ask it a batch, let it
learn from a batch.

The truth is taken off the problems here: a system gets `answer=None`, except in `fit` if it needs
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..files import Log
from ..records import (
    Delta,
    Distilled,
    KeyKind,
    LatentmemError,
    Problem,
    Status,
    Step,
    Trace,
    Vote,
    digest,
)
from .baselines.sampler import computed
from .datasets import DataSet, family, unique
from .journal import Journal
from .metrics import nearest_share
from .results import (
    ONE,
    VOTE,
    AnswerMode,
    Learned,
    Progress,
    Result,
    System,
    Tally,
    judge,
    taught,
)

if TYPE_CHECKING:
    from .baselines.registry import SystemFactory

MODES: dict[str, AnswerMode] = {mode.name: mode for mode in (ONE, VOTE)}
Event = Status | Step | Distilled | Result | Learned | Progress  # what a protocol yields


@dataclass(frozen=True)
class SystemSpec:
    """A system of the comparison and the modes in which it answers. `make` is called when its turn
    comes. `learns`: "online", from problems that it has answered; "offline", from a whole training
    set before; "" not at all."""

    name: str
    modes: tuple[AnswerMode, ...]
    make: Callable[[], System]
    learns: str = ""


@dataclass(frozen=True)
class Batch:
    """Some problems, and the place of the first one in the test part or in the stream."""

    dataset: str
    learned_on: str
    first: int
    problems: tuple[Problem, ...]


def ask(system: System, mode: AnswerMode, batch: Batch) -> list[Result]:
    """The judged replies to a batch."""
    replies = list(system.reply(blank(batch.problems), mode))
    assert [r.problem_id for r in replies] == [p.id for p in batch.problems]
    where = {"dataset": batch.dataset, "learned_on": batch.learned_on}
    pairs = enumerate(zip(batch.problems, replies, strict=True), batch.first)
    return [judge(p, r, **where, index=i) for i, (p, r) in pairs]


def lesson(
    system: System,
    problems: Sequence[Problem],
    learned_on: str,
    journal: Journal,
    name: str,
    place: int,
    *,
    whole: bool,
    last: bool,
) -> Iterator[Event]:
    """Let a system learn from problems: from a whole training set (`fit`), or from what it has just
    answered (`learn`).

    Yields those of its records that are worth showing, and last the Learned, which goes into the
    journal. A lesson that is broken off leaves nothing.
    """
    before, found = system.spent, []
    given = problems if whole and system.needs_labels else blank(problems)
    truth = {p.id: p for p in problems}
    for record in system.fit(given) if whole else system.learn(given):
        if isinstance(record, Distilled):
            found.append(taught(record, truth[record.problem_id]))
        if not isinstance(record, (Delta, Trace, Vote)):
            yield record  # type: ignore[misc]
    spent = system.spent - before
    done = Learned(learned_on, system.name, place, tuple(truth), tuple(found), spent)
    journal.keep(name, f"{name}/lesson/{place}", done, system.save, must=last)
    yield done


def answers(
    system: System, mode: AnswerMode, batch: Batch, unit: str, journal: Journal, tally: Tally
) -> Iterator[Event]:
    """The judged replies to a batch go into the journal as a unit and are yielded."""
    results = ask(system, mode, batch)
    journal.append(unit, results)
    tally.add(results)
    yield from results
    yield tally.progress()


# ---------- The held-out protocol: learn on one part, then answer another that shares no problem.


def run_heldout(
    specs: Sequence[SystemSpec],
    learn: DataSet,
    tests: Sequence[DataSet],
    journal: Journal,
    *,
    rows: int = 32,
    together: int = 2,
) -> Iterator[Event]:
    """Run one system after another; does and yields what is not yet in the journal.

    `rows`: traces in one batch, at most (the traces of one problem stay together). `together`:
    problems that a system learns from at a time, after which its state is on the disk. A system
    with nothing to do is not made.
    """
    tally = Tally(sum(len(t.problems) * len(e.modes) for t in tests for e in specs))
    wanted = {(t.name, e.name, m.name) for t in tests for e in specs for m in e.modes}
    there = [r for r in journal.results() if r.learned_on == learn.name]
    tally.add(r for r in there if (r.dataset, r.system, r.form) in wanted)
    yield tally.progress()
    for spec in specs:
        todo = [q for q in _questions(spec, learn, tests, rows) if q[0] not in journal]
        if not todo:
            continue
        system = spec.make()
        yield from _taught(spec, system, learn, together, journal)
        for unit, mode, batch in todo:
            first, last = batch.first + 1, batch.first + len(batch.problems)
            which = f"problems {first} to {last}"
            yield Status(f"{spec.name} ({mode.name}) on {batch.dataset}: {which}")
            yield from answers(system, mode, batch, unit, journal, tally)


def _taught(
    spec: SystemSpec, system: System, learn: DataSet, together: int, journal: Journal
) -> Iterator[Event]:
    """Let a system learn the rest of the part: all at once if offline, else a few at a time."""
    problems, whole, name = learn.problems, spec.learns == "offline", f"{learn.name}/{spec.name}"
    size = max(1, len(problems)) if whole else together
    starts = range(0, len(problems), size) if spec.learns else range(0)
    for place in range(journal.restore(name, system.load), len(starts)):
        some = problems[starts[place] : starts[place] + size]
        text = f"{system.name} learns from {len(some)} of {len(problems)} problems"
        yield Status(text, place, len(starts))
        last = place + 1 == len(starts)
        yield from lesson(system, some, learn.name, journal, name, place, whole=whole, last=last)


def _questions(
    spec: SystemSpec, learn: DataSet, tests: Sequence[DataSet], rows: int
) -> Iterator[tuple[str, AnswerMode, Batch]]:
    """(unit, mode, batch) of everything that a system is asked."""
    for test in tests:
        for mode in spec.modes:
            size = max(1, rows // mode.traces)
            for first in range(0, len(test.problems), size):
                batch = Batch(test.name, learn.name, first, test.problems[first : first + size])
                unit = f"{learn.name}>{test.name}/{spec.name}/{mode.name}/{first}"
                yield unit, mode, batch


# ---------- The online protocol: each problem is answered with the memories of earlier ones only.


def run_stream(
    specs: Sequence[SystemSpec], data: DataSet, journal: Journal, *, block: int = 1
) -> Iterator[Event]:
    """Run the stream from where the journal stands to its end. Closing the generator stops it;
    calling again continues.

    `block`: how many problems arrive together; they are answered before any of them is learnt from.
    A text that comes twice is met once, because the second time it is no new problem.
    """
    problems = tuple(unique(data.problems))
    total, blocks = len(problems), -(-len(problems) // block)
    tally = Tally(total * sum(len(e.modes) for e in specs))
    wanted = {(e.name, f.name) for e in specs for f in e.modes}
    tally.add(r for r in journal.results() if (r.system, r.form) in wanted)
    yield tally.progress()
    # To learn from the last arrival belongs to a system's costs.
    learnt_all = all(not e.learns or f"{e.name}/lesson/{blocks - 1}" in journal for e in specs)
    if tally.done == tally.total and learnt_all:
        return
    systems = [
        (spec, system := spec.make(), journal.restore(spec.name, system.load)) for spec in specs
    ]
    for place in range(blocks):
        first = place * block
        batch = Batch(data.name, "", first, problems[first : first + block])
        for spec, system, learnt in systems:
            yield from _met(spec, system, batch, place, learnt, journal, tally, total)
        for spec, system, learnt in systems:
            if spec.learns and place >= learnt:
                text = f"{spec.name} learns from problem {first + 1} of {total}"
                yield Status(text, first, total)
                how = {"whole": False, "last": place + 1 == blocks}
                yield from lesson(system, batch.problems, "", journal, spec.name, place, **how)


def _met(
    spec: SystemSpec,
    system: System,
    batch: Batch,
    place: int,
    learnt: int,
    journal: Journal,
    tally: Tally,
    total: int,
) -> Iterator[Event]:
    """One system's replies to an arrival, in each mode that the journal does not hold yet."""
    for mode in spec.modes:
        unit = f"{spec.name}/{mode.name}/{place}"
        if unit in journal:
            continue
        if learnt > place:
            name, remedy = journal.remedies.name(journal.folder), journal.remedies.anew
            raise LatentmemError(
                f"{name} has no replies of {spec.name} ({mode.name}) to problem "
                f"{batch.first + 1}, from which it has learnt since: {remedy}."
            )
        text = f"{spec.name} ({mode.name}) answers problem {batch.first + 1} of {total}"
        yield Status(text, batch.first, total)
        yield from answers(system, mode, batch, unit, journal, tally)


# ---------- How good keys are.


def key_quality(
    factory: SystemFactory, data: DataSet, folder: Path
) -> Iterator[Status | dict[str, Any]]:
    """How often the nearest other problem is of the family, by kind of key: `folder`/keys.jsonl."""
    families = [family(p) for p in data.problems]
    if len(set(families)) < 2:
        yield Status(f"{data.name} has one family only: its keys are not compared")
        return
    log, embedder = Log(folder / "keys.jsonl"), factory.settings.embedder
    setup = digest(*computed(factory.engine.model), embedder, data.digest, *families)[:12]
    done = {(r.get("setup"), r["kind"]) for r in log.read()}  # the first versions wrote no setup
    for kind in get_args(KeyKind):
        if (setup, kind) in done:
            continue
        vectors = []
        for i, p in enumerate(data.problems):
            yield Status(f"{kind} keys of {data.name}", i, len(families))
            vectors.append(factory.key(p.unlabelled(), kind))
        share, chance = nearest_share(np.stack(vectors), families)
        line = {"setup": setup, "dataset": data.name, "digest": data.digest}
        line |= {"model": factory.settings.model, "embedder": embedder, "kind": kind}
        line |= {"n": len(families), "families": len(set(families))}
        line |= {"same_family": share, "chance": chance}
        log.append(line)
        yield line


def blank(problems: Sequence[Problem]) -> list[Problem]:
    return [p.unlabelled() for p in problems]
