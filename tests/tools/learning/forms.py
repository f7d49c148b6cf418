"""What a memory may consist of: a soft prompt, keys and values in every layer, or a vector for
every layer.

A form holds its numbers as one parameter that begins as zeros, and makes of a model the model that
has them. The numbers are relative to a scale that fits each place, so one learning rate serves all
layers. `KeyValues` and `LayerVectors` change nothing before they are trained: their untrained
control is the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os.path import commonprefix
from typing import Any, Protocol

import torch
from torch import Tensor

from latentmem.model.kv_cache import Past
from latentmem.model.language_model import LanguageModel, Prefilled, Prompt
from latentmem.model.transformer import causal_mask, forward


class Form(Protocol):
    """One memory's numbers, and how they enter the model."""

    numbers: torch.nn.Parameter

    def model(self, base: LanguageModel) -> LanguageModel:
        """The model with the memory; gradients flow into `numbers`."""

    def soft(self) -> Tensor | None:
        """The soft prompt [virtual tokens, hidden] that stands in front of the chat, if that is
        what the memory is."""


class SoftPrompt:
    """A soft prompt in front of the chat: start + numbers * rms(start). The first token is frozen
    on request."""

    def __init__(
        self, base: LanguageModel, text: str, tokens: int, freeze_first: bool = False
    ) -> None:
        self.start = base.text_prompt(text, tokens)
        self.scale = self.start.square().mean().sqrt().item()
        self.numbers = torch.nn.Parameter(torch.zeros_like(self.start))
        self.moves = torch.ones(tokens, 1, device=self.start.device)
        self.moves[0] = 0.0 if freeze_first else 1.0

    def model(self, base: LanguageModel) -> LanguageModel:
        return base

    def soft(self) -> Tensor:
        return self.start + self.numbers * self.moves * self.scale


