"""Training weights instead of soft prompts: low-rank adapters and full parameters over the same
frozen body.

Both stand in for `transformer.Linear`, so the same forward pass samples and trains, and nothing is
rebuilt after a step. Rows of one batch share the weights, which is what a soft prompt does without.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...method.grpo import RolloutGroup, entropy_weights, policy_loss, token_log_probs
from ...method.prompts import solve_messages
from ...model.allocator import roomy
from ...model.kv_cache import Collected
from ...model.language_model import LanguageModel, Prompt, SampledToken
from ...model.transformer import Transformer, causal_mask, forward

CHUNK = 256  # positions whose logits exist at once


class LowRank:
    """A frozen product plus scale * up(down(x)) on some of its outputs (LoRA, arXiv 2106.09685)."""

    def __init__(
        self,
        base: Callable[[Tensor], Tensor],
        weight: Tensor,
        parts: Sequence[tuple[int, Tensor, Tensor]],
        scale: float,
    ) -> None:
        self.base, self.weight, self.parts, self.scale = (
            base,
            weight,
            parts,
            scale,
        )  # parts: start, [r, in], [out, r]

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
    targets), as one array [rows, hidden], float32: so `distil` trains it as it trains a prompt,
    and a bank can hold it.

    Prompts with different adapters are sampled one adapter after the other.
    """

    def __init__(self, base: LanguageModel, rank: int = 8, alpha: float = 16.0) -> None:
        super().__init__(
            base.body,
            base.tokenizer,
            name=base.name,
            fingerprint=f"{base.fingerprint}+lora{rank}x{alpha:g}",
            ends=base.ends,
            context=base.context,
        )
        self.base, self.rank, self.scale = base, rank, alpha / rank
        b = self.body
        self._shapes = [
            (rank, b.hidden),
            (b.heads * b.head_dim, rank),
            (rank, b.hidden),
            (b.kv_heads * b.head_dim, rank),
        ]
        self.numbers = sum(r * c for r, c in self._shapes) * len(b.layers)

    def text_prompt(self, text: str, tokens: int) -> Tensor:
        """The untrained adapter: down uniform as PEFT starts it, up zero, so that it changes
        nothing. Ignores the text."""
        draw = torch.Generator().manual_seed(0)
        bound = self.body.hidden**-0.5
        parts = [
            (torch.rand(s, generator=draw) * 2 - 1) * bound
            if s[0] == self.rank and i % 2 == 0
            else torch.zeros(s)
            for _ in self.body.layers
            for i, s in enumerate(self._shapes)
        ]
        flat = torch.cat([p.flatten() for p in parts])
        return (
            F.pad(flat, (0, -len(flat) % self.body.hidden))
            .view(-1, self.body.hidden)
            .to(self.body.device)
        )

    def adapted(self, adapter: Tensor, fingerprint: str = "") -> LanguageModel:
        """The model with this adapter [rows, hidden]; gradients flow into it."""
        sizes = [r * c for r, c in self._shapes] * len(self.body.layers)
        pieces = iter(adapter.flatten()[: self.numbers].to(self.body.device).split(sizes))
        values = (
            self.body.heads + self.body.kv_heads
        ) * self.body.head_dim  # where the values begin in q, k, v
        layers = []
        for layer in self.body.layers:
            a, b, c, d = (next(pieces).view(s) for s in self._shapes)
            layers.append(
                replace(
                    layer,
                    qkv=LowRank(
                        layer.qkv, layer.qkv.weight, [(0, a, b), (values, c, d)], self.scale
                    ),
                )
            )
        base = self.base
        return LanguageModel(
            replace(self.body, layers=tuple(layers)),
            base.tokenizer,
            name=base.name,
            fingerprint=fingerprint or self.fingerprint,
            ends=base.ends,
            context=base.context,
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        top_p: float = 1.0,
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
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                top_p=top_p,
            ):
                yield [replace(d, row=rows[d.row]) for d in drawn]

    def gradient(
        self, _: LanguageModel, lots: Sequence[RolloutGroup], temperature: float
    ) -> Generator[tuple[int, int], None, list[float]]:
        """`distil`'s gradient: each lot's `soft` is its adapter, and lots have nothing in common."""
        losses: list[float] = []
        for lot in lots:

            def made(lot: RolloutGroup = lot) -> LanguageModel:
                return self.adapted(lot.soft)

            losses += yield from weight_gradient(made, [lot], temperature)
        return losses


