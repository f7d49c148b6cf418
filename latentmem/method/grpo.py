"""GRPO as tensor maths: advantages, and log-probabilities of tokens without keeping logits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..model.allocator import give_back, memory_errors
from ..model.kv_cache import Collected, Past, Prefix
from ..model.language_model import LanguageModel, Prefilled, Prompt
from ..model.transformer import Transformer, causal_mask, forward
from ..records import Problem, Trace
from .prompts import solve_messages

Scheme = Literal["std", "mean"]


def advantages(rewards: Sequence[float], scheme: Scheme = "std") -> Tensor:
    """Group-relative advantages [G] of the rewards of one problem's G rollouts.

    `std`: (r - mean) / std, GRPO (DeepSeekMath, arXiv 2402.03300, eq. 3). `mean`: r - mean, Dr.
    GRPO (2503.20783), which does not amplify noisy groups of medium agreement. A unanimous group is
    all zeros and has no gradient.
    """
    r = torch.tensor(rewards, dtype=torch.float32)
    centred = r - r.mean()
    if scheme == "mean":
        return centred
    if scheme != "std":
        raise ValueError(f"advantage scheme {scheme!r} is unknown: use 'std' or 'mean'.")
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 1e-6 else torch.zeros_like(r)


# An expectation leaves out words that no position of a chunk gives this probability ...
NEGLIGIBLE = 1e-7
LOST = 1e-3  # ... unless some position would lose more than this


def expected(p: Tensor, head: Tensor) -> Tensor:
    """p @ head, the expected output row [P, H] under p [P, V], of the type of the head.

    A language model gives most words almost no probability: of 151,936 words, some thousands hold
    all but LOST of it at every position of a chunk. Where they do not, all words count.
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
    does not depend on g, so the forward pass computes it while the chunk's probabilities exist. No
    logits are kept, and none are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> Tensor:
        needed = hidden.requires_grad
        out = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        jacobian = torch.empty_like(hidden) if needed else None
        for lo in range(0, len(targets), chunk):
            part = slice(lo, lo + chunk)
            logits, ids = (hidden[part] @ head.T).float(), targets[part]
            if temperature != 1:
                logits.div_(temperature)
            norm = logits.logsumexp(-1, keepdim=True)
            out[part] = (logits.gather(1, ids[:, None]) - norm).squeeze(1)
            if jacobian is not None:
                wanted = head[ids] - expected(logits.sub_(norm).exp_(), head)
                jacobian[part] = wanted / temperature
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

    Differentiable once with respect to `hidden`; also to the head, if it is trained. Memory is one
    chunk of logits, [chunk, V]; by default few positions on a CPU, where memory is short, and many
    on a GPU, where each chunk costs its launches.
    """
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    if head.requires_grad:
        return _trained_head(hidden, head, targets, temperature, chunk or 256)
    if chunk is None:
        chunk = 64 if hidden.device.type == "cpu" else 256
    return _LogProb.apply(hidden, head, targets, float(temperature), chunk)


def _trained_head(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk: int
) -> Tensor:
    """As `token_log_probs`, with a gradient into the head: a chunk's logits are computed twice."""

    def some(h: Tensor, ids: Tensor) -> Tensor:
        logits = F.linear(h, head).float() / temperature
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(-1)

    chunks = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(some, h, ids, use_reentrant=False) for h, ids in chunks])


def entropy_weights(log_probs: Tensor, entropy: Tensor, scale: Tensor) -> Tensor:
    """What an entropy bonus adds to the weight of each sampled token: scale * (-log-probability -
    entropy), [P].

    The gradient of a distribution's entropy is the expectation of -(log p) * grad log p over its
    own samples, so rare tokens weigh more and usual ones less (Williams and Peng, 1991). `entropy`
    [P], the mean of its trace, is a baseline: it lowers the noise and adds no bias.
    `scale` [P] is the bonus over the group's completion tokens.
    """
    return scale * (-log_probs.detach() - entropy)


# ---------- A gradient step: micro-batches of rows, an exchangeable loss, prompts shared or not.


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """One problem's share of a gradient step: its rollouts and their advantages [G]."""

    problem: Problem
    soft: torch.nn.Parameter | None  # a memory as in `Prompt`, float32; None: weights are trained
    traces: Sequence[Trace]
    advantages: Tensor
    entropy_bonus: float = 0.0


@dataclass(frozen=True, eq=False)
class Row:
    """One rollout of a gradient step, as a `TokenLoss` meets it."""

    group: int
    index: int  # in the traces of its group
    prompt: tuple[int, ...]  # read again for this row; () where all rows of a group share it
    ids: tuple[int, ...]
    weight: float  # advantage / completion tokens of the group
    bonus: float  # entropy bonus / completion tokens of the group
    entropy: float  # mean over its tokens

    def __len__(self) -> int:
        return len(self.prompt) + len(self.ids)


