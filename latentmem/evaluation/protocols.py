"""The protocols: held-out, online, single problems, keys; and what they do with a system: ask it a
batch, let it learn from a batch.

The truth is taken off the problems here: a system gets `answer=None`, except in `fit` if it needs
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import Log
from ..method.distillation import Recipe
from ..records import (
    Delta,
    Distilled,
    LatentmemError,
    Memory,
    Problem,
    Record,
    Status,
    Step,
    Trace,
    Vote,
    digest,
)
from .baselines.offline import offline_lora, offline_prompt, offline_ttrl
from .baselines.sampler import Ask, Sampler, computed
from .baselines.teacher import TeacherResult
from .datasets import DataSet, family, unique
from .journal import Journal
from .metrics import flips, nearest_share
from .results import (
    ONE,
    VOTE,
    AnswerMode,
    Learned,
    Progress,
    Result,
    System,
    Tally,
    TrainingSchedule,
    judge,
    right,
    taught,
)

if TYPE_CHECKING:
    from .baselines.offline import Offline
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
    """The judged replies to a batch. Raises LatentmemError if the system leaves a problem out."""
    replies = list(system.reply([p.unlabelled() for p in batch.problems], mode))
    if [r.problem_id for r in replies] != [p.id for p in batch.problems]:
        raise LatentmemError(
            f"{system.name} answered {len(replies)} of {len(batch.problems)} problems or in "
            "another order: it cannot be compared."
        )
    return [
        judge(p, r, dataset=batch.dataset, learned_on=batch.learned_on, index=batch.first + i)
        for i, (p, r) in enumerate(zip(batch.problems, replies, strict=True))
    ]


def teach(
    system: System, problems: Sequence[Problem], learned_on: str, place: int, *, whole: bool
) -> Iterator[Status | Step | Distilled | Learned]:
    """Let a system learn from problems: from a whole training set (`fit`), or from what it has just
    answered (`learn`).

    Yields those of its records that are worth showing, and last the Learned.
    """
    before = system.spent
    given = problems if whole and system.needs_labels else [p.unlabelled() for p in problems]
    truth, found = {p.id: p for p in problems}, []
    for record in system.fit(given) if whole else system.learn(given):
        if isinstance(record, Distilled):
            found.append(taught(record, truth[record.problem_id]))
        if not isinstance(record, (Delta, Trace, Vote)):
            yield record  # type: ignore[misc]
    ids = tuple(p.id for p in problems)
    yield Learned(learned_on, system.name, place, ids, tuple(found), system.spent - before)


def lesson(
    system: System,
    problems: Sequence[Problem],
    learned_on: str,
    journal: Journal,
    name: str,
    place: int,
    *,
    whole: bool,
    last: bool = False,
) -> Iterator[Event]:
    """`teach`, and what was learnt goes into the journal. A lesson that is broken off leaves
    nothing."""
    for record in teach(system, problems, learned_on, place, whole=whole):
        if isinstance(record, Learned):
            journal.keep(name, f"{name}/lesson/{place}", record, system.save, must=last)
        yield record


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
    wanted = {unit for e in specs for unit, _, _ in _questions(e, learn, tests, rows)}
    tally.add(
        r
        for r in journal.results()
        if _unit_of(r.learned_on, r.dataset, r.system, r.form) in {_family(u) for u in wanted}
    )
    yield tally.progress()
    for spec in specs:
        todo = [q for q in _questions(spec, learn, tests, rows) if q[0] not in journal]
        name = f"{learn.name}/{spec.name}"
        if not todo:
            continue
        system = spec.make()
        yield from _taught(system, _lessons(spec, learn.problems, together), learn, journal, name)
        for unit, mode, batch in todo:
            yield Status(
                f"{spec.name} ({mode.name}) on {batch.dataset}: problems {batch.first + 1} to "
                f"{batch.first + len(batch.problems)}"
            )
            results = ask(system, mode, batch)
            journal.append(unit, results)
            tally.add(results)
            yield from results
            yield tally.progress()


def _taught(
    system: System,
    lessons: Sequence[tuple[bool, Sequence[Problem]]],
    learn: DataSet,
    journal: Journal,
    name: str,
) -> Iterator[Event]:
    """Let a system learn the rest of the part, from where it stands."""
    done = journal.restore(name, system.load)
    for place, (whole, problems) in zip(count(done), lessons[done:], strict=False):
        yield Status(
            f"{system.name} learns from {len(problems)} of {len(learn.problems)} problems",
            place,
            len(lessons),
        )
        yield from lesson(
            system,
            problems,
            learn.name,
            journal,
            name,
            place,
            whole=whole,
            last=place + 1 == len(lessons),
        )


def _lessons(
    spec: SystemSpec, problems: Sequence[Problem], together: int
) -> list[tuple[bool, Sequence[Problem]]]:
    """(whole set?, problems) of each lesson: all at once for offline systems, a few at a time for
    the others."""
    if not problems or not spec.learns:
        return []
    if spec.learns == "offline":
        return [(True, problems)]
    return [(False, problems[i : i + together]) for i in range(0, len(problems), together)]


def _questions(
    spec: SystemSpec, learn: DataSet, tests: Sequence[DataSet], rows: int
) -> Iterator[tuple[str, AnswerMode, Batch]]:
    """(unit, mode, batch) of everything that a system is asked."""
    for test in tests:
        for mode in spec.modes:
            size = max(1, rows // mode.traces)
            for first in range(0, len(test.problems), size):
                batch = Batch(test.name, learn.name, first, test.problems[first : first + size])
                yield (
                    f"{_unit_of(learn.name, test.name, spec.name, mode.name)}/{first}",
                    mode,
                    batch,
                )


def _unit_of(learned_on: str, dataset: str, system: str, mode: str) -> str:
    return f"{learned_on}>{dataset}/{system}/{mode}"


def _family(unit: str) -> str:
    return unit.rpartition("/")[0]


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
    tally = Tally(len(problems) * sum(len(e.modes) for e in specs))
    wanted = {(e.name, f.name) for e in specs for f in e.modes}
    tally.add(r for r in journal.results() if (r.system, r.form) in wanted)
    yield tally.progress()
    if tally.done == tally.total and not _unlearnt(specs, journal, -(-len(problems) // block)):
        return
    systems: list[tuple[SystemSpec, System, int]] = []
    for spec in specs:
        system = spec.make()
        systems.append((spec, system, journal.restore(spec.name, system.load)))
    for place, first in enumerate(range(0, len(problems), block)):
        batch = Batch(data.name, "", first, problems[first : first + block])
        for spec, system, learnt in systems:
            yield from _met(spec, system, batch, place, learnt, journal, tally, len(problems))
        last = first + block >= len(problems)
        for spec, system, learnt in systems:
            if spec.learns and place >= learnt:
                yield Status(
                    f"{spec.name} learns from problem {first + 1} of {len(problems)}",
                    first,
                    len(problems),
                )
                yield from lesson(
                    system, batch.problems, "", journal, spec.name, place, whole=False, last=last
                )


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
        yield Status(
            f"{spec.name} ({mode.name}) answers problem {batch.first + 1} of {total}",
            batch.first,
            total,
        )
        results = ask(system, mode, batch)
        journal.append(unit, results)
        tally.add(results)
        yield from results
        yield tally.progress()


def _unlearnt(specs: Sequence[SystemSpec], journal: Journal, blocks: int) -> bool:
    """True if a system still has to learn from the last arrival, which belongs to its costs."""
    return any(e.learns and f"{e.name}/lesson/{blocks - 1}" not in journal for e in specs)


# ---------- Train on ONE problem, try held-out ones after some of the steps; and how good keys are.

LEARNERS = {
    "soft prompt": (offline_prompt, "soft"),
    "LoRA": (offline_lora, "lora"),
    "full parameters": (offline_ttrl, "full"),
}


def moments(steps: int) -> tuple[int, ...]:
    """The steps after which held-out problems are tried: 0, 1, 2, 4, ... and the last."""
    found, step = [0], 1
    while step < steps:
        found.append(step)
        step *= 2
    return (*found, steps)


def check(test: DataSet, learners: Sequence[str]) -> None:
    """Raises LatentmemError for an unknown way of training, and if no problem is held out."""
    for name in learners:
        if name not in LEARNERS:
            raise LatentmemError(
                f"There is no way of training {name!r}: use {', '.join(LEARNERS)}."
            )
    if not test.problems:
        raise LatentmemError(
            f"No problem of {test.name} is held out: ask for one or more with --test."
        )


def run_single(
    factory: SystemFactory,
    train: Sequence[Problem],
    test: DataSet,
    folder: Path,
    *,
    steps: int,
    learners: Sequence[str] = tuple(LEARNERS),
) -> Iterator[Status | Step | dict[str, Any]]:
    """Train each learner on each problem alone and write a line of `folder`/single.jsonl for each
    moment.

    The reward is the majority vote of the fresh traces. No best step is chosen, so that the curve
    shows all of them. A curve that was broken off is trained again from its start; lines that are
    there are not written again.
    """
    check(test, learners)
    log = Log(folder / "single.jsonl")
    done = {(r["setup"], r["learner"], r["problem_id"], r["step"]) for r in log.read()}
    for problem in train:
        setup = digest(
            *computed(factory.engine.model),
            repr(factory.recipe),
            repr(factory.sampler.max_new_tokens),
            repr(steps),
            repr(factory.rates),
            test.digest,
            problem.text,
        )[:12]
        for name in dict.fromkeys(learners):
            wanted = [m for m in moments(steps) if (setup, name, problem.id, m) not in done]
            if wanted:
                for record in _curve(factory, name, problem, test, steps, wanted):
                    if isinstance(record, dict):
                        record |= {"setup": setup, "model": factory.settings.model}
                        log.append(record)
                    yield record


def _curve(
    factory: SystemFactory,
    name: str,
    problem: Problem,
    test: DataSet,
    steps: int,
    wanted: Sequence[int],
) -> Iterator[Status | Step | dict[str, Any]]:
    make, what = LEARNERS[name]
    schedule = TrainingSchedule(steps=steps, batch=1, learning_rate=factory.rates[what])
    system = make(factory.sampler, factory.recipe, schedule)
    base = {
        r.problem_id: r.answer for r in factory.make("zero_shot").reply(blank(test.problems), ONE)
    }
    if 0 in wanted:
        yield Status(f"{name}, {problem.id}: held-out problems before training")
        yield _line(factory, system, name, problem, test, 0, base)
    tokens, seconds = 0, 0.0
    for record in system.fit([problem.unlabelled()]):
        yield record  # type: ignore[misc]
        if not isinstance(record, Step):
            continue
        tokens, seconds = tokens + record.tokens, seconds + record.seconds
        if record.step in wanted:
            yield Status(f"{name}, {problem.id}: held-out problems after step {record.step}")
            yield _line(factory, system, name, problem, test, record.step, base) | {
                "agreement": round(record.agreement, 4),
                "note": record.note,
                "train_tokens": tokens,
                "train_seconds": round(seconds, 2),
            }


def blank(problems: Sequence[Problem]) -> list[Problem]:
    return [p.unlabelled() for p in problems]


def _line(
    factory: SystemFactory,
    system: Offline,
    name: str,
    problem: Problem,
    test: DataSet,
    step: int,
    base: dict[str, str | None],
) -> dict[str, Any]:
    replies = {r.problem_id: r for r in system.reply(blank(test.problems), ONE)}
    truth = {p.id: p.answer or "" for p in test.problems}
    ok, alone = (
        {k: right(truth[k], a) for k, a in those.items()}
        for those in ({k: r.answer for k, r in replies.items()}, base)
    )
    helped, hurt = flips(ok, alone)
    return {
        "learner": name,
        "problem_id": problem.id,
        "step": step,
        "dataset": test.name,
        "n": len(ok),
        "accuracy": sum(ok.values()) / len(ok),
        "delta": (helped - hurt) / len(ok),
        "helped": helped,
        "hurt": hurt,
        "finished": sum(v.voters for r in replies.values() for v in r.votes.values()) / len(ok),
        "train_tokens": 0,
        "train_seconds": 0.0,
        "seed": factory.settings.seed,
        "learning_rate": system.schedule.learning_rate,
    }


def key_quality(
    factory: SystemFactory, data: DataSet, folder: Path
) -> Iterator[Status | dict[str, Any]]:
    """For both kinds of key: how often the nearest other problem is of the same family. Writes
    `folder`/keys.jsonl."""
    import numpy as np

    families = [family(p) for p in data.problems]
    if len(set(families)) < 2:
        yield Status(f"{data.name} has one family only: its keys are not compared")
        return
    log = Log(folder / "keys.jsonl")
    setup = digest(
        *computed(factory.engine.model), factory.settings.embedder, data.digest, *families
    )[:12]
    done = {(r.get("setup"), r["kind"]) for r in log.read()}  # the first versions wrote no setup
    for kind in ("input", "kv"):
        if (setup, kind) in done:
            continue
        vectors = []
        for i, p in enumerate(data.problems):
            yield Status(f"{kind} keys of {data.name}", i, len(families))
            vectors.append(factory.key(p.unlabelled(), kind))  # type: ignore[arg-type]
        share, chance = nearest_share(np.stack(vectors), families)
        line = {
            "setup": setup,
            "dataset": data.name,
            "digest": data.digest,
            "model": factory.settings.model,
            "embedder": factory.settings.embedder,
            "kind": kind,
            "n": len(families),
            "families": len(set(families)),
            "same_family": share,
            "chance": chance,
        }
        log.append(line)
        yield line


# ---------- One memory from several problems: the recipe `{"neighbours": k}` of a sweep.


def nearest(
    factory: SystemFactory, problem: Problem, others: Sequence[Problem], k: int
) -> list[Problem]:
    """The k others with the most similar sentence embedding (cosine), best first; ties keep their
    order."""
    rest = [p for p in others if p.id != problem.id]
    key = factory.key(problem, "input")
    return [
        rest[i]
        for i in np.argsort([-float(key @ factory.key(p, "input")) for p in rest], kind="stable")[
            :k
        ]
    ]


def learn(
    factory: SystemFactory,
    sampler: Sampler,
    recipe: Recipe,
    problems: Sequence[Problem],
    others: Sequence[Problem],
    k: int,
) -> Iterator[Record | TeacherResult]:
    """For each problem one soft prompt, trained on it and its k nearest others in turn, one problem
    a step: it takes as many rollouts as a memory of one problem. The last step counts, because the
    steps look at different problems.

    `offline_prompt` trains the prompt. Yields the records of training, and a TeacherResult for each
    problem.
    """
    for problem in problems:
        group = [p.unlabelled() for p in (problem, *nearest(factory, problem, others, k))]
        row = offline_prompt(
            sampler,
            recipe,
            TrainingSchedule(recipe.steps, 1, recipe.learning_rate),
            name="neighbours",
        )
        (first,) = sampler.sample(
            [Ask(group[0])], AnswerMode("vote", recipe.rollouts, recipe.temperature)
        )
        steps: list[Step] = []
        for record in row.fit(group):
            if isinstance(record, Step):
                steps.append(record)
            yield record
        if not any(s.grad_norm for s in steps):
            done = Distilled(
                problem.id, None, f"Nothing was learnt: {steps[-1].note}.", tuple(steps)
            )
        else:
            memory = Memory(
                problem=group[0],
                soft_prompt=row.learner.soft.detach().cpu().numpy().astype(np.float32),
                keys={"input": factory.key(problem, "input")},
                model=sampler.model.fingerprint,
                model_name=sampler.model.name,
                vote=first.vote,
                traces=first.traces,
                steps=tuple(steps),
                best_step=row.done,
                settings=asdict(recipe) | {"neighbours": len(group) - 1},
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            done = Distilled(
                problem.id,
                memory,
                f"Trained in turn on {', '.join(p.id for p in group)}.",
                tuple(steps),
            )
        yield TeacherResult(done, first.cost + row.spent)
