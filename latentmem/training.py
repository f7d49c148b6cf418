"""The policy gradient of a batch of soft prompts, with each problem's prompt computed once and memory bounded."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .grpo import entropy_weights, policy_loss, token_log_probs
from .heap import give_back, roomy
from .model import LanguageModel, Prefilled, Prompt
from .prompts import solve_messages
from .records import Problem, Trace
from .tape import Tape
from .transformer import Body, Prefix, causal_mask, forward


@dataclass(frozen=True, eq=False)
class Lot:
    """One problem's share of a gradient step: its prompt parameter, its rollouts and their advantages [G]."""

    problem: Problem
    soft: torch.nn.Parameter  # [virtual tokens, hidden], float32
    traces: Sequence[Trace]
    advantages: Tensor
    tape: Tape | None = None  # what sampling these traces computed; its row of traces[i] is first_row + i
    first_row: int = 0
    entropy_bonus: float = 0.0


@dataclass(frozen=True, eq=False)
class _Row:
    lot: int
    ids: tuple[int, ...]
    weight: float  # advantage / completion tokens of the group
    bonus: float  # entropy bonus / completion tokens of the group
    entropy: float  # mean over its tokens
    taped: int  # its row on the lot's tape


FEWEST, MOST = 256, 16_384  # padded tokens of a micro-batch


def default_budget(body: Body) -> int:
    """Padded tokens of a micro-batch: few on a CPU, and on a CUDA GPU as many as its memory has room for."""
    if body.device.type == "cuda":
        return budget_in(body.spare, token_bytes(body))
    return FEWEST if body.device.type == "cpu" else MOST


def budget_in(free: int, token: int) -> int:
    """How many tokens, `token` bytes each, half of `free` bytes hold: FEWEST to MOST. The other half is for the way back,
    the logits of a chunk, the mask, and the prompts, which run with their graph when the completions are done."""
    return min(MOST, max(FEWEST, free // 2 // token))


def token_bytes(body: Body) -> int:
    """Bytes that all layers keep of one completion token until its gradient has gone back, by an estimate.

    A layer keeps the inputs of its two norms (2 hidden), the turned queries and keys ((heads + kv_heads) * head_dim), what
    attention gave (heads * head_dim, and a float32 a head), and what goes into the gated activation (2 intermediate). The
    frozen products keep nothing. Keys and values are kept for each row, the prompt's in front: they are counted twice
    (4 kv_heads * head_dim), as for a prompt as long as its completion. Llama-3.1-8B in bfloat16, 32 layers:
    (2 * 4096 + 40 * 128 + 32 * 128 + 28672 + 4 * 8 * 128) * 2 + 32 * 4 = 100,480 bytes a layer, 3.2 MB in all.
    """
    d, wide = body.head_dim, len(body.layers[0].gate_up.weight)
    numbers = 2 * body.hidden + (2 * body.heads + body.kv_heads) * d + wide + 4 * body.kv_heads * d
    return len(body.layers) * (numbers * body.dtype.itemsize + 4 * body.heads)


@roomy
def policy_gradient(model: LanguageModel, lots: Sequence[Lot], temperature: float, *,
                    budget: int | None = None) -> Generator[tuple[int, int], None, list[float]]:
    """Accumulate d loss / d soft prompt into each lot's `soft.grad`. Yields (rows done, rows); returns each lot's loss.

    The prompts are run first, without a graph. Their keys and values are leaves against which the completions run in
    micro-batches of at most `budget` padded tokens; then the prompts run again, with their graph, and the gradient that has
    gathered in the leaves goes back through them once. So activations never exceed one micro-batch or the prompts. This is
    exact: the completions see the soft prompt only through those keys and values and the prompt's last hidden state.
    Rows of zero advantage are skipped, unless there is an entropy bonus. `temperature` is that of sampling (0, greedy, is
    taken as 1).
    """
    if budget is None:
        budget = default_budget(model.body)
    rows = []
    for n, lot in enumerate(lots):
        total = sum(len(t.token_ids) for t in lot.traces)
        rows += [_Row(n, t.token_ids, a / total, lot.entropy_bonus / total, t.entropy or 0.0, lot.first_row + i)
                 for i, (t, a) in enumerate(zip(lot.traces, lot.advantages.tolist(), strict=True))
                 if (a != 0 or lot.entropy_bonus) and t.token_ids]
    tapes = {id(lot.tape) for lot in lots}
    assert len(tapes) <= 1, "the lots of one step were sampled in one batch"
    tape = lots[0].tape if lots else None
    rows.sort(key=lambda r: len(r.ids))
    give_back()
    losses, done = [0.0] * len(lots), 0
    yield done, len(rows)
    prompts = [Prompt(model.render(solve_messages(lot.problem.text)), lot.soft) for lot in lots]
    with torch.enable_grad():  # though nothing asks for a gradient here: without it, products may be rounded
        filled = model.prefill([Prompt(p.ids, lot.soft.detach()) for p, lot in zip(prompts, lots, strict=True)])
    leaves = [tuple(t.detach().requires_grad_() for t in pair) for pair in filled.layers]
    last = filled.hidden[:, -1].detach().requires_grad_()
    while done < len(rows):
        part = rows[done : done + 1]
        for row in rows[done + 1 :]:  # sorted by length, so the newest row is the longest
            if (len(part) + 1) * len(row.ids) > budget:
                break
            part.append(row)
        with torch.enable_grad():
            loss = _micro_batch(model, part, filled, leaves, last, temperature or 1.0, tape)
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
    torch.autograd.backward([o for o, g in zip(outputs, [*grads, through], strict=True) if g is not None],
                            [g for g in [*grads, through] if g is not None])
    return losses


def _micro_batch(model: LanguageModel, part: Sequence[_Row], filled: Prefilled, leaves: list[tuple[Tensor, ...]],
                 last: Tensor, temperature: float, tape: Tape | None) -> Tensor:
    """Loss of each row [n]. The first token is predicted by the prompt's last state, the others by the completion."""
    body = model.body
    device, longest = body.device, max(len(r.ids) for r in part)
    of = torch.tensor([r.lot for r in part], device=device)
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    for i, row in enumerate(part):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
    ids = ids.to(device)
    counted = torch.arange(longest, device=device)[None] < torch.tensor([len(r.ids) for r in part], device=device)[:, None]
    hidden = last[of][:, None]  # [n, 1, H]
    if longest > 1:
        positions = filled.lengths[of][:, None] + torch.arange(longest - 1, device=device)
        visible = torch.cat((filled.visible[of], counted.new_ones(len(part), longest - 1)), 1)
        mask = causal_mask(visible, longest - 1, body.dtype)
        # Right padding needs no mask: no counted position looks to its right.
        past = Prefix(leaves, of, tape, torch.tensor([r.taped for r in part]))
        after = forward(body, body.embedding[ids[:, :-1]], positions, mask, past)
        hidden = torch.cat((hidden, after), 1)
    row_of = torch.arange(len(part), device=device)[:, None].expand(-1, longest)[counted]
    log_probs = token_log_probs(hidden[counted], body.head.weight, ids[counted], temperature)  # [P]
    weights, scale, entropy = torch.tensor([(r.weight, r.bonus, r.entropy) for r in part], device=device).T[:, row_of]
    weights = weights + entropy_weights(log_probs, entropy, scale)
    return policy_loss(log_probs, weights, row_of, len(part))
