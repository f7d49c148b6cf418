"""GRPO as pure tensor maths: advantages, and the log-probability of sampled tokens without keeping the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Scheme = Literal["std", "mean"]


def advantages(rewards: Sequence[float], scheme: Scheme = "std") -> Tensor:
    """Group-relative advantages [G] of the rewards of one problem's G rollouts.

    `std`: (r - mean) / std, GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3). `mean`: r - mean, Dr. GRPO (2503.20783),
    which does not amplify the noisy groups of medium agreement. A unanimous group is all zeros: it has no gradient.
    """
    r = torch.tensor(rewards, dtype=torch.float32)
    centred = r - r.mean()
    if scheme == "mean":
        return centred
    if scheme != "std":
        raise ValueError(f"advantage scheme {scheme!r} is unknown: use 'std' or 'mean'.")
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 1e-6 else torch.zeros_like(r)


NEGLIGIBLE = 1e-7  # a word that no position of a chunk gives this probability is left out of its expectation ...
LOST = 1e-3  # ... unless some position would lose more than this by it


def expected(p: Tensor, head: Tensor) -> Tensor:
    """p @ head, the expected output row [P, H] under p [P, V], of the type of the head.

    A language model gives nearly all of its vocabulary nearly nothing: of 151,936 words some thousands are enough for
    the positions of a chunk to keep all but LOST of their probability. Where they are not, all words are used.
    """
    some = (p.amax(0) > NEGLIGIBLE).nonzero().squeeze(1)
    if len(some) < p.shape[1] // 4:
        few = p[:, some]
        if float((1 - few.sum(1)).max()) < LOST:
            return (few.to(head.dtype) @ head[some]).to(head.dtype)
    return p.to(head.dtype) @ head


class _LogProb(torch.autograd.Function):
    """log softmax(hidden @ head.T / temperature)[target], chunk by chunk.

    The gradient with respect to a position's hidden state is g * (head[target] - p @ head) / temperature, where g is
    the incoming gradient of that position's log-probability. The bracket does not depend on g, so it is computed in the
    forward pass while the chunk's probabilities exist: no logits are kept and none are computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int) -> Tensor:
        needed = hidden.requires_grad
        out = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        jacobian = torch.empty_like(hidden) if needed else None
        for lo in range(0, len(targets), chunk):
            part, ids = hidden[lo : lo + chunk], targets[lo : lo + chunk]
            logits = (part @ head.T).float()
            if temperature != 1:
                logits.div_(temperature)
            norm = logits.logsumexp(-1, keepdim=True)
            out[lo : lo + chunk] = (logits.gather(1, ids[:, None]) - norm).squeeze(1)
            if jacobian is not None:
                jacobian[lo : lo + chunk] = (head[ids] - expected(logits.sub_(norm).exp_(), head)) / temperature
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (jacobian,) = ctx.saved_tensors
        return jacobian * grad[:, None].to(jacobian.dtype), None, None, None, None


def token_log_probs(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float = 1.0,
                    chunk: int | None = None) -> Tensor:
    """Log-probabilities [P], float32, of `targets` [P] given final hidden states [P, H] and the output matrix [V, H].

    Differentiable with respect to `hidden` once; the head is frozen. Memory is one chunk of logits, [chunk, V];
    by default few positions on a CPU, where memory is short, and many on a GPU, where each chunk costs its launches.
    """
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    if chunk is None:
        chunk = 64 if hidden.device.type == "cpu" else 256
    return _LogProb.apply(hidden, head, targets, float(temperature), chunk)


def entropy_weights(log_probs: Tensor, entropy: Tensor, scale: Tensor) -> Tensor:
    """What an entropy bonus adds to the weight of each sampled token: scale * (-log-probability - entropy), [P].

    The gradient of a distribution's entropy is the expectation of -(log p) * grad log p over its own samples, so rare
    tokens weigh more and usual ones less (Williams and Peng, 1991). `entropy` [P], the mean of its trace, is a baseline,
    which makes it less noisy and leaves it unbiased. `scale` [P] is the bonus over the group's completion tokens.
    """
    return scale * (-log_probs.detach() - entropy)


def policy_loss(log_probs: Tensor, weights: Tensor, rows: Tensor, count: int) -> Tensor:
    """The on-policy GRPO surrogate of each rollout, [count]: -sum over its tokens of weight * log-probability.

    One gradient step is taken per batch of fresh rollouts, so the importance ratio is 1 and clipping never acts; what
    is left is REINFORCE with group-relative advantages. `weights` [P] holds each token's advantage divided by the
    group's number of completion tokens (token mean, DAPO, arXiv 2503.14476, eq. 12); `rows` [P] says whose token it is.
    """
    return torch.zeros(count, device=log_probs.device).index_add(0, rows, -weights * log_probs)
