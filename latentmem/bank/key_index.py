"""Exact search in RAM: the keys of one kind as matrices [n, d] that grow row by row.

A search sees a `View`, arrays that later puts do not touch, so it runs outside the bank's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..records import Hit, LatentmemError
from .serialization import KEY_DTYPE, MOST_KEY, bound, row_is_whole

# float32 products are off by up to about 1e-6: rows this close to the k-th are compared again in
# float64.
SLACK = 1e-5
CHUNK = 4096


@dataclass(frozen=True)
class View:
    """The memories of one key length at one moment. All columns have n entries, in the order of
    storing."""

    ids: list[str]  # shared with the block, which only appends: read [:n]
    names: list[str]
    matrix: np.ndarray  # [n, d] float32, unit rows, read-only
    models: np.ndarray  # [n] int32, codes
    sources: np.ndarray  # [n] int32, codes
    deleted: np.ndarray  # [n] bool
    quarantined: np.ndarray  # [n] bool
    row_of: dict[str, int]  # shared with the block: rows >= n are later than this view

    @property
    def n(self) -> int:
        return len(self.matrix)


class Block:
    """Keys of one length, in a buffer that doubles when it is full."""

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self.names: list[str] = []
        self.seqs: list[int] = []
        self.row_of: dict[str, int] = {}
        self._buffer = np.empty((0, dim), np.float32)
        self._codes = np.empty((2, 0), np.int32)
        self.deleted = np.zeros(0, bool)
        self.quarantined = np.zeros(0, bool)

    def append(self, keys: np.ndarray, labels: Sequence[tuple[int, str, str, int, int]]) -> None:
        """keys [m, d], unit rows; labels: (seq, id, name, model code, source code) each."""
        start, end = len(self.ids), len(self.ids) + len(keys)
        if end > len(self._buffer):
            # The first is as small as possible: a bank may hold long keys of many lengths.
            capacity = max(end, 2 * start)
            buffer = np.empty((capacity, keys.shape[1]), np.float32)
            codes = np.empty((2, capacity), np.int32)
            buffer[:start], codes[:, :start] = self._buffer[:start], self._codes[:, :start]
            self._buffer, self._codes = buffer, codes
        self._buffer[start:end] = keys
        for row, (seq, ident, name, model, source) in enumerate(labels, start):
            self.seqs.append(seq)
            self.ids.append(ident)
            self.names.append(name)
            self.row_of[ident] = row
            self._codes[:, row] = model, source
        fresh = np.zeros(len(keys), bool)
        self.deleted = np.concatenate([self.deleted, fresh])
        self.quarantined = np.concatenate([self.quarantined, fresh])

    def mark(self, *, alive: set[int] | None, quarantined: Collection[str]) -> None:
        """New masks instead of changed ones, because views share them. `alive`: the seqs that still
        exist."""
        if alive is not None:
            self.deleted = np.array([seq not in alive for seq in self.seqs], bool)
        self.quarantined = np.zeros(len(self.ids), bool)
        self.quarantined[[self.row_of[i] for i in quarantined if i in self.row_of]] = True

    def view(self) -> View:
        n = len(self.ids)
        matrix = self._buffer[:n]
        matrix.flags.writeable = False
        return View(
            self.ids,
            self.names,
            matrix,
            self._codes[0, :n],
            self._codes[1, :n],
            self.deleted,
            self.quarantined,
            self.row_of,
        )


@dataclass
class KeyIndex:
    """All keys of one kind. `last_seq` and `stored` say how far into the bank it has read."""

    kind: str
    blocks: dict[int, Block] = field(default_factory=dict)  # by key length d
    codes: dict[str, int] = field(default_factory=dict)  # model or source -> code
    last_seq: int = 0
    stored: int = 0  # rows seen and not deleted, damaged ones included

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """rows: those of the memories, each with its `key` and `key_sha256`. One that is damaged is
        left out: `verify` names it."""
        found: dict[int, tuple[list[np.ndarray], list[tuple[int, str, str, int, int]]]] = {}
        for row in rows:
            self.last_seq = max(self.last_seq, row["seq"])
            self.stored += 1
            if not row_is_whole(row) or (key := self._decode(row)) is None:
                continue
            keys, labels = found.setdefault(len(key), ([], []))
            keys.append(key)
            codes = self._code(row["model"]), self._code(row["source"])
            labels.append((row["seq"], row["id"], row["name"], *codes))
        for dim, (keys, labels) in found.items():
            rows_of_dim = np.stack(keys).astype(np.float32)
            norms = np.linalg.norm(rows_of_dim, axis=1)
            good = np.flatnonzero(np.isfinite(norms) & (norms > 0))
            if not good.size:
                continue
            # Rounding to float16 shortened some keys a little: cosine needs them at length 1.
            units = rows_of_dim[good] / norms[good, None]
            self.blocks.setdefault(dim, Block(dim)).append(units, [labels[i] for i in good])

    def mark(self, alive: set[int] | None, quarantined: Collection[str]) -> None:
        if alive is not None:
            self.stored = len(alive)
        for block in self.blocks.values():
            block.mark(alive=alive, quarantined=quarantined)
        self.blocks = {dim: block for dim, block in self.blocks.items() if not block.deleted.all()}

    def views(self) -> dict[int, View]:
        return {dim: block.view() for dim, block in self.blocks.items()}

    def _code(self, label: str) -> int:
        return self.codes.setdefault(label, len(self.codes))

    def _decode(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """The key in a row, None if its checksum is wrong. `save_key` writes 8 bytes of header
        length, the header and the numbers; reading that directly is ten times faster than the
        general reader."""
        data = row["key"]
        if bound(row["id"], self.kind, data) != row["key_sha256"]:
            return None
        dtype = np.dtype(KEY_DTYPE[self.kind])
        start = 8 + int.from_bytes(data[:8], "little")
        whole = start < len(data) and (len(data) - start) % dtype.itemsize == 0
        # An older latentmem accepted longer ones.
        fits = len(data) - start <= MOST_KEY * dtype.itemsize
        return np.frombuffer(data, dtype, offset=start) if whole and fits else None


def allowed(
    view: View,
    codes: dict[str, int],
    *,
    model: str | None,
    source: str | None,
    exclude: Collection[str],
    include_quarantined: bool,
) -> np.ndarray:
    """[n] bool: the rows a search may return."""
    mask = ~view.deleted
    if not include_quarantined:
        mask &= ~view.quarantined
    for label, column in ((model, view.models), (source, view.sources)):
        if label is not None:
            mask &= column == codes.get(label, -1)
    for ident in exclude:
        row = view.row_of.get(ident, view.n)
        if row < view.n:
            mask[row] = False
    return mask


def nearest(view: View, key: np.ndarray, k: int, mask: np.ndarray) -> tuple[Hit, ...]:
    """The k allowed rows of highest cosine with key [d], ties by id; the margin of each is its lead
    over the next.

    Exact: float32 products find the candidates, float64 cosines order them, so that equal keys are
    equal whatever the order in which BLAS adds.
    """
    count = int(mask.sum())
    if not count:
        return ()
    query = key.astype(np.float64)
    query /= np.linalg.norm(query)
    rough = view.matrix @ query.astype(np.float32)
    rough[~mask] = -np.inf
    take = min(k + 1, count)  # one more, for the margin of the last
    threshold = rough[np.argpartition(rough, view.n - take)[view.n - take]]
    rows = np.flatnonzero(rough >= threshold - SLACK)
    exact = np.concatenate(
        [_cosines(view.matrix[rows[i : i + CHUNK]], query) for i in range(0, len(rows), CHUNK)]
    )
    best = sorted(zip(-exact, (view.ids[r] for r in rows), rows, strict=True), key=lambda t: t[:2])[
        :take
    ]
    similarity = [float(-negative) for negative, _, _ in best]
    return tuple(
        Hit(
            ident,
            view.names[row],
            similarity[i],
            i + 1,
            similarity[i] - similarity[i + 1] if i + 1 < take else None,
        )
        for i, (_, ident, row) in enumerate(best[:k])
    )


def _cosines(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    exact = rows.astype(np.float64)
    return np.clip((exact * query).sum(axis=1) / np.sqrt((exact * exact).sum(axis=1)), -1.0, 1.0)


class OtherKeys(LatentmemError):
    """A search key that fits no key of the bank: another embedder or model made those."""


def check_query(key: np.ndarray, k: int) -> np.ndarray:
    """The query as a vector [d]. Raises LatentmemError."""
    vector = np.asarray(key)
    if (
        vector.dtype.kind != "f"
        or vector.ndim != 1
        or not np.isfinite(vector).all()
        or not vector.any()
    ):
        raise LatentmemError(
            f"The search key ({vector.dtype} {vector.shape}) is not one finite vector [d] other "
            "than zero: compute it again."
        )
    if k < 1:
        raise LatentmemError(f"k = {k} asks for no memory: use 1 or more.")
    return vector
