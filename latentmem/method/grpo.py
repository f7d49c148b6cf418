"""GRPO as pure tensor maths: advantages, and the log-probability of sampled tokens without keeping
the logits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.allocator import give_back, roomy
from ..model.kv_cache import Prefix
from ..model.language_model import LanguageModel, Prefilled, Prompt
from ..model.transformer import Transformer, causal_mask, forward
from ..records import Problem, Trace
from .prompts import solve_messages

Scheme = Literal["std", "mean"]


def advantages(rewards: Sequence[float], scheme: Scheme = "std") -> Tensor:
    """Group-relative advantages [G] of the rewards of one problem's G rollouts.

    `std`: (r - mean) / std, GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3). `mean`: r - mean, Dr.
    GRPO (2503.20783), which does not amplify the noisy groups of medium agreement. A unanimous
    group is all zeros: it has no gradient.
    """
    r = torch.tensor(rewards, dtype=torch.float32)
    centred = r - r.mean()
    if scheme == "mean":
        return centred
    if scheme != "std":
        raise ValueError(f"advantage scheme {scheme!r} is unknown: use 'std' or 'mean'.")
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 1e-6 else torch.zeros_like(r)


# a word that no position of a chunk gives this probability is left out of its expectation ...
NEGLIGIBLE = 1e-7
LOST = 1e-3  # ... unless some position would lose more than this by it


def expected(p: Tensor, head: Tensor) -> Tensor:
    """p @ head, the expected output row [P, H] under p [P, V], of the type of the head.

    A language model gives nearly all of its vocabulary nearly nothing: of 151,936 words some
    thousands are enough for the positions of a chunk to keep all but LOST of their probability.
    Where they are not, all words are used.
    """
    some = (p.amax(0) > NEGLIGIBLE).nonzero().squeeze(1)
    if len(some) < p.shape[1] // 4:
        few = p[:, some]
        if float((1 - few.sum(1)).max()) < LOST:
            return (few.to(head.dtype) @ head[some]).to(head.dtype)
    return p.to(head.dtype) @ head


class _LogProb(torch.autograd.Function):
    """log softmax(hidden @ head.T / temperature)[target], chunk by chunk.

    The gradient with respect to a position's hidden state is g * (head[target] - p @ head) /
    temperature, where g is the incoming gradient of that position's log-probability. The bracket
    does not depend on g, so it is computed in the forward pass while the chunk's probabilities
    exist: no logits are kept and none are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> Tensor:
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
                jacobian[lo : lo + chunk] = (
                    head[ids] - expected(logits.sub_(norm).exp_(), head)
                ) / temperature
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (jacobian,) = ctx.saved_tensors
        return jacobian * grad[:, None].to(jacobian.dtype), None, None, None, None


def token_log_probs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Tensor:
    """Log-probabilities [P], float32, of `targets` [P] given final hidden states [P, H] and the
    output matrix [V, H].

    Differentiable with respect to `hidden` once; the head is frozen. Memory is one chunk of logits,
    [chunk, V]; by default few positions on a CPU, where memory is short, and many on a GPU, where
    each chunk costs its launches.
    """
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    if chunk is None:
        chunk = 64 if hidden.device.type == "cpu" else 256
    return _LogProb.apply(hidden, head, targets, float(temperature), chunk)


def entropy_weights(log_probs: Tensor, entropy: Tensor, scale: Tensor) -> Tensor:
    """What an entropy bonus adds to the weight of each sampled token: scale * (-log-probability -
    entropy), [P].

    The gradient of a distribution's entropy is the expectation of -(log p) * grad log p over its
    own samples, so rare tokens weigh more and usual ones less (Williams and Peng, 1991). `entropy`
    [P], the mean of its trace, is a baseline, which makes it less noisy and leaves it unbiased.
    `scale` [P] is the bonus over the group's completion tokens.
    """
    return scale * (-log_probs.detach() - entropy)


