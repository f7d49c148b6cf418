"""The recipe sweep: named changes of the recipe, each tried on some training problems and many
held-out ones.

A sweep file is JSON: `{"recipes": {"as is": {}, "slow": {"learning_rate": 0.0003}}, "problems": 3,
"test": 64}`, with `"data"` and `"seed"` (of the split) if they differ from the command's. A recipe
changes settings of the distillation and nothing else, except for `{"in_turn": true}`, which puts
the soft prompt inside the user's turn, and `{"neighbours": 3}`, which trains it on the problem and
its three nearest others (`protocols.learn`). One greedy trace behind each memory answers the
held-out problems, with the same settings for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import Log
from ..method.distillation import Recipe
from ..method.voting import gate
from ..records import Distilled, LatentmemError, Problem, Status, Step, digest
from . import protocols
from .baselines.sampler import Ask, Sampled, Sampler, computed
from .baselines.teacher import Teacher, TeacherResult
from .datasets import DataSet
from .metrics import bootstrap, flips, paired
from .results import ONE, AnswerMode, right

if TYPE_CHECKING:
    from ..engine import Engine
    from .baselines.registry import SystemFactory

DISTILLED = {f.name for f in fields(Recipe)}
APART = {"in_turn", "neighbours"}  # not settings
CHANGED = DISTILLED | APART
Record = Status | Step | Distilled | dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says. `problems` counts training problems whose first vote passes the
    gate."""

    recipes: Mapping[str, Mapping[str, Any]]
    problems: int = 3
    test: int = 64
    data: str = ""
    seed: int | None = (
        None  # of the split into held-out and training problems; None is the command's
    )


