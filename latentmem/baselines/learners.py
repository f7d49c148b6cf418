"""What an offline row trains: one soft prompt, one low-rank adapter, or all parameters. One shape for all three."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..model import LanguageModel
from ..training import Lot, policy_gradient
from .tuning import LoraModel, full_body, weight_gradient

DITHERED = 1 << 24  # numbers rounded at a time


class Learner(Protocol):
    """Parameters, the model to sample with them, and how a group's loss reaches them."""

    model: LanguageModel
    soft: torch.nn.Parameter | None  # in front of the prompt
    start: Tensor | None  # `soft` before any training
    parameters: list[torch.nn.Parameter]  # float32; what is optimised and saved

    def gradient(self, lots: Sequence[Lot], temperature: float) -> Generator[tuple[int, int], None, list[float]]:
        """Accumulate the lots' gradient into `parameters`. Their `soft` is `self.soft`."""

    def changed(self) -> None:
        """The parameters have changed: let the model follow."""

    def stamp(self) -> None:
        """Give the model a fingerprint of its present weights, before its rollouts are remembered."""


class PromptLearner:
    """One soft prompt for the whole set."""

    def __init__(self, model: LanguageModel, init_text: str, virtual_tokens: int) -> None:
        self.model = model
        self.start = model.text_prompt(init_text, virtual_tokens)
        self.soft = torch.nn.Parameter(self.start.clone())
        self.parameters = [self.soft]

    def gradient(self, lots: Sequence[Lot], temperature: float) -> Generator[tuple[int, int], None, list[float]]:
        return (yield from policy_gradient(self.model, lots, temperature))

    def changed(self) -> None:
        """The prompt is an input: the model stays as it is."""

    stamp = changed


class LoraLearner:
    """One low-rank adapter for the whole set."""

    def __init__(self, model: LanguageModel, rank: int = 8) -> None:
        self._lora, self.soft, self.start = LoraModel(model, rank), None, None
        self._adapter = torch.nn.Parameter(self._lora.text_prompt("", 0))
        self.parameters = [self._adapter]
        self.changed()

    def gradient(self, lots: Sequence[Lot], temperature: float) -> Generator[tuple[int, int], None, list[float]]:
        return (yield from weight_gradient(lambda: self._lora.adapted(self._adapter), lots, temperature))

    def changed(self) -> None:
        self.model = self._lora.adapted(self._adapter.detach())

    def stamp(self) -> None:
        self.model.fingerprint = f"{self._lora.fingerprint}/{content([self._adapter])}"


class FullLearner:
    """A copy of the model, all of it trained. Where the model is not float32, the optimiser works on a float32 copy, from
    which the weights are rounded so that small steps arrive on average (`dithered`)."""

    def __init__(self, model: LanguageModel) -> None:
        self._base, self.soft, self.start = model, None, None
        body, self._weights = full_body(model.body)
        self.parameters = [w if w.dtype == torch.float32 else torch.nn.Parameter(w.detach().float())
                           for w in self._weights]
        self.model = LanguageModel(body, model.tokenizer, name=model.name, fingerprint=model.fingerprint,
                                   ends=model.ends, context=model.context)

    def gradient(self, lots: Sequence[Lot], temperature: float) -> Generator[tuple[int, int], None, list[float]]:
        losses = yield from weight_gradient(lambda: self.model, lots, temperature)
        for own, weight in zip(self.parameters, self._weights, strict=True):
            if own is not weight and weight.grad is not None:
                own.grad = weight.grad.float() if own.grad is None else own.grad + weight.grad.float()
                weight.grad = None
        return losses

    def changed(self) -> None:
        with torch.no_grad():
            for i, (own, weight) in enumerate(zip(self.parameters, self._weights, strict=True)):
                if own is not weight:
                    dithered(own, weight, i)

    def stamp(self) -> None:
        self.model.fingerprint = f"{self._base.fingerprint}/{content(self._weights)}"


def dithered(long: Tensor, short: Tensor, seed: int) -> None:
    """Round float32 numbers into bfloat16 ones: up with the probability that is the share of the way to the number above.

    Ten steps of 1e-6 move a weight by a tenth of the distance between two bfloat16 numbers: rounded to the nearest, next to
    none of what was learnt would reach the model that samples; so its mean does. What decides is drawn once for each
    place, so the same numbers always round to the same, also after going on from a checkpoint.
    """
    if short.dtype != torch.bfloat16:
        short.copy_(long)
        return
    draw = torch.Generator().manual_seed(seed)
    for some, out in zip(long.view(-1).split(DITHERED), short.view(-1).split(DITHERED), strict=True):
        # The upper half of a float32 is a bfloat16: adding to the lower half carries as often as it says.
        noise = torch.randint(0, 1 << 16, some.shape, generator=draw, dtype=torch.int32).to(some.device)
        out.copy_(((some.view(torch.int32) + noise) & ~0xFFFF).view(torch.float32))


def content(tensors: Sequence[Tensor]) -> str:
    """A digest of the numbers: a changed model must not be taken for another in the sampler's memory."""
    h = hashlib.sha256()
    for tensor in tensors:
        h.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return h.hexdigest()[:32]
