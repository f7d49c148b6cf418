"""offline_ttrl: GRPO on all parameters with the majority vote as reward, on the whole set (TTRL, arXiv 2504.16084)."""

from __future__ import annotations

from pathlib import Path

from ..distil import Recipe
from .base import Course
from .learners import FullLearner
from .offline import Offline
from .sampler import Sampler

LEARNING_RATE = 1e-6  # TTRL: 5e-7; at 1e-5 ten steps of four problems left the default model 3 of 50 problems


def offline_ttrl(sampler: Sampler, recipe: Recipe, course: Course, folder: Path | None = None,
                 name: str = "offline_ttrl") -> Offline:
    """The gate of the recipe is kept, which the source has not, so that all rows learn from labels of one quality."""
    return Offline(name, sampler, lambda: FullLearner(sampler.model), recipe, course, folder=folder)