def full_body(body: Transformer) -> tuple[Transformer, list[torch.nn.Parameter]]:
    """A copy of a body whose every weight is a parameter, in the body's own numeric type; tied
    weights stay tied."""
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
        )
        for w in body.layers
    )
    tied = (
        body.embedding is body.head.weight
        or body.embedding.data_ptr() == body.head.weight.data_ptr()
    )
    head = matrix(body.head)
    return replace(
        body,
        layers=layers,
        embedding=head.weight if tied else own(body.embedding),
        head=head,
        norm=own(body.norm),
        eight=False,
    ), made  # its own matrices are never rounded


@dataclass(frozen=True, eq=False)
class _Row:
    lot: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    weight: float  # advantage / completion tokens of the group
    bonus: float  # entropy bonus / completion tokens of the group
    entropy: float  # mean over its tokens


@roomy
def weight_gradient(
    made: Callable[[], LanguageModel],
    lots: Sequence[RolloutGroup],
    temperature: float,
    *,
    budget: int | None = None,
) -> Generator[tuple[int, int], None, list[float]]:
    """As `training.policy_gradient`, into the weights of the model that `made` gives: the same
    loss, the prompt read again for every rollout, in micro-batches of at most `budget` padded
    tokens. A lot's own `soft` is not a prompt here.
    """
    model = made()
    if budget is None:
        budget = 512 if model.body.device.type == "cpu" else 16_384
    rows = []
    for n, lot in enumerate(lots):
        total, prompt = (
            sum(len(t.token_ids) for t in lot.traces),
            model.render(solve_messages(lot.problem.text)),
        )
        rows += [
            _Row(n, prompt, t.token_ids, a / total, lot.entropy_bonus / total, t.entropy or 0.0)
            for t, a in zip(lot.traces, lot.advantages.tolist(), strict=True)
            if (a != 0 or lot.entropy_bonus) and t.token_ids
        ]
    rows.sort(key=lambda r: len(r.prompt) + len(r.ids))
    losses, done = [0.0] * len(lots), 0
    yield done, len(rows)
    while done < len(rows):
        part = rows[done : done + 1]
        for row in rows[done + 1 :]:
            if (len(part) + 1) * (len(row.prompt) + len(row.ids)) > budget:
                break
            part.append(row)
        with torch.enable_grad():
            loss = _micro_batch(
                made().body, part, temperature or 1.0
            )  # anew, since backward frees what made it
            loss.sum().backward()
        for row, value in zip(part, loss.tolist(), strict=True):
            losses[row.lot] += value
        done += len(part)
        yield done, len(rows)
    return losses


def _micro_batch(body: Transformer, part: Sequence[_Row], temperature: float) -> Tensor:
    """Loss of each row [n]: prompt and completion padded on the right, which causal attention never
    sees."""
    device, longest = body.device, max(len(r.prompt) + len(r.ids) for r in part) - 1
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    counted = torch.zeros(len(part), longest, dtype=torch.bool)
    for i, row in enumerate(part):
        read = torch.tensor(
            [*row.prompt, *row.ids[:-1]]
        )  # the last token is predicted and not read
        ids[i, : len(read)] = read
        counted[i, len(row.prompt) - 1 : len(read)] = True
    ids, counted = ids.to(device), counted.to(device)
    targets = torch.tensor([t for r in part for t in r.ids], device=device)
    positions = torch.arange(longest, device=device).expand(len(part), -1)
    mask = causal_mask(torch.ones_like(counted), longest, body.dtype)
    hidden = forward(body, body.embedding[ids], positions, mask, Collected())[
        counted
    ]  # [P, hidden], row by row
    head = body.head.weight
    log_probs = (trained_log_probs if head.requires_grad else token_log_probs)(
        hidden, head, targets, temperature
    )
    lengths = torch.tensor([len(r.ids) for r in part], device=device)
    row_of = torch.arange(len(part), device=device).repeat_interleave(lengths)
    weights, scale, entropy = torch.tensor(
        [(r.weight, r.bonus, r.entropy) for r in part], device=device
    ).T[:, row_of]
    weights = weights + entropy_weights(log_probs, entropy, scale)
    return policy_loss(log_probs, weights, row_of, len(part))


def trained_log_probs(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """As `grpo.token_log_probs`, with a gradient into the head, too: the logits of a chunk are
    computed twice, and never kept."""

    def some(h: Tensor, ids: Tensor) -> Tensor:
        logits = F.linear(h, head).float() / temperature
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(-1)

    return torch.cat(
        [
            checkpoint(some, h, ids, use_reentrant=False)
            for h, ids in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        ]
    )
