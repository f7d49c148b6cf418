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
from .results import ONE, right

if TYPE_CHECKING:
    from ..engine import Engine
    from .baselines.registry import SystemFactory

DISTILLED = {f.name for f in fields(Recipe)}
APART = {"in_turn", "neighbours"}  # not settings
CHANGED = DISTILLED | APART
Record = Status | Step | Distilled | dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says. `problems` counts those whose first vote passes the gate."""

    recipes: Mapping[str, Mapping[str, Any]]
    problems: int = 3
    test: int = 64
    data: str = ""
    # of the split into held-out and training problems; None is the command's
    seed: int | None = None


EXAMPLE = 'write {"recipes": {"name": {...}}}'


def read(file: Path) -> Sweep:
    """Read a sweep file. Raises LatentmemError naming what is wrong in it."""

    def wrong(what: str) -> LatentmemError:
        return LatentmemError(f"{file}{what}.")

    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise wrong(f" cannot be read as a sweep ({e}): {EXAMPLE}") from None
    recipes = data.get("recipes") if isinstance(data, dict) else None
    if not isinstance(recipes, dict) or not recipes:
        raise wrong(f' has no "recipes": {EXAMPLE}')
    known = sorted(f.name for f in fields(Sweep))
    if extra := [k for k in data if k not in known]:
        raise wrong(f" has a member {extra[0]!r}: use {', '.join(known)}")
    for name, changes in recipes.items():
        listed = changes if isinstance(changes, dict) else [changes]
        if strange := [k for k in listed if listed is not changes or k not in CHANGED]:
            has = f"a recipe has {', '.join(sorted(CHANGED))}"
            raise wrong(f": recipe {name!r} changes {strange[0]!r}: {has}")
        near = changes.get("neighbours", 1)
        if type(near) is not int or near < 1:
            has = f"has neighbours = {near!r}: give a whole number from 1 on"
            raise wrong(f": recipe {name!r} {has}")
        idle = [k for k in ("pseudo_label", "keep") if "neighbours" in changes and k in changes]
        if idle:
            raise wrong(
                f": recipe {name!r} has neighbours and {idle[0]}, which says nothing there "
                f"(labels are each step's, the last step counts): leave {idle[0]} out"
            )
    for name, least in (("problems", 1), ("test", 1), ("seed", 0)):
        if type(value := data.get(name, least)) is not int or value < least:
            raise wrong(f": {name} is {value!r}: give a whole number from {least} on")
    if not isinstance(spec := data.get("data", ""), str):
        raise wrong(f": data is {spec!r}: give the name of a data set, as for --data")
    return Sweep(**data)


def run(factory: SystemFactory, sweep: Sweep, data: DataSet, folder: Path) -> Iterator[Record]:
    """Train and try every recipe. Each finished pair of recipe and problem is a line of
    `folder`/sweep.jsonl, and a second start passes over it. Yields the records of training, and the
    line of each pair.

    The problems of one recipe are trained together, `factory.group` at a time. The first problems
    of the data are held out; the others are candidates for training.
    """
    test, candidates = data.problems[: sweep.test], data.problems[sweep.test :]
    log, s = Log(folder / "sweep.jsonl"), factory.settings
    # All of the data: its answers score, and neighbours and teachable problems come from the part
    # that is not held out.
    how = [repr(one) for one in (factory.sampler.max_new_tokens, s.seed, factory.recipe)]
    parts = *computed(factory.engine.model), s.embedder, *how, data.digest, repr(sweep.test)
    setup = digest(*parts)[:12]
    there = [r for r in log.read() if r["setup"] == setup]
    done = {(r["recipe"], key_of(r["settings"]), r["problem_id"]) for r in there}
    yield Status(f"zero_shot answers the {len(test)} held-out problems")
    base = ask(factory.sampler, test, None)
    training = yield from teachable(factory, candidates, sweep.problems)
    for name, changes in sweep.recipes.items():
        settings = key_of(changes)
        due = [p for p in training if (name, settings, p.id) not in done]
        if not due:
            continue
        if "neighbours" not in changes:
            due = training  # all of them, so that they share batches as they did before
        truth = {p.id: p.answer or "" for p in due}
        for record in _taught(factory, changes, due, candidates, folder):
            if not isinstance(record, TeacherResult):
                yield record
                continue
            ident = record.distilled.problem_id
            if (name, settings, ident) in done:
                continue
            yield Status(f"{name}: the memory of {ident} is tried on {len(test)} problems")
            line = _line(factory, name, changes, record, truth[ident], test, base)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            log.append(line := line | {"setup": setup, "data": data.name, "made": now})
            yield line


def key_of(changes: Mapping[str, Any]) -> str:
    return json.dumps(dict(changes), sort_keys=True)


def teachable(
    factory: SystemFactory, candidates: Sequence[Problem], wanted: int
) -> Iterator[Status]:
    """The first problems whose vote passes the gate: every recipe has something to learn from."""
    found: list[Problem] = []
    r, size = factory.recipe, max(1, factory.sampler.rows // factory.recipe.rollouts)
    for start in range(0, len(candidates), size):
        yield Status(
            f"Looking for problems to learn from: {len(found)} of {wanted}", len(found), wanted
        )
        some = candidates[start : start + size]
        votes = factory.sampler.sample([Ask(p) for p in protocols.blank(some)], factory.mode)
        for p, sampled in zip(some, votes, strict=True):
            found += [p] if gate(sampled.vote, r.gate_votes, r.gate_lead) is None else []
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
    own = recipe.max_new_tokens, recipe.seed, recipe.top_p
    if own != (sampler.max_new_tokens, sampler.seed, sampler.top_p):
        seed, length, top_p = recipe.seed, recipe.max_new_tokens, recipe.top_p
        sampler = Sampler(sampler.model, seed, length, rows=sampler.rows, top_p=top_p)
    if k := changes.get("neighbours"):
        return protocols.learn(factory, sampler, recipe, problems, candidates, k)
    cache = folder / "cache"
    teacher = Teacher(sampler, recipe, factory.key, cache, name="recipes", group=factory.group)
    return teacher.learn(protocols.blank(problems))


def recipe_of(engine: Engine, changes: Mapping[str, Any]) -> Recipe:
    """The recipe that the settings and these changes give. Raises LatentmemError."""
    settings = engine.changed(**{k: v for k, v in changes.items() if k not in APART}).settings
    return Recipe(**{name: getattr(settings, name) for name in DISTILLED})


def placed(factory: SystemFactory, changes: Mapping[str, Any]) -> Sampler:
    """The sampler whose model has the soft prompt where the recipe wants it."""
    model, sampler = factory.engine.model, factory.sampler
    return sampler.of(model.in_turn()) if changes.get("in_turn") else sampler


def ask(sampler: Sampler, problems: Sequence[Problem], soft: Any) -> list[Sampled]:
    """One greedy trace of each problem, behind a soft prompt [virtual tokens, hidden] or alone."""
    import torch

    tensor = None if soft is None else torch.from_numpy(soft.copy())
    side = "zero_shot" if soft is None else "memory"
    return sampler.sample([Ask(p, tensor, side=side) for p in protocols.blank(problems)], ONE)


def compared(
    test: Sequence[Problem], with_it: Sequence[Sampled], base: Sequence[Sampled]
) -> dict[str, Any]:
    """Accuracy on the held-out problems against the model alone, by problem, to be pooled later."""
    ok, other = (
        {p.id: right(p.answer or "", s.vote.label) for p, s in zip(test, those, strict=True)}
        for those in (with_it, base)
    )
    helped, hurt = flips(ok, other)
    gain, n = paired(ok, other), len(test)
    assert gain is not None
    return {
        "n": n,
        "accuracy": sum(ok.values()) / len(ok),
        "base": sum(other.values()) / len(other),
        **{"delta": gain.mean, "delta_low": gain.low, "delta_high": gain.high},
        **{"helped": helped, "hurt": hurt},
        "right": "".join("01"[v] for v in ok.values()),
        "base_right": "".join("01"[v] for v in other.values()),
        "finished": sum(s.vote.voters for s in with_it) / n,
        "tokens": sum(s.cost.tokens for s in with_it) / n,
    }


def _line(
    factory: SystemFactory,
    name: str,
    changes: Mapping[str, Any],
    taught: TeacherResult,
    truth: str,
    test: Sequence[Problem],
    base: Sequence[Sampled],
) -> dict[str, Any]:
    began, done, memory = time.perf_counter(), taught.distilled, taught.distilled.memory
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
    line |= {"best_step": memory.best_step, "memory": memory.id}
    line |= {"label": memory.label, "label_right": right(truth, memory.label)}
    line |= compared(test, ask(placed(factory, changes), test, memory.soft_prompt), base)
    return line | {"seconds": round(time.perf_counter() - began, 2)}


# ---------- The table of a sweep.


def pooled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each recipe: its memories' mean accuracy, and the paired difference over
    held-out problems.

    Each held-out problem counts once, with the mean over the recipe's memories, because its answers
    behind several memories are not independent.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in rows:
        groups.setdefault((r["setup"], r["recipe"], key_of(r["settings"])), []).append(r)
    out = []
    for (_, name, settings), mine in groups.items():
        kept = [r for r in mine if r["learned"]]
        gains = [  # of each held-out problem
            sum(int(r["right"][i]) - int(r["base_right"][i]) for r in kept) / len(kept)
            for i in range(kept[0]["n"] if kept else 0)
        ]
        line = {"recipe": name, "settings": json.loads(settings), "gain": bootstrap(gains)}
        line |= {"tried": len(mine), "learned": len(kept)}
        line |= {k: mine[0][k] for k in ("model", "data", "seed")}
        for k in ("accuracy", "base", "finished", "tokens", "label_right"):
            line[k] = sum(r[k] for r in kept) / len(kept) if kept else None
        line |= {k: sum(r[k] for r in kept) for k in ("helped", "hurt")}
        out.append(line | {"train_seconds": sum(r["train_seconds"] for r in mine) / len(mine)})
    return out
