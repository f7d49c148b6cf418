"""offline_grpo: GRPO on all parameters with the truth as reward, the upper reference. The one row that sees labels."""

from __future__ import annotations

from pathlib import Path

from ..distil import Recipe
from .base import Course
from .learners import FullLearner
from .offline import Offline
from .sampler import Sampler


def offline_grpo(sampler: Sampler, recipe: Recipe, course: Course, folder: Path | None = None,
                 name: str = "offline_grpo") -> Offline:
    """`fit` wants problems with their `answer`; the replies are given without it, as everywhere."""
    return Offline(name, sampler, lambda: FullLearner(sampler.model), recipe, course, labels=True, folder=folder)
