"""The keys and values in front of a forward pass: none, those of prompts, or a decoding cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Past(Protocol):
    """The keys and values that attention sees before the new positions."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take a layer's keys and values [B, kv_heads, T, D]; return all, [B, kv_heads, S, D]."""


class Collected(Past):
    """No past; keeps the keys and values of a forward pass, with their graph if there is one."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        # copies: views would keep the queries of every layer alive
        k, v = k.contiguous(), v.contiguous()
        self.layers.append((k, v))
        return k, v


class Prefix(Past):
    """Given keys and values; rows [B] says which prefix each row continues."""

    def __init__(self, layers: Sequence[tuple[Tensor, ...]], rows: Tensor) -> None:
        self.layers, self.rows = layers, rows

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        before_k, before_v = self.layers[layer]
        return torch.cat((before_k[self.rows], k), 2), torch.cat((before_v[self.rows], v), 2)


class KVCache(Past):
    """A static cache for decoding: written in place, compacted when rows finish. No gradients."""

    def __init__(self, prefix: Sequence[tuple[Tensor, Tensor]], rows: Tensor, room: int) -> None:
        k = prefix[0][0]  # [G, kv_heads, P, D]
        self.length = k.shape[2]
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

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only (indices into the present rows)."""
        # one layer after the other: two whole caches may not fit
        for i, pair in enumerate(self.layers):
            self.layers[i] = tuple(t[rows] for t in pair)