def read(file: Path) -> Sweep:
    """Read a sweep file. Raises LatentmemError naming what is wrong in it."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise LatentmemError(
            f'{file} cannot be read as a sweep ({e}): write {{"recipes": {{"name": {{...}}}}}}.'
        ) from None
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("recipes"), dict)
        or not data["recipes"]
    ):
        raise LatentmemError(f'{file} has no "recipes": write {{"recipes": {{"name": {{...}}}}}}.')
    known = {f.name for f in fields(Sweep)}
    if extra := [k for k in data if k not in known]:
        raise LatentmemError(f"{file} has a member {extra[0]!r}: use {', '.join(sorted(known))}.")
    for name, changes in data["recipes"].items():
        if not isinstance(changes, dict) or not changes.keys() <= CHANGED:
            wrong = (
                next((k for k in changes if k not in CHANGED), changes)
                if isinstance(changes, dict)
                else changes
            )
            raise LatentmemError(
                f"{file}: recipe {name!r} changes {wrong!r}: a recipe has "
                f"{', '.join(sorted(CHANGED))}."
            )
        near = changes.get("neighbours", 1)
        if type(near) is not int or near < 1:
            raise LatentmemError(
                f"{file}: recipe {name!r} has neighbours = {near!r}: give a whole number from 1 on."
            )
        if "neighbours" in changes and (
            idle := next((k for k in ("pseudo_label", "keep") if k in changes), None)
        ):
            raise LatentmemError(
                f"{file}: recipe {name!r} has neighbours and {idle}, which says nothing there "
                f"(labels are each step's, the last step counts): leave {idle} out."
            )
    for name, least in (("problems", 1), ("test", 1), ("seed", 0)):
        if type(data.get(name, least)) is not int or data.get(name, least) < least:
            raise LatentmemError(
                f"{file}: {name} is {data[name]!r}: give a whole number from {least} on."
            )
    if not isinstance(data.get("data", ""), str):
        raise LatentmemError(
            f"{file}: data is {data['data']!r}: give the name of a data set, as for --data."
        )
    return Sweep(**data)


def run(factory: SystemFactory, sweep: Sweep, data: DataSet, folder: Path) -> Iterator[Record]:
    """Train and try every recipe. Each finished pair of recipe and problem is a line of
    `folder`/sweep.jsonl, and a second start passes over it. Yields the records of training, and the
    line of each pair.

    The problems of one recipe are trained together, `factory.group` at a time. The first problems
    of the data are held out; the others are candidates for training.
    """
    test, candidates = data.problems[: sweep.test], data.problems[sweep.test :]
    log = Log(folder / "sweep.jsonl")
    # All of the data: its answers score, and neighbours and teachable problems come from the part
    # that is not held out.
    setup = digest(
        *computed(factory.engine.model),
        factory.settings.embedder,
        repr(factory.sampler.max_new_tokens),
        repr(factory.settings.seed),
        repr(factory.recipe),
        data.digest,
        repr(sweep.test),
    )[:12]
    done = {
        (r["recipe"], json.dumps(r["settings"], sort_keys=True), r["problem_id"])
        for r in log.read()
        if r["setup"] == setup
    }
    yield Status(f"zero_shot answers the {len(test)} held-out problems")
    base = ask(factory.sampler, test, None)
    training = yield from teachable(factory, candidates, sweep.problems)
    for name, changes in sweep.recipes.items():
        settings = json.dumps(dict(changes), sort_keys=True)
        if all((name, settings, p.id) in done for p in training):
            continue
        # All of them, so that they share batches as they did before.
        due = (
            [p for p in training if (name, settings, p.id) not in done]
            if "neighbours" in changes
            else training
        )
        for record in _taught(factory, changes, due, candidates, folder):
            if not isinstance(record, TeacherResult):
                yield record
            elif (name, settings, record.distilled.problem_id) not in done:
                yield Status(
                    f"{name}: the memory of {record.distilled.problem_id} is tried on {len(test)} "
                    "problems"
                )
                line = _line(
                    factory, name, changes, record, {p.id: p for p in training}, test, base
                )
                line |= {
                    "setup": setup,
                    "data": data.name,
                    "made": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                log.append(line)
                yield line


def teachable(
    factory: SystemFactory, candidates: Sequence[Problem], wanted: int
) -> Iterator[Status]:
    """The first problems whose vote passes the gate of the settings, so that every recipe has
    something to learn from."""
    found: list[Problem] = []
    r, size = factory.recipe, max(1, factory.sampler.rows // factory.recipe.rollouts)
    for start in range(0, len(candidates), size):
        yield Status(
            f"Looking for problems to learn from: {len(found)} of {wanted}", len(found), wanted
        )
        some = candidates[start : start + size]
        votes = factory.sampler.sample(
            [Ask(p.unlabelled()) for p in some], AnswerMode("vote", r.rollouts, r.temperature)
        )
        found += [
            p
            for p, s in zip(some, votes, strict=True)
            if gate(s.vote, r.gate_votes, r.gate_lead) is None
        ]
        if len(found) >= wanted:
            return found[:wanted]
    raise LatentmemError(
        f"Only {len(found)} of {len(candidates)} problems pass the gate and {wanted} are asked "
        "for: ask for fewer, or give more data."
    )


def _taught(
    factory: SystemFactory,
    changes: Mapping[str, Any],
    problems: Sequence[Problem],
    candidates: Sequence[Problem],
    folder: Path,
) -> Iterator[Any]:
    """The lessons of one recipe, whose own settings sample its first votes."""
    recipe, sampler = recipe_of(factory.engine, changes), placed(factory, changes)
    if (recipe.max_new_tokens, recipe.seed, recipe.top_p) != (
        sampler.max_new_tokens,
        sampler.seed,
        sampler.top_p,
    ):
        sampler = type(sampler)(
            sampler.model, recipe.seed, recipe.max_new_tokens, rows=sampler.rows, top_p=recipe.top_p
        )
    if k := changes.get("neighbours"):
        yield from protocols.learn(factory, sampler, recipe, problems, candidates, k)
        return
    teacher = Teacher(
        sampler, recipe, factory.key, folder / "cache", name="recipes", group=factory.group
    )
    yield from teacher.learn([p.unlabelled() for p in problems])


def recipe_of(engine: Engine, changes: Mapping[str, Any]) -> Recipe:
    """The recipe that the settings and these changes give. Raises LatentmemError."""
    settings = engine.changed(**{k: v for k, v in changes.items() if k not in APART}).settings
    return Recipe(**{name: getattr(settings, name) for name in DISTILLED})


def placed(factory: SystemFactory, changes: Mapping[str, Any]) -> Sampler:
    """The sampler whose model has the soft prompt where the recipe wants it."""
    return (
        factory.sampler.of(factory.engine.model.in_turn())
        if changes.get("in_turn")
        else factory.sampler
    )


def ask(sampler: Sampler, problems: Sequence[Problem], soft: Any) -> list[Sampled]:
    """One greedy trace of each problem, behind a soft prompt [virtual tokens, hidden] or alone."""
    import torch

    tensor = None if soft is None else torch.from_numpy(soft.copy())
    asks = [
        Ask(p.unlabelled(), tensor, side="zero_shot" if soft is None else "memory")
        for p in problems
    ]
    return sampler.sample(asks, ONE)


def compared(
    test: Sequence[Problem], with_it: Sequence[Sampled], base: Sequence[Sampled]
) -> dict[str, Any]:
    """Accuracy on the held-out problems against the model alone, problem by problem, so that rows
    can be pooled later."""
    ok, other = (
        {p.id: right(p.answer or "", s.vote.label) for p, s in zip(test, those, strict=True)}
        for those in (with_it, base)
    )
    helped, hurt = flips(ok, other)
    gain = paired(ok, other)
    assert gain is not None
    return {
        "n": len(test),
        "accuracy": sum(ok.values()) / len(ok),
        "base": sum(other.values()) / len(other),
        "delta": gain.mean,
        "delta_low": gain.low,
        "delta_high": gain.high,
        "helped": helped,
        "hurt": hurt,
        "right": "".join("01"[v] for v in ok.values()),
        "base_right": "".join("01"[v] for v in other.values()),
        "finished": sum(s.vote.voters for s in with_it) / len(test),
        "tokens": sum(s.cost.tokens for s in with_it) / len(test),
    }


def _line(
    factory: SystemFactory,
    name: str,
    changes: Mapping[str, Any],
    taught: TeacherResult,
    training: Mapping[str, Problem],
    test: Sequence[Problem],
    base: Sequence[Sampled],
) -> dict[str, Any]:
    began, done = time.perf_counter(), taught.distilled
    truth, memory = training[done.problem_id].answer or "", done.memory
    line: dict[str, Any] = {
        "recipe": name,
        "problem_id": done.problem_id,
        "seed": factory.settings.seed,
        "settings": dict(changes),
        "base_settings": asdict(factory.recipe),
        "model": factory.settings.model,
        "learned": memory is not None,
        "reason": done.reason,
        "steps": len(done.steps),
        "agreement": [round(s.agreement, 4) for s in done.steps],
        "shift": round(done.steps[-1].shift, 5) if done.steps else 0.0,
        "train_tokens": taught.cost.tokens,
        "train_seconds": round(taught.cost.seconds, 2),
    }
    if memory is None:
        return line
    line |= {
        "best_step": memory.best_step,
        "label": memory.label,
        "label_right": right(truth, memory.label),
        "memory": memory.id,
    }
    replies = ask(placed(factory, changes), test, memory.soft_prompt)
    return line | compared(test, replies, base) | {"seconds": round(time.perf_counter() - began, 2)}


# ---------- The table of a sweep.


def pooled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each recipe: its memories' mean accuracy, and the paired difference over
    held-out problems.

    Each held-out problem counts once, with the mean over the recipe's memories, because its answers
    behind several memories are not independent.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in rows:
        groups.setdefault(
            (r["setup"], r["recipe"], json.dumps(r["settings"], sort_keys=True)), []
        ).append(r)
    out = []
    for (_, name, settings), mine in groups.items():
        kept = [r for r in mine if r["learned"]]
        gains = (
            [
                sum(int(r["right"][i]) - int(r["base_right"][i]) for r in kept) / len(kept)
                for i in range(kept[0]["n"])
            ]
            if kept
            else []
        )
        out.append(
            {
                "recipe": name,
                "settings": json.loads(settings),
                "tried": len(mine),
                "learned": len(kept),
                **{k: mine[0][k] for k in ("model", "data", "seed")},
                "gain": bootstrap(gains),
                **{
                    k: sum(r[k] for r in kept) / len(kept) if kept else None
                    for k in ("accuracy", "base", "finished", "tokens", "label_right")
                },
                **{k: sum(r[k] for r in kept) for k in ("helped", "hurt")},
                "train_seconds": sum(r["train_seconds"] for r in mine) / len(mine),
            }
        )
    return out
