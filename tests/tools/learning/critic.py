"""A value function of the model's own states, fitted to votes: which tokens turn a trace into a
winner or a loser.

A trace's advantage, given to each of its tokens alike, is mostly noise. A linear value of the final
hidden state, fitted over many problems within each problem, keeps what problems have in common; its
change from one token to the next is the token's advantage (temporal difference).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentmem.method.grpo import RolloutGroup, Row, completion_states, policy, policy_gradient
from latentmem.method.prompts import solve_messages
from latentmem.model.language_model import LanguageModel, Prompt
from tests.tools.learning.forms import KeyValues
from tests.tools.learning.plan import Lesson
from tests.tools.learning.train import drain
from tests.tools.learning.value import RIDGE, fit, running


@torch.enable_grad()  # exact products
def states_of(model: LanguageModel, lesson: Lesson) -> list[Tensor]:
    """Of each trace, the final hidden states [tokens, hidden], float16; the last one has read all
    but the last token."""
    filled = model.prefill([Prompt(model.render(solve_messages(lesson.problem.text)))])
    found: list[Tensor] = []
    for at in range(0, len(lesson.traces), 4):
        part = [
            Row(0, i, (), t.token_ids, 0.0, 0.0, 0.0)
            for i, t in enumerate(lesson.traces[at : at + 4])
        ]
        hidden, _, _ = completion_states(model.body, part, filled)
        found += [h.detach().half() for h in hidden.split([len(r.ids) for r in part])]
    return found


def collect(model: LanguageModel, lessons: Sequence[Lesson], work: Path) -> None:
    """The states of all lessons' traces, kept in `work`."""
    for i, lesson in enumerate(lessons):
        path = work / "states" / f"{lesson.problem.id}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(states_of(model, lesson), path)
            print(i + 1, lesson.problem.id, flush=True)


def rewards(lesson: Lesson) -> np.ndarray:
    """1 for each trace that agrees with the vote [traces]; a truncated trace does not."""
    return np.array([float(lesson.agrees(t)) for t in lesson.traces])


def advantages(values: np.ndarray, decay: float) -> np.ndarray:
    """Generalised advantages [tokens] (GAE, arXiv 1506.02438) of values [tokens], with no reward
    but the values' own rise.

    values[i] is known before token i is drawn; the last token has nothing behind it and gets 0.
    """
    found, after = np.zeros(len(values)), 0.0
    for i in range(len(values) - 2, -1, -1):
        found[i] = after = values[i + 1] - values[i] + decay * after
    return found


class Credited:
    """A `grpo.TokenLoss`: the policy's loss with a factor for each token.

    `credit`: of each group, the factors [tokens] of each trace.
    """

    def __init__(self, credit: Sequence[Sequence[Tensor]]) -> None:
        self.credit = credit

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
        factors = torch.cat([self.credit[r.group][r.index] for r in part])
        return policy(hidden, head, targets, part, row_of, temperature) * factors.to(hidden.device)


def out_of_fold(
    groups: Sequence[tuple[Sequence[np.ndarray], np.ndarray]], ridge: float, folds: int
) -> list[list[np.ndarray]]:
    """The values [tokens] of every trace by a critic that has not seen its problem."""
    averaged = [([running(s) for s in states], reward) for states, reward in groups]
    values: list[list[np.ndarray]] = [[] for _ in groups]
    for fold in range(folds):
        weights = fit([g for i, g in enumerate(averaged) if i % folds != fold], ridge)
        for i in range(fold, len(groups), folds):
            values[i] = [s @ weights for s in averaged[i][0]]
    return values


DECAY, FOLDS = 0.95, 6


def load_groups(work: Path, lessons: Sequence[Lesson]) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """What `collect` kept, with the rewards."""
    return [
        (
            [
                s.float().numpy()
                for s in torch.load(work / "states" / f"{one.problem.id}.pt", weights_only=True)
            ],
            rewards(one),
        )
        for one in lessons
    ]


def credited(model: LanguageModel, lessons: Sequence[Lesson], work: Path) -> None:
    """Of each lesson, the gradient of the policy loss with the critic's advantages, for keys and
    values; kept in `work`."""
    values = out_of_fold(load_groups(work, lessons), RIDGE, FOLDS)
    for i, (lesson, each) in enumerate(zip(lessons, values, strict=True)):
        path = work / "every" / f"{lesson.problem.id}-0-critic.npz"
        if path.exists():
            continue
        form = KeyValues(model)
        credit = [torch.from_numpy(advantages(v, DECAY)).float() for v in each]
        group = RolloutGroup(lesson.problem, None, lesson.traces, torch.ones(len(each)))
        drain(policy_gradient(form.model(model), [group], 0.8, loss=Credited([credit])))
        np.savez(path, kv=form.numbers.grad.flatten().numpy())
        print(i + 1, lesson.problem.id, float(form.numbers.grad.norm()), flush=True)
