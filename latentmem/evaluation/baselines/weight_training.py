"""Training weights instead of soft prompts: low-rank adapters and full parameters over the same
frozen body.

Both stand in for `linear.Linear`, so the same forward pass samples and trains, and nothing is
rebuilt after a step. All rows of a batch share the weights; a soft prompt needs no such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...method.grpo import (
    RolloutGroup,
    Row,
    TokenLoss,
    accumulate,
    completion_states,
    policy,
    rows_of,
)
from ...method.prompts import solve_messages
from ...model.allocator import memory_errors
from ...model.language_model import LanguageModel, Prompt, SampledToken
from ...model.transformer import Transformer


class LowRank:
    """A frozen product plus scale * up(down(x)) on some of its outputs (LoRA, arXiv 2106.09685)."""

    def __init__(
        self,
        base: Callable[[Tensor], Tensor],
        weight: Tensor,
        parts: Sequence[tuple[int, Tensor, Tensor]],
        scale: float,
    ) -> None:
        self.base, self.weight, self.scale = base, weight, scale
        self.parts = parts  # start, down [r, in], up [out, r]

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]"""
        out, pieces, at = self.base(x), [], 0
        for start, down, up in self.parts:
            delta = F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype)) * self.scale
            pieces += [out[..., at:start], out[..., start : start + len(up)] + delta]
            at = start + len(up)
        return torch.cat([*pieces, out[..., at:]], -1)


class Trained:
    """A matrix [out, in] with an optional bias [out], both parameters."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LoraModel(LanguageModel):
    """A model whose "soft prompt" is a low-rank adapter of the queries and values (PEFT's default
    targets), as one array [rows, hidden], float32. `distil` trains it like a prompt, and a bank can
    hold it.

    It samples prompts with different adapters one adapter after the other.
    """

    def __init__(self, base: LanguageModel, rank: int = 8, alpha: float = 16.0) -> None:
        self.__dict__ |= base.of_body(base.body).__dict__
        self.fingerprint += f"+lora{rank}x{alpha:g}"
        self.base, self.rank, self.scale = base, rank, alpha / rank
        b, down = self.body, (rank, self.body.hidden)
        queries, values = (heads * b.head_dim for heads in (b.heads, b.kv_heads))
        self._shapes = [down, (queries, rank), down, (values, rank)]
        self.numbers = sum(r * c for r, c in self._shapes) * len(b.layers)

    def text_prompt(self, text: str, tokens: int) -> Tensor:
        """The untrained adapter, which changes nothing: down uniform as PEFT starts it, up zero.
        Ignores the text."""
        draw = torch.Generator().manual_seed(0)
        bound = self.body.hidden**-0.5
        parts = []
        for i, shape in enumerate(self._shapes * len(self.body.layers)):
            down = i % 2 == 0
            start = (
                (torch.rand(shape, generator=draw) * 2 - 1) * bound if down else torch.zeros(shape)
            )
            parts.append(start.flatten())
        flat = torch.cat(parts)
        whole = F.pad(flat, (0, -len(flat) % self.body.hidden))
        return whole.view(-1, self.body.hidden).to(self.body.device)

    def adapted(self, adapter: Tensor, fingerprint: str = "") -> LanguageModel:
        """The model with this adapter [rows, hidden]; gradients flow into it."""
        sizes = [r * c for r, c in self._shapes] * len(self.body.layers)
        pieces = iter(adapter.flatten()[: self.numbers].to(self.body.device).split(sizes))
        values = (self.body.heads + self.body.kv_heads) * self.body.head_dim  # start in q, k, v
        layers = []
        for layer in self.body.layers:
            a, b, c, d = (next(pieces).view(s) for s in self._shapes)
            parts = [(0, a, b), (values, c, d)]
            qkv = LowRank(layer.qkv, layer.qkv.weight, parts, self.scale)
            layers.append(replace(layer, qkv=qkv))
        made = self.base.of_body(replace(self.body, layers=tuple(layers)))
        made.fingerprint = fingerprint or self.fingerprint
        return made

    def generate(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        *,
        stopped: Callable[[int], bool] = lambda _: False,
        watch: Callable[[Sequence[int], Tensor], None] | None = None,
        **how: Any,
    ) -> Iterator[list[SampledToken]]:
        """As LanguageModel.generate; a prompt's `soft` is its adapter."""
        first = [sum(len(s) for s in seeds[:g]) for g in range(len(seeds))]
        groups: dict[int, list[int]] = {}
        for g, prompt in enumerate(prompts):
            groups.setdefault(id(prompt.soft), []).append(g)
        for members in groups.values():
            soft = prompts[members[0]].soft
            model = self.base if soft is None else self.adapted(soft)
            rows = [first[g] + r for g in members for r in range(len(seeds[g]))]
            for drawn in model.generate(
                [Prompt(prompts[g].ids) for g in members],
                [seeds[g] for g in members],
                stopped=lambda i, rows=rows: stopped(rows[i]),
                watch=watch and (lambda live, h, rows=rows: watch([rows[i] for i in live], h)),
                **how,
            ):
                yield [replace(d, row=rows[d.row]) for d in drawn]

    def gradient(
        self, _: LanguageModel, groups: Sequence[RolloutGroup], temperature: float
    ) -> Generator[tuple[int, int], None, list[float]]:
        """The gradient that `distil` takes: each group's `soft` is an adapter of its own."""
        losses: list[float] = []
        for group in groups:
            made = partial(self.adapted, group.soft)
            losses += yield from weight_gradient(made, [group], temperature)
        return losses


