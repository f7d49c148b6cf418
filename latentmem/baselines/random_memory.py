"""random_memory: a lower control. What elm does, but with a random memory in the place of the nearest."""

from __future__ import annotations

from ..records import Hit, Problem
from ..sampling import seed_for
from .elm import Elm
from .elm_unrouted import ElmUnrouted

DRAW = -1  # stands for the step in the seed of the choice: no rollout has it


def another(elm: Elm, problem: Problem, nearest: Hit | None) -> Hit | None:
    """A memory drawn by (seed, problem), each equally likely; none where elm would try none, so coverage is the same."""
    if nearest is None:
        return None
    ident = elm.ids[seed_for(elm.sampler.seed, problem.id, DRAW, len(elm.ids)) % len(elm.ids)]
    memory = elm.bank.get(ident)
    return Hit(ident, memory.name, float(elm.key(problem, elm.kind) @ memory.keys[elm.kind]), 1)


class RandomMemory(Elm):
    """Routed, as elm is."""

    def find(self, problem: Problem) -> Hit | None:
        return another(self, problem, super().find(problem))


class RandomUnrouted(ElmUnrouted):
    """Unrouted, as elm_unrouted is."""

    def find(self, problem: Problem) -> Hit | None:
        return another(self, problem, super().find(problem))
