"""The commands of `measure_learning.py`, each a function of its arguments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from safetensors.torch import load_file

from latentmem.model.language_model import LanguageModel
from latentmem.model.weights import ensure
from latentmem.records import Problem
from tests.tools.learning import (
    arithmetic,
    context,
    critic,
    every_form,
    family_prompts,
    judge,
    picture,
    winners,
)
from tests.tools.learning import families as by_family
from tests.tools.learning import same as own
from tests.tools.learning.data import split
from tests.tools.learning.figures import means, outcomes, summary, table, vote_curve, within
from tests.tools.learning.forms import LayerVectors
from tests.tools.learning.plan import Lesson, Plan, lessons, restore, save
from tests.tools.learning.store import Store, append, read
from tests.tools.learning.train import Trainer, run

TEMPERATURE, LIMIT = 0.8, 320
WATCH = 6  # steps between two looks at the items that are only watched


def parts(folder: Path, text: str) -> list[Problem]:
    """`multiarith:dev`, a slice of it as `multiarith:train:0:100`, or several, joined by commas."""
    if "," in text:
        return [p for one in text.split(",") for p in parts(folder, one)]
    name, part, *between = text.split(":")
    return (
        split(folder, name, part)[slice(*map(int, between))]
        if between
        else split(folder, name, part)
    )


def load() -> LanguageModel:
    return LanguageModel.load(ensure("qwen2.5-coder-0.5b"), device="cpu")


def _store(given: argparse.Namespace) -> Store:
    return Store(given.work, given.results)


def _lessons(given: argparse.Namespace, problems: str, lowest: int, highest: int) -> list[Lesson]:
    return lessons(parts(given.data, problems), _store(given).traces("zero_shot"), lowest, highest)


def sample(given: argparse.Namespace) -> None:
    """Traces of the model alone."""
    _store(given).sample(
        given.system, load(), None, parts(given.data, given.problems), given.traces,
        rows=given.rows, seed=given.seed, temperature=TEMPERATURE, limit=LIMIT,
        stop_at_box=not given.whole,
    )  # fmt: skip


def evaluate(given: argparse.Namespace) -> None:
    """Traces with each memory, or with what it was before training."""
    base, problems = load(), parts(given.data, given.problems)
    for name in given.names:
        path = given.results / "memories" / f"{name}.safetensors"
        form = restore(base, path, given.untrained)
        with torch.no_grad():
            _store(given).sample(
                f"{name}-untrained" if given.untrained else name,
                form.model(base), form.soft(), problems, given.traces,
                rows=given.rows, seed=given.seed, temperature=TEMPERATURE, limit=LIMIT,
            )  # fmt: skip


def compare(given: argparse.Namespace) -> None:
    """Each system against the first."""
    table(given.results, given.systems, parts(given.data, given.problems))


def every(given: argparse.Namespace) -> None:
    """Gradients of all forms where they begin, and how they agree."""
    taught = _lessons(given, given.problems, 4, 7)[: given.most]
    if "policy" in given.signals:
        every_form.measure(load, taught, given.work, every_form.HALVED)
    for name in ("distil", "distil_other"):
        if name in given.signals:
            every_form.measure_distilled(load, taught, given.work, name == "distil_other")
    rows = every_form.report(given.work, taught, every_form.HALVED)
    append(given.results / "cosines.jsonl", rows)
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


def gap(given: argparse.Namespace) -> None:
    """Twenty traces in both arithmetics."""
    arithmetic.gap(load(), _lessons(given, given.problems, 4, 7)[:10], given.results)


def states(given: argparse.Namespace) -> None:
    """What the critic is fitted to."""
    base, taught = load(), _lessons(given, given.problems, 3, 7)
    critic.collect(base, taught, given.work)
    if given.gradients:
        critic.credited(base, taught, given.work)


def judged(given: argparse.Namespace) -> None:
    """The registered critic, the one that reads whole traces only, a control with shuffled rewards,
    and how the critic gets better with every vote."""
    taught = _lessons(given, given.taught, 3, 7)
    found = outcomes(given.results, given.system, parts(given.data, given.problems))
    folder = given.work / "means" / given.system
    means = {p: np.load(folder / f"{p}.npz")["ends"] for p in found}
    ends = judge.ends_only(given.work, taught)
    arms = {
        "registered": judge.all_so_far(given.work, taught),
        "ends": ends,
        "shuffled": judge.shuffled(ends),
    }
    told: dict[str, object] = {"taught": len(taught), "n": len(found), "dataset": given.problems}
    for name, groups in arms.items():
        told[name] = judge.report(groups, found, means, given.problems)
        for one in told[name]:
            print(name, json.dumps({k: v for k, v in one.items() if k != "contrasts"}))
            for line in one["contrasts"]:
                print("   ", json.dumps(line), flush=True)
    rows = {p: judge.valued(g, means[p], np.zeros(means[p].shape[1])) for p, g in found.items()}
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < len(ends)] + [len(ends)]
    told["learning"] = judge.learning_curve(ends, rows, sizes)
    print(*map(json.dumps, told["learning"]), sep="\n")
    path = given.results / f"critic-{given.system}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    np.savez_compressed(path.with_suffix(".npz"), **means)
    picture.draw(path)


def _plan(given: argparse.Namespace) -> tuple[Plan, list[Lesson]]:
    plan = Plan(**{f.name: getattr(given, f.name) for f in fields(Plan)})
    taught = _lessons(given, given.problems, plan.lowest, plan.highest)[: given.most]
    print(len(taught), "lessons", flush=True)
    return plan, taught


def train(given: argparse.Namespace) -> None:
    """One memory on all lessons."""
    plan, taught = _plan(given)
    run(Trainer(load(), plan, taught), given.name, given.work, given.results, given.marks)


def same_problem(given: argparse.Namespace) -> None:
    """A memory for each lesson, on that same problem."""
    plan, taught = _plan(given)
    problems = parts(given.data, given.problems)
    own.run(load(), _store(given), given.name, plan, taught, problems, given.fresh_traces)


# ---------- Families: a memory distilled from a context of own attempts.


def families(given: argparse.Namespace) -> None:
    """Traces of a part of the families under one system, as `measure_learning.py` describes it."""
    base, store = load(), _store(given)
    if given.system in family_prompts.SYSTEMS:
        return family_prompts.ask(base, store, given, LIMIT)
    problems = by_family.problems(given.part)
    form = None
    if given.system in ("alone", "no_code", "shown"):
        chat = {"no_code": context.without_code}.get(given.system)
        shown = _shown(store) if given.system == "shown" else {}
    else:
        form, chat, shown = _layer_vectors(base, given), None, {}
    name = f"families-{given.part}-{given.system}"
    with torch.no_grad():
        store.sample(
            name, base if form is None else form.model(base), None, problems, given.traces,
            rows=given.rows, seed=given.seed, temperature=TEMPERATURE, limit=LIMIT,
            chat=(lambda p: shown[by_family.family(p)](p)) if shown else chat,
        )  # fmt: skip


def _shown(store: Store) -> dict[str, Callable[[Problem], context.Chat]]:
    paid = store.traces("families-learn-alone")
    learnt = context.by_family(by_family.problems("learn"))
    return {
        name: context.in_context(context.attempts(problems, paid))
        for name, problems in learnt.items()
    }


def distil_families(given: argparse.Namespace) -> None:
    """A soft prompt for each of the families that learn."""
    base = load()
    for name in family_prompts.LEARNT:
        family_prompts.distil(base, _store(given), name)


def prompts_report(given: argparse.Namespace) -> None:
    """Own soft prompts against the model alone, deranged and untrained ones."""
    print(json.dumps(family_prompts.report(given.results, given.part), indent=1))


def _layer_vectors(base: LanguageModel, given: argparse.Namespace) -> LayerVectors:
    form, path = LayerVectors(base), given.results / "memories" / f"{given.system}.safetensors"
    with torch.no_grad():
        form.numbers.copy_(load_file(path)["numbers"].float())
    return form


def distil_context(given: argparse.Namespace) -> None:
    """One memory of layer vectors for all families."""
    base, store, shown = load(), _store(given), _shown(_store(given))
    paid, taught = (store.traces(f"families-learn-{s}") for s in ("alone", "shown"))
    all_items = [
        item
        for p in by_family.problems("learn")
        for item in context.items(base, p, shown[by_family.family(p)](p), paid[p.id], taught[p.id])
    ]
    learnt, watched = context.halves(all_items)
    form = LayerVectors(base)
    if given.start:
        form.numbers.data.copy_(load_file(given.start)["numbers"].float())
    steps = context.train(base, form, learnt, rate=given.rate, steps=given.steps)
    for log in chain([{"step": 0}], steps):
        if log["step"] % WATCH == 0 or log["step"] == given.steps:
            log["watched"] = context.apart(base, form, watched, TEMPERATURE)
        append(given.results / "training" / f"{given.name}.jsonl", [_short(log)])
        print(_short(log), flush=True)
    save(form, given.results / "memories" / f"{given.name}.safetensors", Plan(form="vectors"))


def families_report(given: argparse.Namespace) -> None:
    """A memory against the model alone and against `no_code` on a part of the families: the
    contrasts, each system's summary and vote curve, and the picture."""
    problems, told = by_family.problems(given.part), {"memory": given.name, "part": given.part}
    found = {
        s: outcomes(given.results, f"families-{given.part}-{s}", problems)
        for s in (given.name, "alone", "no_code")
    }
    found = {s: rows for s, rows in found.items() if rows}
    asked = [p for p in found[given.name] if all(p in other for other in found.values())]
    found = {s: {p: rows[p] for p in asked} for s, rows in found.items()}
    right = {s: means(rows) for s, rows in found.items()}
    told["systems"] = {
        s: {**summary(rows), "vote_curve": vote_curve(rows)} for s, rows in found.items()
    }
    told["families"] = {
        s: {
            f: fmean(v for p, v in values.items() if p.startswith(f"{f}-"))
            for f in by_family.FAMILIES
        }
        for s, values in right.items()
    }
    lines = []
    for against in [s for s in found if s != given.name]:
        gaps = {p: right[given.name][p] - right[against][p] for p in asked}
        low, high = within(gaps, lambda p: p.split("-")[0])
        line = {"against": against, "n": len(gaps), "estimate": fmean(gaps.values())}
        p = judge.p_value(right[given.name], right[against])
        lines.append({**line, "low": low, "high": high, "p": p})
    for line, adjusted in zip(lines, judge.holm([line["p"] for line in lines]), strict=True):
        line["holm_p"] = adjusted
    told["contrasts"] = lines
    told["watched"] = [
        (row["step"], row["watched"])
        for row in read(given.results / "training" / f"{given.name}.jsonl")
        if "watched" in row
    ]
    path = given.results / f"families-{given.part}-{given.name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".svg").write_text(picture.families_picture(told), encoding="utf-8")
    print(json.dumps({k: told[k] for k in ("systems", "families", "contrasts")}, indent=1))


def _short(log: dict) -> dict:
    return {k: round(v, 5) for k, v in log.items()}


def of_winners(given: argparse.Namespace) -> None:
    """Memories of the recipe `fast`; without minutes only their figures."""
    if given.minutes > 0:
        winners.run(load(), _store(given), given.most, 60 * given.minutes)
    for row in winners.report(_store(given)):
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