class _Behind(Past):
    """Keys and values [kv_heads, P, D] of each layer in front of every row; keeps all that
    attention sees."""

    def __init__(self, prefix: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.layers: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        pair = tuple(
            torch.cat((before.to(self.dtype).expand(len(new), -1, -1, -1), new), 2)
            for before, new in zip(self.prefix[layer], (k, v), strict=True)
        )
        self.layers.append(pair)
        return pair


class PrefixModel(LanguageModel):
    """A model whose chats all begin with `opening`, of which the keys and values are given instead
    of computed."""

    def __init__(
        self, base: LanguageModel, opening: Sequence[int], prefix: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__(
            base.body,
            base.tokenizer,
            name=base.name,
            fingerprint=f"{base.fingerprint}+prefix",
            ends=base.ends,
            context=base.context,
        )
        self.opening, self.prefix = tuple(opening), prefix

    def prefill(self, prompts: Sequence[Prompt]) -> Prefilled:
        """As LanguageModel.prefill; the prompts have no soft prompt and begin with the opening."""
        body, flow, n = self.body, self.body.flow, len(self.opening)
        assert all(p.soft is None and p.ids[:n] == self.opening for p in prompts), (
            "a chat with another opening"
        )
        size = max(map(len, prompts)) - n
        pads = [
            torch.zeros(size + n - len(p), body.hidden, dtype=flow, device=body.device)
            for p in prompts
        ]
        rows = [
            torch.cat((pad, self.embed(p.ids[n:]).to(flow)))
            for pad, p in zip(pads, prompts, strict=True)
        ]
        lengths = torch.tensor([len(p) for p in prompts], device=body.device)
        # [G, size], < 0 at padding
        offsets = torch.arange(size, device=body.device)[None] - (size + n - lengths)[:, None]
        visible = torch.cat((offsets.new_ones(len(prompts), n, dtype=torch.bool), offsets >= 0), 1)
        past = _Behind(self.prefix, flow)
        hidden = forward(
            body,
            torch.stack(rows),
            offsets.clamp(min=0) + n,
            causal_mask(visible, size, flow),
            past,
        )
        return Prefilled(past.layers, hidden, visible, lengths)


def opening_of(base: LanguageModel) -> tuple[int, ...]:
    """The tokens that every chat begins with: the system's turn and the head of the user's."""
    chats = [base.render([{"role": "user", "content": text}]) for text in ("1", "?")]
    return commonprefix(chats)


class KeyValues:
    """The keys and values, in every layer, of the tokens that every chat begins with: start +
    numbers * scale.

    The first position, on which attention rests, is never moved. The scale of a layer's keys or
    values is their standard deviation over the other positions. So the memory costs no token, and
    untrained it is the model itself.
    """

    def __init__(self, base: LanguageModel) -> None:
        self.opening = opening_of(base)
        with torch.enable_grad():  # exact products
            filled = base.prefill([Prompt(self.opening)])
        self.start = (
            torch.stack([torch.stack((k[0], v[0])) for k, v in filled.layers]).detach().float()
        )
        # [layers, 2, kv_heads, P, D]
        self.scale = (
            self.start[..., 1:, :].std(3, keepdim=True).square().mean((2, 4), keepdim=True).sqrt()
        )
        self.numbers = torch.nn.Parameter(torch.zeros_like(self.start[..., 1:, :]))

    def model(self, base: LanguageModel) -> LanguageModel:
        moved = torch.cat(
            (self.start[..., :1, :], self.start[..., 1:, :] + self.numbers * self.scale), 3
        )
        return PrefixModel(base, self.opening, [(layer[0], layer[1]) for layer in moved])

    def soft(self) -> None:
        return None


class Opening:
    """A soft prompt in the place of the tokens that every chat begins with, but for the first and
    the last of them.

    start + numbers * rms(start), so it costs no token and untrained it is the model itself.
    """

    def __init__(self, base: LanguageModel) -> None:
        self.opening = opening_of(base)
        self.start = base.embed(self.opening[:-1]).float().clone()
        self.scale = self.start.square().mean().sqrt().item()
        self.numbers = torch.nn.Parameter(torch.zeros_like(self.start[1:]))

    def prefix(self, base: LanguageModel) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [kv_heads, P, D] of each layer, with their graph."""
        moved = torch.cat((self.start[:1], self.start[1:] + self.numbers * self.scale))
        with torch.enable_grad():  # exact products
            filled = base.prefill([Prompt(self.opening[-1:], moved)])
        return [(k[0], v[0]) for k, v in filled.layers]

    def model(self, base: LanguageModel) -> LanguageModel:
        return PrefixModel(base, self.opening, self.prefix(base))

    def soft(self) -> None:
        return None


@dataclass(frozen=True, eq=False)
class _Shifted:
    """A frozen product and a vector [out] times a scale that is added to it.

    The vector must be a view of the parameter: a step's micro-batches go back through it one by
    one.
    """

    base: Any
    weight: Tensor
    vector: Tensor
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out + (self.vector * self.scale).to(out.dtype)


class LayerVectors:
    """One vector a layer, added to the residual stream at every position: numbers [layers, hidden]
    * scale.

    The scale of a layer is the rms of what its own block adds, over the opening of a chat without
    its first token, but at most the median over the layers: a few large numbers decide that of some
    layers, which would else get nearly all of the gradient.
    """

    def __init__(self, base: LanguageModel) -> None:
        body = base.body
        sizes = block_scale(base)
        self.scale = sizes.clamp(max=sizes.median()).tolist()
        self.numbers = torch.nn.Parameter(torch.zeros(len(body.layers), body.hidden))

    def model(self, base: LanguageModel) -> LanguageModel:
        layers = tuple(
            replace(layer, down=_Shifted(layer.down, layer.down.weight, vector, scale))
            for layer, vector, scale in zip(base.body.layers, self.numbers, self.scale, strict=True)
        )
        return with_layers(base, layers, "vectors")

    def soft(self) -> None:
        return None


def block_scale(base: LanguageModel) -> Tensor:
    """The rms [layers] of what each layer's second half adds to the residual stream of a chat's
    opening."""
    sizes: list[Tensor] = []

    def watched(down: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        out = down(x)
        sizes.append(out[0, 1:].float().square().mean().sqrt())
        return out

    layers = tuple(replace(w, down=partial(watched, w.down)) for w in base.body.layers)
    with torch.no_grad():
        with_layers(base, layers, "watched").prefill([Prompt(opening_of(base))])
    return torch.stack(sizes)


def with_layers(base: LanguageModel, layers: tuple, name: str) -> LanguageModel:
    """The same model with other layers."""
    return LanguageModel(
        replace(base.body, layers=layers),
        base.tokenizer,
        name=base.name,
        fingerprint=f"{base.fingerprint}+{name}",
        ends=base.ends,
        context=base.context,
    )
