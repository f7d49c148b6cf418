"""format_only: a control. What elm does, but rewarded for finishing with a boxed answer, right or wrong.

1-shot RLVR (arXiv 2504.20571) found that this reward alone gives much of the gain, so the rest is what the vote adds.
"""

from __future__ import annotations

from pathlib import Path

from ..distil import Recipe
from .row import Key
from .sampler import Sampler
from .teacher import Teacher


def format_teacher(sampler: Sampler, recipe: Recipe, key: Key, folder: Path | None = None,
                   group: int | None = None) -> Teacher:
    """The teacher of the control: the same gate on the same first votes, another reward, and the best step by it."""
    return Teacher(sampler, recipe, key, folder, name="format", reward="boxed", group=group)