def policy_loss(log_probs: Tensor, weights: Tensor, rows: Tensor, count: int) -> Tensor:
    """The on-policy GRPO surrogate of each rollout, [count]: -sum over its tokens of weight *
    log-probability.

    One gradient step is taken per batch of fresh rollouts, so the importance ratio is 1 and
    clipping never acts; what is left is REINFORCE with group-relative advantages. `weights` [P]
    holds each token's advantage divided by the group's number of completion tokens (token mean,
    DAPO, arXiv 2503.14476, eq. 12); `rows` [P] says whose token it is.
    """
    return torch.zeros(count, device=log_probs.device).index_add(0, rows, -weights * log_probs)


# ---------- The policy gradient of a batch of soft prompts, with each problem's prompt computed once and memory bounded.


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """One problem's share of a gradient step: its prompt parameter, its rollouts and their
    advantages [G]."""

    problem: Problem
    soft: torch.nn.Parameter  # [virtual tokens, hidden], float32
    traces: Sequence[Trace]
    advantages: Tensor
    entropy_bonus: float = 0.0


@dataclass(frozen=True, eq=False)
class _Row:
    lot: int
    ids: tuple[int, ...]
    weight: float  # advantage / completion tokens of the group
    bonus: float  # entropy bonus / completion tokens of the group
    entropy: float  # mean over its tokens


FEWEST, MOST = 256, 16_384  # padded tokens of a micro-batch


def default_budget(body: Transformer) -> int:
    """Padded tokens of a micro-batch: few on a CPU, and on a CUDA GPU as many as its memory has
    room for."""
    if body.device.type == "cuda":
        return budget_in(body.spare, token_bytes(body))
    return FEWEST if body.device.type == "cpu" else MOST


