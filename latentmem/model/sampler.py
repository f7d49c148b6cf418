"""Drawing tokens from logits: exact inverse-CDF sampling with one uniform number a row.

Noise for each of 150,000 words (multinomial, Gumbel) costs more than a third of a decode step on a
CPU. One uniform number and a two-level search through block sums draw from the same distribution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 512
ROWS = 8  # drawn at once on a CPU: their 5 MB of logits stay in its cache between passes


def _pick(mass: Tensor, u: Tensor) -> Tensor:
    """Index of the first word whose cumulative mass exceeds u * total. mass [B, V] >= 0, u [B] in
    [0, 1) -> [B]."""
    rows, words = mass.shape
    blocks = words // BLOCK
    sums = mass[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK).sum(-1, dtype=torch.float32)
    tail = mass[:, blocks * BLOCK :].sum(-1, keepdim=True, dtype=torch.float32)
    cumulative = torch.cat((sums, tail), 1).double().cumsum(1)  # [B, blocks + 1]
    target = u.double() * cumulative[:, -1]
    block = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=blocks)  # [B, 1]
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    index = block * BLOCK + torch.arange(BLOCK, device=mass.device)  # [B, BLOCK]
    inside = mass.gather(1, index.clamp(max=words - 1)).double().masked_fill_(index >= words, 0.0)
    within = inside.cumsum(1)
    # Block sums are float32, so the target can fall just past the block's own mass. The draw must
    # not land on a word of no mass.
    wanted = torch.minimum(target[:, None] - before, within[:, -1:] * (1 - 1e-12))
    place = torch.searchsorted(within, wanted, right=True).clamp_(max=BLOCK - 1)
    # NaN mass must not lead beyond the vocabulary
    return index.gather(1, place).squeeze(1).clamp_(max=words - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zeros for all but the smallest set of words whose probability reaches top_p. [B, V] ->
    [B, V], not renormalised."""
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(1, index, kept)


def draw(
    logits: Tensor, u: Tensor, temperature: float, top_p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row.

    logits [B, V]; u [B], uniform in [0, 1). The choice is made on u's device, which is the CPU
    where the model's device has no float64. Returns token ids [B], the entropy of softmax(logits /
    temperature) in nats [B] (of softmax(logits) when greedy), and the self-certainty KL(uniform ||
    softmax(logits)) in nats [B] (Intuitor, arXiv 2505.19590, eq. 2).
    """
    if logits.device.type != "cpu" or len(logits) <= ROWS:
        return _draw(logits, u, temperature, top_p)
    parts = [
        _draw(some, v, temperature, top_p)
        for some, v in zip(logits.split(ROWS), u.split(ROWS), strict=True)
    ]
    ids, entropy, certainty = (torch.cat(each) for each in zip(*parts, strict=True))
    return ids, entropy, certainty


def _draw(
    logits: Tensor, u: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.float()
    top = logits.amax(-1, keepdim=True)
    scaled = logits - top
    mass = scaled.exp()
    total = mass.sum(-1)
    certainty = total.log() + top[:, 0] - logits.mean(-1) - math.log(logits.shape[-1])
    if temperature not in (0, 1):
        scaled.div_(temperature)
        torch.exp(scaled, out=mass)
        total = mass.sum(-1)
    entropy = total.log() - torch.linalg.vecdot(mass, scaled) / total
    if temperature == 0:
        return logits.argmax(-1), entropy, certainty
    if top_p < 1:
        mass = nucleus(mass / total[:, None], top_p)
    return _pick(mass.to(u.device), u).to(mass.device), entropy, certainty
