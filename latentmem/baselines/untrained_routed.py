"""untrained_routed: what routing between two different answers gives by itself, with a prompt that has learnt nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Hit, Problem
from .base import Form
from .elm import Elm
from .sampler import Ask, Sampled


class UntrainedRouted(Elm):
    """Does what elm does, with the soft prompt before any training in the place of a memory; nothing is learnt or found.

    A gain of elm over this row is what training gave; the gain of this row is that of a second, different try.
    """

    def find(self, problem: Problem) -> Hit | None:
        return None

    def sides(self, problems: Sequence[Problem], hits: Sequence[Hit | None], form: Form,
              alone: bool) -> list[dict[str, Sampled]]:
        recipe = self.teacher.recipe
        soft = self.sampler.model.text_prompt(recipe.init_text, recipe.virtual_tokens)
        found = super().sides(problems, hits, form, alone)
        for sides, sampled in zip(found, self.sampler.sample([Ask(p, soft, side="memory") for p in problems], form), strict=True):
            sides["memory"] = sampled
        return found
