"""elm_lora: the ablation. The loop of elm with a low-rank adapter for each problem in the place of a soft prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..distil import Recipe
from ..records import Hit, Problem
from .base import Form
from .elm import Elm
from .row import Key
from .sampler import Ask, Sampled, Sampler
from .teacher import Teacher
from .tuning import LoraModel

LEARNING_RATE = 1e-4  # a usual rate for adapters; at the soft prompt's 1e-3 a step changes the model ten times as much


def lora_teacher(sampler: Sampler, recipe: Recipe, key: Key, folder: Path | None = None, *, rank: int = 8,
                 learning_rate: float = LEARNING_RATE, group: int | None = None) -> Teacher:
    """The same gate, rewards and choice of the best step; the memories hold adapters and no virtual tokens."""
    model = LoraModel(sampler.model, rank)
    return Teacher(sampler, replace(recipe, learning_rate=learning_rate, virtual_tokens=0), key, folder, name="lora",
                   model=model, gradient=model.gradient, group=group)


class ElmLora(Elm):
    """Problems that found the same adapter share a batch; others cannot."""

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], form: Form) -> list[Sampled]:
        found: dict[int, Sampled] = {}
        for ident in dict.fromkeys(h.memory_id for _, h in asked):
            adapter = torch.from_numpy(self.bank.get(ident).soft_prompt.copy())
            model = self.teacher.model.adapted(adapter, f"{self.teacher.model.fingerprint}/{ident}")
            mine = [i for i, (_, h) in enumerate(asked) if h.memory_id == ident]
            asks = [Ask(asked[i][0], side="memory") for i in mine]
            found.update(zip(mine, self.sampler.of(model).sample(asks, form), strict=True))
        return [found[i] for i in range(len(asked))]
