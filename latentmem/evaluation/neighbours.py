"""One memory from several problems: the recipe `{"neighbours": k}` of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from ..baselines.base import Course, Form
from ..baselines.offline_prompt import offline_prompt
from ..baselines.sampler import Ask, Sampler
from ..baselines.teacher import Taught
from ..distil import Recipe
from ..records import Distilled, Memory, Problem, Record, Step

if TYPE_CHECKING:
    from ..baselines.registry import Workshop


def nearest(shop: Workshop, problem: Problem, others: Sequence[Problem], k: int) -> list[Problem]:
    """The k others whose sentence embedding is most similar (cosine), best first; ties in the order given."""
    rest = [p for p in others if p.id != problem.id]
    key = shop.key(problem, "input")
    return [rest[i] for i in np.argsort([-float(key @ shop.key(p, "input")) for p in rest], kind="stable")[:k]]


def learn(shop: Workshop, sampler: Sampler, recipe: Recipe, problems: Sequence[Problem], others: Sequence[Problem],
          k: int) -> Iterator[Record | Taught]:
    """For each problem one soft prompt, trained on it and its k nearest others in turn, one problem a step: as many
    rollouts as a memory of one problem takes. No step is chosen, since the steps look at different problems; the last counts.

    The prompt is trained as the row `offline_prompt` trains its own. Yields what training tells, and a Taught for each problem.
    """
    for problem in problems:
        group = [p.unlabelled() for p in (problem, *nearest(shop, problem, others, k))]
        row = offline_prompt(sampler, recipe, Course(recipe.steps, 1, recipe.learning_rate), name="neighbours")
        (first,) = sampler.sample([Ask(group[0])], Form("vote", recipe.rollouts, recipe.temperature))
        steps: list[Step] = []
        for record in row.fit(group):
            if isinstance(record, Step):
                steps.append(record)
            yield record
        if not any(s.grad_norm for s in steps):
            done = Distilled(problem.id, None, f"Nothing was learnt: {steps[-1].note}.", tuple(steps))
        else:
            memory = Memory(
                problem=group[0], soft_prompt=row.learner.soft.detach().cpu().numpy().astype(np.float32),
                keys={"input": shop.key(problem, "input")}, model=sampler.model.fingerprint, model_name=sampler.model.name,
                vote=first.vote, traces=first.traces, steps=tuple(steps), best_step=row.done,
                settings=asdict(recipe) | {"neighbours": len(group) - 1},
                created=datetime.now(UTC).isoformat(timespec="seconds"))
            done = Distilled(problem.id, memory, f"Trained in turn on {', '.join(p.id for p in group)}.", tuple(steps))
        yield Taught(done, first.cost + row.spent)