def full_body(body: Transformer) -> tuple[Transformer, list[torch.nn.Parameter]]:
    """A copy of a body, of its type, whose every weight is a parameter; tied weights stay tied."""
    made: list[torch.nn.Parameter] = []

    def own(tensor: Tensor) -> torch.nn.Parameter:
        made.append(torch.nn.Parameter(tensor.detach().clone()))
        return made[-1]

    def matrix(linear: Trained) -> Trained:
        return Trained(own(linear.weight), None if linear.bias is None else own(linear.bias))

    layers = tuple(
        replace(
            w,
            norm1=own(w.norm1),
            qkv=matrix(w.qkv),
            out=matrix(w.out),
            norm2=own(w.norm2),
            gate_up=matrix(w.gate_up),
            down=matrix(w.down),
            qk_norm=w.qk_norm and (own(w.qk_norm[0]), own(w.qk_norm[1])),
        )
        for w in body.layers
    )
    tied = body.embedding.data_ptr() == body.head.weight.data_ptr()
    head = matrix(body.head)
    return replace(
        body,
        layers=layers,
        embedding=head.weight if tied else own(body.embedding),
        head=head,
        norm=own(body.norm),
        use_int8=False,
    ), made  # its own matrices are never rounded


@memory_errors
def weight_gradient(
    made: Callable[[], LanguageModel],
    groups: Sequence[RolloutGroup],
    temperature: float,
    *,
    budget: int | None = None,
    loss: TokenLoss = policy,
) -> Generator[tuple[int, int], None, list[float]]:
    """As `grpo.policy_gradient`, into the weights of the model that `made` gives: each rollout
    reads its prompt again. A group's own `soft` is not a prompt here.

    `made` is called for every micro-batch, since going back frees what an adapter's weights were
    made of.
    """
    model = made()
    if budget is None:
        budget = 512 if model.body.device.type == "cpu" else 16_384
    prompts = [model.render(solve_messages(g.problem.text)) for g in groups]
    states = partial(_states, made)
    head, rows = model.body.head.weight, rows_of(groups, prompts)
    return (yield from accumulate(rows, len(groups), states, head, temperature, loss, budget))


def _states(made: Callable[[], LanguageModel], part: Sequence[Row]) -> tuple[Tensor, ...]:
    return completion_states(made().body, part)
