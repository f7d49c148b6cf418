"""Self-distillation: the frozen model that sees a vote-winning attempt teaches the model that does
not, token by token.

The loss of a rollout's token is the Kullback-Leibler divergence between what the student predicts
and what the teacher predicts at that place, over the whole vocabulary (SDPO, arXiv 2601.20802, with
the majority vote in place of a verifier; no label is used). Teacher and student are one model with
one output matrix; the teacher's final hidden states are all that is kept of it, and the logits of
both exist for a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from latentmem.method.grpo import Row, completion_states
from latentmem.method.prompts import INSTRUCTION
from latentmem.model.language_model import LanguageModel, Prompt
from latentmem.records import Problem, Trace

Direction = Literal["reverse", "forward"]
CHUNK = 64  # positions whose logits exist at once
BUDGET = 1024  # padded tokens of a micro-batch of the teacher, which keeps no graph


def reference_messages(problem: str, solution: str) -> list[dict[str, str]]:
    """The teacher's chat: the problem with a finished attempt at it, or at another one."""
    return [
        {
            "role": "user",
            "content": (
                f"{problem.strip()}\n\nHere is a correct solution, for reference:\n\n{solution.strip()}\n\n"
                f"Now solve the problem again in your own words. {INSTRUCTION}"
            ),
        }
    ]


@torch.enable_grad()  # though nothing asks for a gradient: without it, products may be rounded
def teacher_states(
    model: LanguageModel,
    problem: Problem,
    messages: Sequence[dict[str, str]],
    traces: Sequence[Trace],
    soft: Tensor | None = None,
) -> list[Tensor]:
    """Of each trace, the final hidden states [tokens, hidden] that predict its tokens after the
    teacher's `messages`, with a soft prompt [virtual tokens, hidden] in front where one is given."""
    filled = model.prefill([Prompt(model.render(list(messages)), soft)])
    rows = [Row(0, i, (), t.token_ids, 0.0, 0.0, 0.0) for i, t in enumerate(traces)]
    longest = max(len(r.ids) for r in rows)
    some, found = max(1, BUDGET // longest), []
    for at in range(0, len(rows), some):
        part = rows[at : at + some]
        hidden, _, _ = completion_states(model.body, part, filled)
        found += [h.detach().clone() for h in hidden.split([len(r.ids) for r in part])]
    return found


class _Divergence(torch.autograd.Function):
    """KL between two distributions over the vocabulary at each position, chunk by chunk.

    With s = student @ head.T / temperature, p = softmax(s) and q the teacher's: the gradient of
    KL(p || q) with respect to s is p * (log p - log q - KL), that of KL(q || p) is p - q. Both are
    turned into hidden states while they exist.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        head: Tensor,
        temperature: float,
        direction: Direction,
        chunk: int,
    ) -> Tensor:
        out = torch.empty(len(student), dtype=torch.float32, device=student.device)
        jacobian = torch.empty_like(student) if student.requires_grad else None
        for lo in range(0, len(student), chunk):
            log_p, log_q = (
                (part[lo : lo + chunk] @ head.T).float().div_(temperature).log_softmax(-1)
                for part in (student, teacher)
            )
            p = log_p.exp()
            if direction == "reverse":
                apart = log_p.sub_(log_q)  # [chunk, V]
                divergence = torch.linalg.vecdot(p, apart)
                slope = p.mul_(apart.sub_(divergence[:, None])) if jacobian is not None else None
            else:
                q = log_q.exp()
                divergence = torch.linalg.vecdot(q, log_q.sub_(log_p))
                slope = p.sub_(q) if jacobian is not None else None
            out[lo : lo + chunk] = divergence
            if jacobian is not None:
                jacobian[lo : lo + chunk] = (slope.to(head.dtype) @ head) / temperature
        if jacobian is not None:
            ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # type: ignore[override]
        (jacobian,) = ctx.saved_tensors
        return jacobian * grad[:, None].to(jacobian.dtype), None, None, None, None, None


def divergence(
    student: Tensor,
    teacher: Tensor,
    head: Tensor,
    temperature: float = 1.0,
    direction: Direction = "reverse",
    chunk: int = CHUNK,
) -> Tensor:
    """KL(student || teacher) (`reverse`) or KL(teacher || student) (`forward`) of each position
    [P], in nats, float32.

    student, teacher: final hidden states [P, hidden]; head [V, hidden], frozen. Differentiable
    once, with respect to the student. Memory is two chunks of logits, [chunk, V].
    """
    assert student.shape == teacher.shape, (student.shape, teacher.shape)
    return _Divergence.apply(student, teacher, head, float(temperature), direction, chunk)


class Distillation:
    """A `grpo.TokenLoss`: each token's divergence from the teacher times its row's weight.

    `clip`: a token further from the teacher than this, in nats, pulls with the force of one that is
    as far as this, since a few pivotal tokens would else carry the whole gradient.
    `teacher`: of each group, the teacher's states of each trace (`teacher_states`).
    """

    def __init__(
        self,
        teacher: Sequence[Sequence[Tensor]],
        direction: Direction = "reverse",
        clip: float = float("inf"),
    ) -> None:
        self.teacher, self.direction, self.clip = teacher, direction, clip

    def __call__(
        self,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        part: Sequence[Row],
        row_of: Tensor,
        temperature: float,
    ) -> Tensor:
        """Losses [P], as `grpo.TokenLoss`."""
        teacher = torch.cat([self.teacher[r.group][r.index] for r in part]).to(hidden.dtype)
        apart = divergence(hidden, teacher, head, temperature, self.direction)
        weights = torch.tensor([r.weight for r in part], device=hidden.device)[row_of]
        with torch.no_grad():
            weights = weights * (self.clip / apart.clamp(min=1e-9)).clamp(max=1.0)
        return weights * apart