class TokenLoss(Protocol):
    """What each sampled token contributes to the loss."""

    def __call__(
        self,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        part: Sequence[Row],
        row_of: Tensor,
        temperature: float,
    ) -> Tensor:
        """Losses [P], float32. The final hidden states [P, H] predict `targets` [P] through the
        output matrix `head` [V, H]; token i belongs to part[row_of[i]]."""


def policy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    part: Sequence[Row],
    row_of: Tensor,
    temperature: float,
) -> Tensor:
    """The on-policy GRPO surrogate, a `TokenLoss`: -weight * log-probability of each token, [P].

    One gradient step is taken per batch of fresh rollouts, so the importance ratio is 1 and
    clipping never acts; what is left is REINFORCE with group-relative advantages. A token's weight
    is its advantage divided by the group's number of completion tokens (token mean, DAPO, arXiv
    2503.14476, eq. 12), plus the entropy bonus.
    """
    log_probs = token_log_probs(hidden, head, targets, temperature)
    weights, scale, entropy = torch.tensor(
        [(r.weight, r.bonus, r.entropy) for r in part], device=hidden.device
    ).T[:, row_of]
    return -(weights + entropy_weights(log_probs, entropy, scale)) * log_probs


def rows_of(
    groups: Sequence[RolloutGroup], prompts: Sequence[tuple[int, ...]] | None = None
) -> list[Row]:
    """The rows that have a gradient, shortest first. `prompts`: one a group, to be read for each
    of its rows. Rows of zero advantage are left out, unless there is an entropy bonus."""
    rows = []
    for n, group in enumerate(groups):
        total = sum(len(t.token_ids) for t in group.traces)
        bonus, prompt = group.entropy_bonus / max(total, 1), prompts[n] if prompts else ()
        for i, (t, a) in enumerate(zip(group.traces, group.advantages.tolist(), strict=True)):
            if (a != 0 or bonus) and t.token_ids:
                row = Row(n, i, prompt, t.token_ids, a / total, bonus, t.entropy or 0.0)
                rows.append(row)
    return sorted(rows, key=len)


def accumulate(
    rows: Sequence[Row],
    groups: int,
    states: Callable[[Sequence[Row]], tuple[Tensor, Tensor, Tensor]],
    head: Tensor,
    temperature: float,
    loss: TokenLoss,
    budget: int,
) -> Generator[tuple[int, int], None, list[float]]:
    """Add the rows' gradient to whatever `states` depends on, in micro-batches of at most `budget`
    padded tokens. Yields (rows done, rows); returns each group's loss.

    `states(part)` gives what `completion_states` gives, with a graph of its own. A temperature of
    0, greedy, is taken as 1.
    """
    losses, done = [0.0] * groups, 0
    yield done, len(rows)
    while done < len(rows):
        end = done + 1
        # sorted by length, so the newest row is the longest
        while end < len(rows) and (end + 1 - done) * len(rows[end]) <= budget:
            end += 1
        part = rows[done:end]
        with torch.enable_grad():
            hidden, targets, row_of = states(part)
            each = loss(hidden, head, targets, part, row_of, temperature or 1.0)  # [P]
            each.sum().backward()
        sums = torch.zeros(len(part), device=each.device).index_add(0, row_of, each.detach())
        for row, value in zip(part, sums.tolist(), strict=True):
            losses[row.group] += value
        done = end
        yield done, len(rows)
    return losses


