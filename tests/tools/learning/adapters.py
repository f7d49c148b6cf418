"""A low-rank adapter of all matrices as a form of memory: the positive control."""

from __future__ import annotations

from dataclasses import replace

import torch

from latentmem.evaluation.baselines.weight_training import LowRank
from latentmem.model.language_model import LanguageModel
from tests.tools.learning.forms import with_layers


class LowRankForm:
    """A low-rank adapter of the matrices qkv, out, gate_up and down (LoRA, arXiv 2106.09685); a
    positive control.

    `numbers` holds of each matrix down [rank, in], normal numbers, and up [out, rank], zeros. What
    is added to a matrix's output is up(down(x)) / sqrt(in): for an x of unit size, of the size of
    up.
    """

    NAMES = ("qkv", "out", "gate_up", "down")

    def __init__(self, base: LanguageModel, rank: int = 1) -> None:
        self.rank = rank
        draw = torch.Generator().manual_seed(0)
        parts = []
        for layer in base.body.layers:
            for name in self.NAMES:
                out, width = getattr(layer, name).weight.shape
                parts += [torch.randn(rank * width, generator=draw), torch.zeros(out * rank)]
        self.sizes = [len(p) for p in parts]
        self.numbers = torch.nn.Parameter(torch.cat(parts))

    def model(self, base: LanguageModel) -> LanguageModel:
        pieces, layers = iter(self.numbers.split(self.sizes)), []
        for layer in base.body.layers:
            made = {}
            for name in self.NAMES:
                matrix = getattr(layer, name)
                width = matrix.weight.shape[1]
                down = next(pieces).view(self.rank, width)
                up = next(pieces).view(-1, self.rank)
                made[name] = LowRank(matrix, matrix.weight, [(0, down, up)], width**-0.5)
            layers.append(replace(layer, **made))
        return with_layers(base, tuple(layers), "lora")

    def soft(self) -> None:
        return None
