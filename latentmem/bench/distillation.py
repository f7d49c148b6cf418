"""Our side of the rows about distillation: seconds and peak memory of `distil.distil`, as the engine calls it."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

from ..records import LatentmemError, Step
from . import work as shared
from .work import PROBLEMS, Side, Work

FINAL = "ours includes the rollouts of the final check, one batch more than steps"


def one_memory(work: Work) -> Side:
    """Seconds for one memory: all steps and the final check. The first vote is given, as it is after solving.

    Like the peer, it is measured for `peer_steps` steps and the check, and extrapolated: every step does the same work.
    """
    model = _ready(work)

    def run() -> float:
        took: list[Step] = []
        seconds(model, work, 1, work.peer_steps, took=took)
        *trained, check = took
        return work.steps * median(s.seconds for s in trained) + check.seconds

    return Side(run, f"{work.steps} steps of {work.rollouts} rollouts of {work.tokens} tokens, extrapolated from "
                f"{work.peer_steps}; {FINAL}")


def together(work: Work) -> Side:
    """Seconds for several memories in one batch, `together_steps` steps each."""
    model = _ready(work)
    return Side(lambda: seconds(model, work, work.together, work.together_steps), _measured(work))


def one_after_another(work: Work) -> Side:
    """Seconds for the same memories one by one."""
    model = _ready(work)
    return Side(lambda: sum(seconds(model, work, 1, work.together_steps, first=i) for i in range(work.together)))


def _measured(work: Work) -> str:
    whole = "" if work.together_steps == work.steps else f", of the {work.steps} of a whole memory"
    return f"both sides measured for {work.together_steps} steps and the final check{whole}"


def peak_memory(work: Work) -> Side:
    """GB of this process's peak, with loading the model and `memory_steps` steps of one memory."""
    from .worker import peak_bytes

    def run() -> float:
        model = shared.language_model(work)
        seconds(model, work, 1, work.memory_steps)
        return peak_bytes()

    return Side(run, f"{work.memory_steps} of {work.steps} steps on both sides, with loading the model")


def _ready(work: Work) -> Any:
    model = shared.language_model(work)
    seconds(model, replace(work, tokens=min(16, work.tokens)), 1, 1)  # warms up
    return model


def recipe(work: Work, steps: int) -> Any:
    from ..distil import Recipe

    return Recipe(rollouts=work.rollouts, temperature=work.temperature, max_new_tokens=work.tokens, seed=work.seed,
                  virtual_tokens=work.virtual_tokens, init_text=work.init_text, steps=steps,
                  learning_rate=work.learning_rate, gate_votes=1, gate_lead=0)


def seconds(model: Any, work: Work, memories: int, steps: int, *, first: int = 0, took: list[Step] | None = None) -> float:
    """Seconds to distil `memories` problems from the `first` on in one batch, on a model that is scripted for it.

    The steps, the final check among them, are added to `took`.
    """
    from ..distil import distil

    fixed = shared.scripted(model, work.tokens, work.rollouts)
    problems = PROBLEMS[first : first + memories]
    began, trained = time.perf_counter(), 0
    for _, record in distil(fixed, problems, [shared.first_vote(work)] * memories, recipe(work, steps)):
        if isinstance(record, Step):
            trained += record.grad_norm > 0
            if took is not None:
                took.append(record)
    shared.synchronise(model)
    whole = time.perf_counter() - began
    if trained != memories * steps:
        raise LatentmemError(f"Only {trained} of {memories * steps} steps had a gradient, so the row would be wrong: use "
                             "at least 3 rollouts.")
    return whole