def budget_in(free: int, token: int) -> int:
    """How many tokens, `token` bytes each, half of `free` bytes hold: FEWEST to MOST. The other
    half is for the way back, the logits of a chunk, the mask, and the prompts, which run with
    their graph when the completions are done."""
    return min(MOST, max(FEWEST, free // 2 // token))


def token_bytes(body: Transformer) -> int:
    """Bytes that all layers keep of one completion token until its gradient has gone back, by an
    estimate.

    A layer keeps the inputs of its two norms (2 hidden), the turned queries and keys ((heads +
    kv_heads) * head_dim), what attention gave (heads * head_dim, and a float32 a head), and what
    goes into the gated activation (2 intermediate). The frozen products keep nothing. Keys and
    values are kept for each row, the prompt's in front: they are counted twice (4 kv_heads *
    head_dim), as for a prompt as long as its completion. Llama-3.1-8B in bfloat16, 32 layers: (2 *
    4096 + 40 * 128 + 32 * 128 + 28672 + 4 * 8 * 128) * 2 + 32 * 4 = 100,480 bytes a layer, 3.2 MB
    in all.
    """
    d, wide = body.head_dim, len(body.layers[0].gate_up.weight)
    numbers = 2 * body.hidden + (2 * body.heads + body.kv_heads) * d + wide + 4 * body.kv_heads * d
    return len(body.layers) * (numbers * body.dtype.itemsize + 4 * body.heads)


@roomy
def policy_gradient(
    model: LanguageModel,
    lots: Sequence[RolloutGroup],
    temperature: float,
    *,
    budget: int | None = None,
) -> Generator[tuple[int, int], None, list[float]]:
    """Accumulate d loss / d soft prompt into each lot's `soft.grad`. Yields (rows done, rows);
    returns each lot's loss.

    The prompts are run first, without a graph. Their keys and values are leaves against which the
    completions run in micro-batches of at most `budget` padded tokens; then the prompts run again,
    with their graph, and the gradient that has gathered in the leaves goes back through them once.
    So activations never exceed one micro-batch or the prompts. This is
    exact: the completions see the soft prompt only through those keys and values and the prompt's
    last hidden state. Rows of zero advantage are skipped, unless there is an entropy bonus.
    `temperature` is that of sampling (0, greedy, is taken as 1).
    """
    if budget is None:
        budget = default_budget(model.body)
    rows = []
    for n, lot in enumerate(lots):
        total = sum(len(t.token_ids) for t in lot.traces)
        rows += [
            _Row(
                n,
                t.token_ids,
                a / total,
                lot.entropy_bonus / total,
                t.entropy or 0.0,
            )
            for t, a in zip(lot.traces, lot.advantages.tolist(), strict=True)
            if (a != 0 or lot.entropy_bonus) and t.token_ids
        ]
    rows.sort(key=lambda r: len(r.ids))
    give_back()
    losses, done = [0.0] * len(lots), 0
    yield done, len(rows)
    prompts = [Prompt(model.render(solve_messages(lot.problem.text)), lot.soft) for lot in lots]
    with (
        torch.enable_grad()
    ):  # though nothing asks for a gradient here: without it, products may be rounded
        filled = model.prefill(
            [Prompt(p.ids, lot.soft.detach()) for p, lot in zip(prompts, lots, strict=True)]
        )
    leaves = [tuple(t.detach().requires_grad_() for t in pair) for pair in filled.layers]
    last = filled.hidden[:, -1].detach().requires_grad_()
    while done < len(rows):
        part = rows[done : done + 1]
        for row in rows[done + 1 :]:  # sorted by length, so the newest row is the longest
            if (len(part) + 1) * len(row.ids) > budget:
                break
            part.append(row)
        with torch.enable_grad():
            loss = _micro_batch(model, part, filled, leaves, last, temperature or 1.0)
            loss.sum().backward()
        for row, value in zip(part, loss.tolist(), strict=True):
            losses[row.lot] += value
        done += len(part)
        yield done, len(rows)
    del filled
    with torch.enable_grad():
        filled = model.prefill(prompts)
    outputs = [t for pair in filled.layers for t in pair] + [filled.hidden]
    grads = [t.grad for pair in leaves for t in pair]
    through = torch.zeros_like(filled.hidden)
    through[:, -1] = last.grad
    torch.autograd.backward(
        [o for o, g in zip(outputs, [*grads, through], strict=True) if g is not None],
        [g for g in [*grads, through] if g is not None],
    )
    return losses


def _micro_batch(
    model: LanguageModel,
    part: Sequence[_Row],
    filled: Prefilled,
    leaves: list[tuple[Tensor, ...]],
    last: Tensor,
    temperature: float,
) -> Tensor:
    """Loss of each row [n]. The first token is predicted by the prompt's last state, the others by
    the completion."""
    body = model.body
    device, longest = body.device, max(len(r.ids) for r in part)
    of = torch.tensor([r.lot for r in part], device=device)
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    for i, row in enumerate(part):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
    ids = ids.to(device)
    counted = (
        torch.arange(longest, device=device)[None]
        < torch.tensor([len(r.ids) for r in part], device=device)[:, None]
    )
    hidden = last[of][:, None]  # [n, 1, H]
    if longest > 1:
        positions = filled.lengths[of][:, None] + torch.arange(longest - 1, device=device)
        visible = torch.cat((filled.visible[of], counted.new_ones(len(part), longest - 1)), 1)
        mask = causal_mask(visible, longest - 1, body.dtype)
        # Right padding needs no mask: no counted position looks to its right.
        past = Prefix(leaves, of)
        after = forward(body, body.embedding[ids[:, :-1]], positions, mask, past)
        hidden = torch.cat((hidden, after), 1)
    row_of = torch.arange(len(part), device=device)[:, None].expand(-1, longest)[counted]
    log_probs = token_log_probs(hidden[counted], body.head.weight, ids[counted], temperature)  # [P]
    weights, scale, entropy = torch.tensor(
        [(r.weight, r.bonus, r.entropy) for r in part], device=device
    ).T[:, row_of]
    weights = weights + entropy_weights(log_probs, entropy, scale)
    return policy_loss(log_probs, weights, row_of, len(part))
