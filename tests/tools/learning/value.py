"""A critic without labels: which of a model's traces will win a vote, read off the model's own
hidden states.

Every vote says of its traces which agreed with the majority. A linear value of the mean of a
trace's final hidden states, fitted to many votes within each problem, tells winners from losers of
problems that it has never seen. It is a memory of judgement: one vector [hidden], learnt from
experience, that costs nothing to read while sampling (`Means`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

RIDGE = 0.3  # relative to the mean variance of a hidden number
# of one problem: each trace's features [tokens, hidden]; rewards [traces]
Group = tuple[Sequence[np.ndarray], np.ndarray]


def running(states: np.ndarray) -> np.ndarray:
    """The mean of all states so far, [tokens, hidden] -> [tokens, hidden]."""
    return np.cumsum(states, 0, dtype=np.float64) / np.arange(1, len(states) + 1)[:, None]


def fit(groups: Sequence[Group], ridge: float = RIDGE, every: int = 3) -> np.ndarray:
    """Weights [hidden] of a linear value, by ridge regression within each problem.

    Features and rewards are centred by problem, so that how hard a problem is teaches nothing. Each
    trace counts alike, whatever its length; of its tokens every `every`-th is used.
    """
    size = groups[0][0][0].shape[1]
    left, right, total = np.zeros((size, size)), np.zeros(size), 0
    for features, rewards in groups:
        some = [f[::every].astype(np.float64) for f in features]
        share = np.concatenate([np.full(len(s), 1 / len(s)) for s in some])
        x = np.concatenate(some)
        y = np.concatenate([np.full(len(s), r) for s, r in zip(some, rewards, strict=True)])
        x, y = x - np.average(x, 0, share), y - np.average(y, weights=share)
        left += (x * share[:, None]).T @ x
        right += x.T @ (share * y)
        total += len(some)
    left, right = left / total, right / total
    return np.linalg.solve(left + ridge * np.trace(left) / size * np.eye(size), right)


class Means:
    """The mean of the final hidden states of each row of a batch: a `watch` of `rollouts.sample`.

    `every`: also what it was after every so many tokens, in `marks`; 0: only at the end.
    """

    def __init__(self, rows: int, hidden: int, every: int = 0) -> None:
        self.every, self.counts = every, torch.zeros(rows, dtype=torch.long)
        self._sums = torch.zeros(rows, hidden)
        self.marks: list[list[Tensor]] = [[] for _ in range(rows)]  # of each row, [hidden] each

    def __call__(self, live: list[int], hidden: Tensor) -> None:
        """The states [live rows, hidden] that predict the next token of these rows."""
        self._sums[live] += hidden.detach().float().cpu()
        self.counts[live] += 1
        if self.every:
            for row in live:
                if self.counts[row] % self.every == 0:
                    self.marks[row].append(self._sums[row] / self.counts[row])

    @property
    def ends(self) -> Tensor:
        """The means [rows, hidden] of all states so far."""
        return self._sums / self.counts.clamp(min=1)[:, None]
