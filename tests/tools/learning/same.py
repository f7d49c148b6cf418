"""The memory of one problem on that same problem: fresh traces before and after, with the
optimiser's choices as arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean

import torch

from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem
from tests.tools.learning.plan import Lesson, Plan
from tests.tools.learning.store import Store, append, read, right
from tests.tools.learning.train import Trainer

FRESH = 7  # the seed of the fresh traces: no paid rollout has it


def one(
    base: LanguageModel,
    store: Store,
    name: str,
    plan: Plan,
    lesson: Lesson,
    truth: Problem,
    traces: int,
) -> None:
    """Train on one problem's paid rollouts, then sample it afresh; what is done is left alone."""
    if any(r["problem"] == truth.id for r in read(store.results / "same" / f"{name}.jsonl")):
        return
    trainer = Trainer(base, replace(plan, batch=1), [lesson])
    logs = [trainer.step() for _ in range(plan.steps)]
    with torch.no_grad():
        fresh = store.sample(
            f"same-{name}",
            trainer.form.model(base),
            trainer.form.soft(),
            [truth],
            traces,
            rows=traces,
            seed=FRESH,
            temperature=0.8,
            limit=320,
        )[truth.id]
    append(
        store.results / "same" / f"{name}.jsonl",
        [
            {
                "problem": truth.id,
                "label_right": right(truth, next(t for t in lesson.traces if lesson.agrees(t))),
                "paid": fmean(right(truth, t) for t in lesson.traces),
                "after": fmean(right(truth, t) for t in fresh),
                "finished": fmean(t.finished for t in fresh),
                "tokens": fmean(t.tokens for t in fresh),
                "losses": [round(log["loss"], 5) for log in logs],
                "cosines": [round(log["cosine"], 3) for log in logs],
                "shift": logs[-1]["shift"],
                "seconds": sum(log["seconds"] for log in logs),
                "plan": asdict(plan),
            }
        ],
    )
    last = read(store.results / "same" / f"{name}.jsonl")[-1]
    print(name, {k: v for k, v in last.items() if k != "plan"}, flush=True)


def run(
    base: LanguageModel,
    store: Store,
    name: str,
    plan: Plan,
    lessons: Sequence[Lesson],
    truths: Sequence[Problem],
    traces: int,
) -> None:
    """Every problem in turn, and the model alone on all of them with the same fresh seeds."""
    known = {p.id: p for p in truths}
    chosen = [known[lesson.problem.id] for lesson in lessons]
    store.sample(
        "same-zero_shot",
        base,
        None,
        chosen,
        traces,
        rows=64,
        seed=FRESH,
        temperature=0.8,
        limit=320,
    )
    for lesson in lessons:
        one(base, store, name, plan, lesson, known[lesson.problem.id], traces)
