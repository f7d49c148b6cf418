"""What decoding computed, kept for training: the outputs of the frozen matrices at every sampled position.

One gradient step follows each batch of fresh rollouts, so the forward pass of training would repeat, product by product,
what decoding has just done. With the outputs kept, only the cheap parts in between (norms, attention, activations) are
computed again, and the backward pass needs the matrices alone, not the inputs. Outputs are kept as float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

LIMIT = 2 * 2**30  # bytes; a larger batch is not recorded, its training computes the forward pass again
HIGHEST = torch.finfo(torch.float16).max


class Tape:
    """Outputs [rows, positions, out] of each frozen matrix, written position by position while rows are sampled."""

    def __init__(self, rows: int, positions: int) -> None:
        self.rows, self.positions = rows, positions
        self._parts: dict[tuple[int, str], Tensor] = {}
        self._live: Tensor | None = None  # the rows being written, None: all
        self._at = 0

    @staticmethod
    def fits(rows: int, positions: int, outputs: int) -> bool:
        """True if a tape of that many rows, positions and outputs a position stays within LIMIT."""
        return rows * positions * outputs * 2 <= LIMIT

    def turn(self, live: list[int], position: int) -> None:
        """The next outputs are those of these rows (ascending) at this position."""
        self._live = None if len(live) == self.rows else torch.tensor(live)
        self._at = position

    def write(self, key: tuple[int, str], out: Tensor) -> None:
        """out [live rows, 1, n]"""
        part = self._parts.get(key)
        if part is None:  # calloc'ed: pages that no row reaches cost nothing, and read as zeros
            part = torch.from_numpy(np.zeros((self.rows, self.positions, out.shape[-1]), np.float16))
            self._parts[key] = part
        values = out[:, 0].float().clamp(-HIGHEST, HIGHEST).half()
        if self._live is None:
            part[:, self._at] = values
        else:
            part[self._live, self._at] = values

    def read(self, key: tuple[int, str], rows: Tensor, positions: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The outputs of some rows at their first positions -> [rows, positions, n]; zeros after a row's end."""
        return self._parts[key][rows, :positions].to(dtype)


class _Recall(torch.autograd.Function):
    """x @ weight.T + bias whose value is known already; differentiable with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return known

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return (grad.flatten(0, -2) @ weight).view(*grad.shape[:-1], -1), None, None


def recall(x: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """`known` [..., out] as the product of x [..., in] with the frozen weight [out, in]: no arithmetic, exact gradient."""
    return _Recall.apply(x, weight, known)