def completion_states(
    body: Transformer, part: Sequence[Row], prompts: Prefilled | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What predicts the tokens of some rows: final hidden states [P, H], the tokens [P], and the
    row of each [P].

    `prompts`, one for each group, have been read already: their keys and values stand in front of
    the rows, and their last state predicts the first token. Else each row reads its own prompt.
    """
    device = body.device
    reads = [(*r.prompt, *r.ids[:-1]) for r in part]  # the last token is predicted and not read
    longest = max(map(len, reads))
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    counted = torch.zeros(len(part), longest + (prompts is not None), dtype=torch.bool)
    for i, (row, read) in enumerate(zip(part, reads, strict=True)):
        ids[i, : len(read)] = torch.tensor(read)
        first = 0 if prompts is not None else len(row.prompt) - 1
        counted[i, first : first + len(row.ids)] = True
    ids, counted = ids.to(device), counted.to(device)
    # Padding on the right needs no mask: no counted position looks to its right.
    positions = torch.arange(longest, device=device).expand(len(part), -1)
    visible = torch.ones_like(ids, dtype=torch.bool)
    past: Past = Collected()
    vectors = None
    hidden = torch.zeros(len(part), 0, body.hidden, dtype=body.flow, device=device)
    if prompts is not None:
        of = torch.tensor([r.group for r in part], device=device)
        positions = prompts.lengths[of][:, None] + positions
        visible = torch.cat((prompts.visible[of], visible), 1)
        past, hidden = Prefix(prompts.layers, of), prompts.hidden[:, -1][of][:, None]
        vectors = None if prompts.vectors is None else prompts.vectors[of]
    if longest:
        mask = causal_mask(visible, longest, body.flow)
        after = forward(body, body.embedding[ids].to(body.flow), positions, mask, past, vectors)
        hidden = torch.cat((hidden, after), 1)
    row_of = torch.arange(len(part), device=device)[:, None].expand_as(counted)[counted]
    targets = torch.tensor([t for r in part for t in r.ids], device=device)
    return hidden[counted], targets, row_of


FEWEST, MOST = 256, 16_384  # padded tokens of a micro-batch


def default_budget(body: Transformer) -> int:
    """Padded tokens of a micro-batch: few on a CPU, and on a CUDA GPU as many as fit."""
    if body.device.type == "cuda":
        return budget_in(body.spare, token_bytes(body))
    return FEWEST if body.device.type == "cpu" else MOST


def budget_in(free: int, token: int) -> int:
    """How many tokens, `token` bytes each, half of `free` bytes hold: FEWEST to MOST. The other
    half is for the backward pass, a chunk's logits, the mask, and the prompts, which run with their
    graph after the completions."""
    return min(MOST, max(FEWEST, free // 2 // token))


def token_bytes(body: Transformer) -> int:
    """An estimate of the bytes that all layers keep of one completion token for the backward pass.

    A layer keeps the inputs of its two norms (2 hidden), the rotated queries and keys ((heads +
    kv_heads) * head_dim), the output of attention (heads * head_dim, and a float32 a head), and the
    input of the gated activation (2 intermediate). The frozen products keep nothing. Each row keeps
    keys and values of its own, the prompt's in front: they count twice (4 kv_heads * head_dim), as
    if the prompt were as long as its completion. Llama-3.1-8B in bfloat16, 32 layers: (2 * 4096 +
    40 * 128 + 32 * 128 + 28672 + 4 * 8 * 128) * 2 + 32 * 4 = 100,480 bytes a layer, 3.2 MB in all.
    """
    d, wide = body.head_dim, len(body.layers[0].gate_up.weight)
    numbers = 2 * body.hidden + (2 * body.heads + body.kv_heads) * d + wide + 4 * body.kv_heads * d
    return len(body.layers) * (numbers * body.dtype.itemsize + 4 * body.heads)


@memory_errors
def policy_gradient(
    model: LanguageModel,
    groups: Sequence[RolloutGroup],
    temperature: float,
    *,
    budget: int | None = None,
    loss: TokenLoss = policy,
) -> Generator[tuple[int, int], None, list[float]]:
    """Add d loss / d memory to each group's `soft.grad`. Yields (rows done, rows); returns
    each group's loss.

    The prompts run first, without a graph. Their keys and values are leaves against which the
    completions run in micro-batches of at most `budget` padded tokens; then the prompts run again,
    with their graph, and the gradient that has gathered in the leaves goes back through them once.
    So activations never exceed one micro-batch or the prompts. This is exact: the completions see
    a soft prompt only through those keys and values and the prompt's last hidden state; layer
    vectors, which they also meet themselves, are one more leaf. What the
    model's own weights depend on, such as an adapter, gathers its gradient in both passes.
    """
    give_back()
    prompts = [Prompt(model.render(solve_messages(g.problem.text)), g.soft) for g in groups]
    bare = [Prompt(p.ids, None if p.soft is None else p.soft.detach()) for p in prompts]
    # nothing asks for a gradient here, but without it products are rounded
    with torch.enable_grad():
        filled = model.prefill(bare)
    layers = [tuple(t.detach().requires_grad_() for t in pair) for pair in filled.layers]
    hidden = filled.hidden[:, -1:].detach().requires_grad_()
    vectors = None if filled.vectors is None else filled.vectors.detach().requires_grad_()
    leaves = replace(filled, layers=layers, hidden=hidden, vectors=vectors)
    del filled
    states = partial(completion_states, model.body, prompts=leaves)
    head, room = model.body.head.weight, budget or default_budget(model.body)
    losses = yield from accumulate(
        rows_of(groups), len(groups), states, head, temperature, loss, room
    )
    with torch.enable_grad():
        filled = model.prefill(prompts)
    outputs = [*(t for pair in filled.layers for t in pair), filled.hidden[:, -1:]]
    inner = [*(t for pair in leaves.layers for t in pair), leaves.hidden]
    if filled.vectors is not None and leaves.vectors is not None:
        outputs, inner = [*outputs, filled.vectors], [*inner, leaves.vectors]
    pairs = [(out, leaf.grad) for out, leaf in zip(outputs, inner, strict=True)]
    reached = [(out, g) for out, g in pairs if g is not None and out.requires_grad]
    torch.autograd.backward([out for out, _ in reached], [grad for _, grad in reached])
    return losses
