"""offline_prompt: one soft prompt trained on the whole set, by majority vote."""

from __future__ import annotations

from pathlib import Path

from ..distil import Recipe
from .base import Course
from .learners import PromptLearner
from .offline import Offline
from .sampler import Sampler


def offline_prompt(sampler: Sampler, recipe: Recipe, course: Course, folder: Path | None = None,
                   name: str = "offline_prompt") -> Offline:
    """As many virtual tokens and the same start as one memory of elm."""
    return Offline(name, sampler, lambda: PromptLearner(sampler.model, recipe.init_text, recipe.virtual_tokens), recipe,
                   course, folder=folder)
