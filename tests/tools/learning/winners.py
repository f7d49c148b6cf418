"""A memory learns from the winners of its own problem's vote, and is asked on that problem, on a
neighbour with other numbers, and on the problem of another family."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import torch

from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem, Trace
from tests.tools.learning.families import FAMILIES, problems
from tests.tools.learning.plan import Lesson, Plan, restore, save
from tests.tools.learning.store import Store, append, read, right
from tests.tools.learning.train import Trainer

PLAN = Plan(
    form="vectors",
    loss="winners",
    optimizer="adamw",
    learning_rate=0.05,
    steps=24,
    batch=1,
    traces=1,
    warm_up=4,
)
PAID, FRESH = 8, 8  # traces of the vote, and of every figure
ALONE, ASKED = 3, 7  # seeds
NEXT = 2  # the neighbour's distance in a family's list, where wordings take turns


def pairs() -> Iterator[tuple[Problem, Problem]]:
    """Problems with their neighbours of the same wording, one family after the other."""
    listed = {
        name: [p for p in problems("many_learn") if p.source == f"made/{name}"] for name in FAMILIES
    }
    for at in range(0, 28, 2 * NEXT):
        for some in listed.values():
            if at + NEXT < len(some):
                yield some[at], some[at + NEXT]


def teaches(problem: Problem, paid: Sequence[Trace]) -> Lesson | None:
    """The winners of a vote that passes the product's gate and is not unanimous; None if it does
    not or is."""
    now = vote(paid)
    if not now.clusters or not 3 <= now.clusters[0].size <= 6 or now.margin < 2:
        return None
    lesson = Lesson(problem.unlabelled(), now.label, paid)
    return replace(lesson, traces=[t for t in paid if lesson.agrees(t)])


def run(base: LanguageModel, store: Store, most: int, seconds: float) -> None:
    """Memory after memory until there are `most`, or the time is over. What is done is left alone."""
    table = store.results / "training" / "winners.jsonl"
    began, done = time.monotonic(), {r["problem"]: r for r in read(table)}
    before: Path | None = None
    for problem, neighbour in pairs():
        if len(done) >= most or time.monotonic() - began > seconds:
            return
        path = store.results / "memories" / f"winners-{problem.id}.safetensors"
        if problem.id not in done:
            alone = _asked(store, "winners-alone", base, problem, PAID + FRESH, ALONE)
            lesson = teaches(problem, alone[:PAID])
            if lesson is None:
                continue
            losses, took = _trained(base, lesson, path)
            model = restore(base, path).model(base)
            own = _asked(store, "winners-own", model, problem, FRESH, ASKED)
            near = _asked(store, "winners-alone", base, neighbour, FRESH, ALONE)
            helped = _asked(store, "winners-own", model, neighbour, FRESH, ASKED)
            row = {
                "problem": problem.id,
                "neighbour": neighbour.id,
                "votes": len(lesson.traces),
                "vote_right": right(problem, lesson.traces[0]),
                "alone": _mean(problem, alone[PAID:]),
                "own": _mean(problem, own),
                "agrees_alone": fmean(map(lesson.agrees, alone[PAID:])),
                "agrees_own": fmean(map(lesson.agrees, own)),
                "neighbour_alone": _mean(neighbour, near),
                "neighbour_own": _mean(neighbour, helped),
                "losses": losses,
                "seconds": round(took, 1),
            }
            if before is not None:
                other = restore(base, before).model(base)
                row["deranged"] = _mean(
                    problem, _asked(store, "winners-deranged", other, problem, FRESH, ASKED)
                )
            append(table, [row])
            done[problem.id] = row
            print({k: v for k, v in row.items() if k != "losses"}, flush=True)
        before = path if path.exists() else before


def _asked(
    store: Store, system: str, model: LanguageModel, problem: Problem, traces: int, seed: int
) -> list[Trace]:
    with torch.no_grad():
        return store.sample(
            system, model, None, [problem], traces,
            rows=traces, seed=seed, temperature=0.8, limit=320,
        )[problem.id]  # fmt: skip


def _trained(base: LanguageModel, lesson: Lesson, path: Path) -> tuple[list[float], float]:
    """Train, keep the memory; the loss of each step and the seconds."""
    began = time.perf_counter()
    trainer = Trainer(base, PLAN, [lesson])
    losses = [round(trainer.step()["loss"], 4) for _ in range(PLAN.steps)]
    save(trainer.form, path, PLAN)
    print(lesson.problem.id, losses[0], losses[-1], asdict(PLAN)["form"], flush=True)
    return losses, time.perf_counter() - began


def _mean(problem: Problem, traces: Sequence[Trace]) -> float:
    return fmean(right(problem, t) for t in traces)
