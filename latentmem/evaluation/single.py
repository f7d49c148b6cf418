"""Single-instance generalisation: train on ONE problem, try held-out ones after every few steps; and how good keys are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..baselines.base import ONE, Course
from ..baselines.log import Log
from ..baselines.offline_lora import offline_lora
from ..baselines.offline_prompt import offline_prompt
from ..baselines.offline_ttrl import offline_ttrl
from ..baselines.sampler import computed
from ..records import LatentmemError, Problem, Status, Step, digest
from .datasets import DataSet, family
from .results import right
from .statistics import flips, nearest_share

if TYPE_CHECKING:
    from ..baselines.offline import Offline
    from ..baselines.registry import Workshop

LEARNERS = {"soft prompt": (offline_prompt, "soft"), "LoRA": (offline_lora, "lora"), "full parameters": (offline_ttrl, "full")}


def moments(steps: int) -> tuple[int, ...]:
    """The steps after which held-out problems are tried: 0, 1, 2, 4, ... and the last."""
    found, step = [0], 1
    while step < steps:
        found.append(step)
        step *= 2
    return (*found, steps)


def check(test: DataSet, learners: Sequence[str]) -> None:
    """Raises LatentmemError for a way of training that does not exist, and where nothing is held out."""
    for name in learners:
        if name not in LEARNERS:
            raise LatentmemError(f"There is no way of training {name!r}: use {', '.join(LEARNERS)}.")
    if not test.problems:
        raise LatentmemError(f"No problem of {test.name} is held out: ask for one or more with --test.")


def run(shop: Workshop, train: Sequence[Problem], test: DataSet, folder: Path, *, steps: int,
        learners: Sequence[str] = tuple(LEARNERS)) -> Iterator[Status | Step | dict[str, Any]]:
    """Train each learner on each problem by itself and write a line of `folder`/single.jsonl for each moment.

    The reward is the majority vote of the fresh traces; no best step is chosen, so that the curve shows them all. A
    curve that was broken off is trained again from its start, and its lines that are there are passed over.
    """
    check(test, learners)
    log = Log(folder / "single.jsonl")
    done = {(r["setup"], r["learner"], r["problem_id"], r["step"]) for r in log.read()}
    for problem in train:
        setup = digest(*computed(shop.engine.model), repr(shop.recipe), repr(shop.sampler.max_new_tokens), repr(steps),
                       repr(shop.rates), test.digest, problem.text)[:12]
        for name in dict.fromkeys(learners):
            wanted = [m for m in moments(steps) if (setup, name, problem.id, m) not in done]
            if wanted:
                for record in _curve(shop, name, problem, test, steps, wanted):
                    if isinstance(record, dict):
                        record |= {"setup": setup, "model": shop.settings.model}
                        log.append(record)
                    yield record


def _curve(shop: Workshop, name: str, problem: Problem, test: DataSet, steps: int,
           wanted: Sequence[int]) -> Iterator[Status | Step | dict[str, Any]]:
    make, what = LEARNERS[name]
    course = Course(steps=steps, batch=1, learning_rate=shop.rates[what])
    system = make(shop.sampler, shop.recipe, course)
    base = {r.problem_id: r.answer for r in shop.make("zero_shot").reply(blank(test.problems), ONE)}
    if 0 in wanted:
        yield Status(f"{name}, {problem.id}: held-out problems before training")
        yield _line(shop, system, name, problem, test, 0, base)
    tokens, seconds = 0, 0.0
    for record in system.fit([problem.unlabelled()]):
        yield record  # type: ignore[misc]
        if not isinstance(record, Step):
            continue
        tokens, seconds = tokens + record.tokens, seconds + record.seconds
        if record.step in wanted:
            yield Status(f"{name}, {problem.id}: held-out problems after step {record.step}")
            yield _line(shop, system, name, problem, test, record.step, base) | {
                "agreement": round(record.agreement, 4), "note": record.note, "train_tokens": tokens,
                "train_seconds": round(seconds, 2)}


def blank(problems: Sequence[Problem]) -> list[Problem]:
    return [p.unlabelled() for p in problems]


def _line(shop: Workshop, system: Offline, name: str, problem: Problem, test: DataSet, step: int,
          base: dict[str, str | None]) -> dict[str, Any]:
    replies = {r.problem_id: r for r in system.reply(blank(test.problems), ONE)}
    truth = {p.id: p.answer or "" for p in test.problems}
    ok, alone = ({k: right(truth[k], a) for k, a in those.items()}
                 for those in ({k: r.answer for k, r in replies.items()}, base))
    helped, hurt = flips(ok, alone)
    return {"learner": name, "problem_id": problem.id, "step": step, "dataset": test.name, "n": len(ok),
            "accuracy": sum(ok.values()) / len(ok), "delta": (helped - hurt) / len(ok), "helped": helped, "hurt": hurt,
            "finished": sum(v.voters for r in replies.values() for v in r.votes.values()) / len(ok),
            "train_tokens": 0, "train_seconds": 0.0, "seed": shop.settings.seed, "learning_rate": system.course.learning_rate}


def key_quality(shop: Workshop, data: DataSet, folder: Path) -> Iterator[Status | dict[str, Any]]:
    """For both kinds of key: how often the nearest other problem is of the same family. Lines of `folder`/keys.jsonl."""
    import numpy as np

    families = [family(p) for p in data.problems]
    if len(set(families)) < 2:
        yield Status(f"{data.name} has one family only: its keys are not compared")
        return
    log = Log(folder / "keys.jsonl")
    setup = digest(*computed(shop.engine.model), shop.settings.embedder, data.digest, *families)[:12]
    done = {(r.get("setup"), r["kind"]) for r in log.read()}  # the first versions wrote none
    for kind in ("input", "kv"):
        if (setup, kind) in done:
            continue
        vectors = []
        for i, p in enumerate(data.problems):
            yield Status(f"{kind} keys of {data.name}", i, len(families))
            vectors.append(shop.key(p.unlabelled(), kind))  # type: ignore[arg-type]
        share, chance = nearest_share(np.stack(vectors), families)
        line = {"setup": setup, "dataset": data.name, "digest": data.digest, "model": shop.settings.model,
                "embedder": shop.settings.embedder, "kind": kind, "n": len(families), "families": len(set(families)),
                "same_family": share, "chance": chance}
        log.append(line)
        yield line
