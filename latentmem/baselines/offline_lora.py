"""offline_lora: one low-rank adapter trained on the whole set, by majority vote. On one problem, it is LoRA's curve of
single-instance generalisation."""

from __future__ import annotations

from pathlib import Path

from ..distil import Recipe
from .base import Course
from .learners import LoraLearner
from .offline import Offline
from .sampler import Sampler


def offline_lora(sampler: Sampler, recipe: Recipe, course: Course, folder: Path | None = None, *, rank: int = 8,
                 name: str = "offline_lora") -> Offline:
    """An adapter like that of `elm_lora`, one for all problems."""
    return Offline(name, sampler, lambda: LoraLearner(sampler.model, rank), recipe, course, folder=folder)
