"""What decoding computed, kept for training: the outputs of the frozen matrices at every sampled
position.

One gradient step follows each batch of fresh rollouts, so the forward pass of training would
repeat, product by product, what decoding has just done. With the outputs kept, only the cheap parts
in between (norms, attention, activations) are computed again, and the backward pass needs the
matrices alone, not the inputs. Outputs are kept as float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .linear import Linear

LIMIT = (
    2 * 2**30
)  # bytes; a larger batch is not recorded, its training computes the forward pass again
HIGHEST = torch.finfo(torch.float16).max


class Tape:
    """Outputs [rows, positions, out] of each frozen matrix, written position by position while rows
    are sampled."""

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
            part = torch.from_numpy(
                np.zeros((self.rows, self.positions, out.shape[-1]), np.float16)
            )
            self._parts[key] = part
        values = out[:, 0].float().clamp(-HIGHEST, HIGHEST).half()
        if self._live is None:
            part[:, self._at] = values
        else:
            part[self._live, self._at] = values

    def read(
        self, key: tuple[int, str], rows: Tensor, positions: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The outputs of some rows at their first positions -> [rows, positions, n]; zeros after a
        row's end."""
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
    """`known` [..., out] as the product of x [..., in] with the frozen weight [out, in]: no
    arithmetic, exact gradient."""
    return _Recall.apply(x, weight, known)


class Past(Protocol):
    """What a forward pass stands on: what attention sees before the new positions, and who
    multiplies."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take the new keys and values [B, kv_heads, T, D] of a layer; return all of them, [B,
        kv_heads, S, D]."""

    def apply(self, layer: int, name: str, matrix: Linear, x: Tensor) -> Tensor:
        """The product of x [B, T, in] with a frozen matrix of a layer -> [B, T, out]."""
        return matrix(x)


class Collected(Past):
    """No past; keeps the keys and values of a forward pass, with their graph if there is one."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (
            k.contiguous(),
            v.contiguous(),
        )  # copies: as views they would keep the queries of every layer alive
        self.layers.append((k, v))
        return k, v


class Prefix(Past):
    """A past of given keys and values, one prefix row repeated for each row that continues it.

    With a tape, the products are those that decoding computed: `taped` [B] are the tape's rows.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        rows: Tensor,
        tape: Tape | None = None,
        taped: Tensor | None = None,
    ) -> None:
        self.layers, self.rows = layers, rows  # rows [B]: the prefix row that each row continues
        self.tape, self.taped = tape, taped

    def apply(self, layer: int, name: str, matrix: Linear, x: Tensor) -> Tensor:
        if self.tape is None:
            return matrix(x)
        return recall(
            x, matrix.weight, self.tape.read((layer, name), self.taped, x.shape[1], x.dtype)
        )

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        before_k, before_v = self.layers[layer]
        return torch.cat((before_k[self.rows], k), 2), torch.cat((before_v[self.rows], v), 2)


class KVCache(Past):
    """A static cache for decoding: written in place, compacted when rows finish. No gradients."""

    def __init__(
        self,
        prefix: Sequence[tuple[Tensor, Tensor]],
        rows: Tensor,
        room: int,
        tape: Tape | None = None,
    ) -> None:
        k = prefix[0][0]  # [G, kv_heads, P, D]
        self.length, self.tape = k.shape[2], tape
        shape = (len(rows), k.shape[1], self.length + room, k.shape[3])
        self.layers = []
        for before in prefix:
            pair = tuple(torch.empty(shape, dtype=k.dtype, device=k.device) for _ in before)
            for new, old in zip(pair, before, strict=True):
                new[:, :, : self.length] = old[rows]
            self.layers.append(pair)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.layers[layer]
        end = self.length + k.shape[2]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        if layer == len(self.layers) - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def apply(self, layer: int, name: str, matrix: Linear, x: Tensor) -> Tensor:
        out = matrix(x)
        if self.tape is not None:
            self.tape.write((layer, name), out)
        return out

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (indices into the present rows)."""
        for i, pair in enumerate(
            self.layers
        ):  # one layer after the other: two whole caches may not fit
            self.layers[i] = tuple(t[rows] for t in pair)
