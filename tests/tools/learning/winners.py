"""A memory learns from the winners of its own problem's vote, by the recipe `fast`, and is asked on
that problem, on a neighbour with other numbers, and on the problem of another family."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmem.evaluation.metrics import paired
from latentmem.method.answers import same_answer
from latentmem.method.distillation import Lesson, Recipe
from latentmem.method.voting import vote
from latentmem.method.winners import learn
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem, Step, Trace
from latentmem.settings import Settings
from tests.tools.learning.families import FAMILIES, problems
from tests.tools.learning.judge import holm, p_value
from tests.tools.learning.store import Store, append, read, right

CHOSEN_ON = ("groups-many_learn-0",)  # the rate and the batch were chosen on it
# `last`: what would not be kept is asked, too
RECIPE = Recipe(recipe="fast", keep="last", seed=7, init_text=Settings().init_text)
PAID, FRESH = RECIPE.rollouts, 8  # traces of the vote, and of every figure
ALONE, ASKED = 3, 7  # seeds
NEXT = 2  # the neighbour's distance in a family's list, where wordings take turns


def pairs() -> Iterator[tuple[Problem, Problem]]:
    """Problems with their neighbours of the same wording, one family after the other."""
    every = problems("many_learn")
    listed = [[p for p in every if p.source == f"made/{name}"] for name in FAMILIES]
    for at in range(0, 28, 2 * NEXT):
        for some in listed:
            if at + NEXT < len(some):
                yield some[at], some[at + NEXT]


def run(base: LanguageModel, store: Store, most: int, seconds: float) -> None:
    """Memory after memory until there are `most`, or the time is over. What is done is left alone."""
    table = store.results / "training" / "winners.jsonl"
    began, done = time.monotonic(), {r["problem"]: r for r in read(table)}
    before: Tensor | None = None
    for problem, neighbour in pairs():
        if len(done) >= most or time.monotonic() - began > seconds:
            return
        if problem.id in CHOSEN_ON:
            continue
        path = store.results / "memories" / f"winners-{problem.id}.safetensors"
        if problem.id not in done:
            row = _one(base, store, problem, neighbour, before, path)
            if row is None:
                continue
            append(table, [row])
            done[problem.id] = row
            print({k: v for k, v in row.items() if k != "losses"}, flush=True)
        before = load_file(path)["numbers"].float()


def _one(
    base: LanguageModel,
    store: Store,
    problem: Problem,
    neighbour: Problem,
    before: Tensor | None,
    path: Any,
) -> dict[str, Any] | None:
    """One memory and what it is worth; None where the vote does not pass, or has 7 or 8 votes."""
    alone = _asked(store, "winners-alone", base, None, problem, PAID + FRESH, ALONE)
    paid, control = alone[:PAID], alone[PAID:]
    now = vote(paid)
    if not now.clusters or now.clusters[0].size > 6:
        return None
    began, steps, own = time.perf_counter(), list[Step](), list[Trace]()
    for _, record in learn(base, [problem.unlabelled()], [(paid, now)], RECIPE):
        steps += [record] if isinstance(record, Step) else []
        own += [record] if isinstance(record, Trace) else []
        if isinstance(record, Step) and not record.final:
            print(problem.id, record.step, round(record.loss, 4), round(record.seconds), flush=True)
    assert isinstance(record, Lesson)
    if record.soft is None:
        return None
    took = time.perf_counter() - began
    soft = torch.from_numpy(np.asarray(record.soft))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"numbers": soft.bfloat16()}, path)
    store.keep("winners-own", problem, own)
    near = _asked(store, "winners-alone", base, None, neighbour, FRESH, ALONE)
    helped = _asked(store, "winners-own", base, soft, neighbour, FRESH, ASKED)
    row = {
        "problem": problem.id,
        "neighbour": neighbour.id,
        "votes": now.clusters[0].size,
        "vote_right": same_answer(str(problem.answer), now.clusters[0].answer),
        "alone": _mean(problem, control),
        "own": _mean(problem, own),
        "agrees_alone": _agrees(now.label, control),
        "agrees_own": _agrees(now.label, own),
        "neighbour_alone": _mean(neighbour, near),
        "neighbour_own": _mean(neighbour, helped),
        "losses": [round(s.loss, 4) for s in steps if not s.final],
        "seconds": round(took, 1),
    }
    if before is not None:
        other = _asked(store, "winners-deranged", base, before, problem, FRESH, ASKED)
        row["deranged"] = _mean(problem, other)
    return row


def _asked(
    store: Store,
    system: str,
    model: LanguageModel,
    soft: Tensor | None,
    problem: Problem,
    traces: int,
    seed: int,
) -> list[Trace]:
    with torch.no_grad():
        return store.sample(
            system, model, soft, [problem], traces, rows=traces, seed=seed,
            temperature=RECIPE.temperature, limit=RECIPE.max_new_tokens, stop_at_box=False,
        )[problem.id]  # fmt: skip


def _mean(problem: Problem, traces: Sequence[Trace]) -> float:
    return fmean(right(problem, t) for t in traces)


def _agrees(label: str | None, traces: Sequence[Trace]) -> float:
    return fmean(bool(t.votes and same_answer(label, t.answer)) for t in traces)


CONTRASTS = (("own", "alone"), ("own", "deranged"), ("neighbour_own", "neighbour_alone"))


def report(store: Store) -> list[dict[str, Any]]:
    """The contrasts over problems: mean difference, bootstrap interval, p by sign flips, Holm."""
    rows = read(store.results / "training" / "winners.jsonl")
    found = []
    for system, against in CONTRASTS:
        both = [r for r in rows if system in r and against in r]
        first, second = ({r["problem"]: r[name] for r in both} for name in (system, against))
        gap = paired(first, second)
        assert gap is not None
        found.append(
            {
                "system": system,
                "against": against,
                "n": gap.n,
                "system_mean": fmean(first.values()),
                "against_mean": fmean(second.values()),
                "estimate": gap.mean,
                "low": gap.low,
                "high": gap.high,
                "p": p_value(first, second),
            }
        )
    for row, p in zip(found, holm([r["p"] for r in found]), strict=True):
        row["holm_p"] = p
    path = store.results / "winners.json"
    path.write_text(json.dumps({"contrasts": found, "problems": rows}, indent=1) + "\n")
    return found
