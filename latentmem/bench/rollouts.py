"""Our side of the rows about rollouts: tokens a second through `sampling.sample`, as the engine calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..records import Trace
from . import work as shared
from .work import PROBLEMS, Side, Work


def one_problem(work: Work) -> Side:
    """`rollouts` rollouts of one problem, without a soft prompt: tokens a second, prefill included."""
    return _side(work, 1, soft=False)


def four_problems(work: Work) -> Side:
    """Four problems, each with its own soft prompt, in one batch: tokens a second."""
    return _side(work, 4, soft=True)


def _side(work: Work, problems: int, *, soft: bool) -> Side:
    from ..sampling import Job

    model = shared.language_model(work)
    fixed = shared.scripted(model, work.tokens, work.rollouts)
    soft_prompt = shared.soft_prompt(model, work) if soft else None
    jobs = [Job(p, work.rollouts, None if soft_prompt is None else soft_prompt * (1 + i / 10))
            for i, p in enumerate(PROBLEMS[:problems])]
    speed(shared.scripted(model, min(16, work.tokens), work.rollouts), jobs, work)  # warms up
    dtype = model.body.arithmetic
    return Side(lambda: speed(fixed, jobs, work), f"{problems * work.rollouts} rollouts of {work.tokens} tokens, ours in {dtype}")


def speed(fixed: Any, jobs: Sequence[Any], work: Work) -> float:
    """Tokens a second of one batch of jobs on a scripted model."""
    from ..sampling import sample

    began = time.perf_counter()
    made = sum(record.tokens for _, record in sample(fixed, jobs, seed=work.seed, temperature=work.temperature,
                                                     max_new_tokens=work.tokens) if isinstance(record, Trace))
    shared.synchronise(fixed)
    return made / (time.perf_counter() - began)
