"""What the Memories panel knows of a bank, computed once for the same state: rows, tags, notes,
vectors, and pictures.

A picture has a `stamp`: the page holds the points of one stamp and is sent others only when the
stamp differs.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...bank import MemoryBank
from ...bank.notes import Note, notes, tags
from ...records import Hit, LatentmemError, MemoryInfo, Status, digest
from .projection import Plane, grown, place

Space = Literal["input", "kv", "prompt"]
MOST_SHOWN = 10_000  # points: beyond it a browser without a graphics card is no pleasure
ROOM = 2 << 30  # bytes for the vectors of soft prompts


@dataclass(frozen=True, eq=False)
class Rows:
    """The bank's table: all memories, newest first, with what people wrote about them."""

    infos: tuple[MemoryInfo, ...]
    tags: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, tuple[Note, ...]]

    @cached_property
    def by_id(self) -> dict[str, MemoryInfo]:
        return {i.id: i for i in self.infos}

    @cached_property
    def _texts(self) -> list[str]:
        def text(i: MemoryInfo) -> str:
            written = [*self.tags.get(i.id, ()), *(n.text for n in self.notes.get(i.id, ()))]
            own = (i.problem.text, i.label or "", i.problem.source, i.id, i.model_name)
            return " ".join((*own, *written)).casefold()

        return [text(i) for i in self.infos]

    def found(self, query: str) -> tuple[MemoryInfo, ...]:
        """Those in whose problem, answer, source, id, tags or notes every word of the query occurs,
        newest first."""
        if not (words := query.casefold().split()):
            return self.infos
        pairs = zip(self.infos, self._texts, strict=True)
        return tuple(i for i, text in pairs if all(w in text for w in words))


@dataclass(frozen=True, eq=False)
class Vectors:
    """Unit vectors [n, d] of memories, in the order of storing. Soft prompts are taken as their
    difference from the mean of all, flattened, since they all began as the same text."""

    names: tuple[str, ...]
    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class Sheet:
    """One picture: memory `names[i]` lies at `plane.points[i]`."""

    space: Space
    names: tuple[str, ...]
    plane: Plane
    fitted: frozenset[str]  # the memories that there were when the method last placed all of them
    # names of groups and trust, once they were asked for
    extras: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def shown(self) -> np.ndarray:
        """The rows that the page draws: all, or a fixed random sample of MOST_SHOWN."""
        n = len(self.names)
        if n <= MOST_SHOWN:
            return np.arange(n)
        return np.sort(np.random.default_rng(0).choice(n, MOST_SHOWN, replace=False))

    @cached_property
    def row(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def drawn(self) -> dict[str, int]:
        """The number of each memory among those that are drawn."""
        return {self.names[row]: i for i, row in enumerate(self.shown)}

    @cached_property
    def stamp(self) -> str:
        where = np.ascontiguousarray(self.plane.points).tobytes()
        return digest(self.space, self.plane.method, "\n".join(self.names), where)[:16]


class Atlas:
    """The pictures of one bank. Thread-safe. `like`: an atlas of a bank with the same memories, or
    nearly: pictures that fit are taken over, and none is computed twice."""

    def __init__(self, bank: MemoryBank, like: Atlas | None = None) -> None:
        self.bank = bank
        self._lock = threading.RLock()
        self.drawing = threading.Lock()  # held by whoever draws a picture at once
        self._rows: tuple[tuple[Any, Any], Rows] | None = None
        self._sheets: dict[tuple[str, str], tuple[Any, Sheet]] = {}
        self._prompts: Vectors | None = None
        if like is not None:
            with like._lock:
                self._sheets = {what: (None, sheet) for what, (_, sheet) in like._sheets.items()}
                self._prompts = like._prompts

    def rows(self, exact: bool = True) -> Rows:
        """The table as it is now; not `exact`: its counters, tags and notes may be those of a
        moment ago, so that a click on a map of 50,000 does not read them all again."""
        with self._lock:
            now = self.bank.memories_stamp(), self.bank.stamp()
            if self._rows is None or self._rows[0][0] != now[0] or (exact and self._rows[0] != now):
                self._rows = now, Rows(tuple(self.bank.infos()), tags(self.bank), notes(self.bank))
            return self._rows[1]

    def ready(self, space: Space, method: str) -> Sheet | None:
        """The picture, if it is there and the memories are the same."""
        with self._lock:
            seen, sheet = self._sheets.get((space, method), (None, None))
            now = self.bank.memories_stamp()
            if sheet is None or (seen != now and not self._still(sheet)):
                return None
            self._sheets[space, method] = now, sheet
            return sheet

    def _still(self, sheet: Sheet) -> bool:
        """Whether the bank has the same memories, although it was written to."""
        if sheet.space == "prompt":
            return _of_one_shape(self.rows(exact=False))[1] == set(sheet.names)
        return self._keys(sheet.space).names == sheet.names

    def sheet(self, space: Space, method: str) -> Generator[Status, None, Sheet]:
        """The picture of the memories as they are now, as the return value, with progress. Raises
        LatentmemError."""
        found = self.ready(space, method)
        if found is not None:
            return found
        now = self.bank.memories_stamp()
        with self._lock:
            _, old = self._sheets.get((space, method), (None, None))
        vectors = yield from self.vectors(space)
        names, more = vectors.names, None
        if old is not None and old.names != names and method != "pca":
            more = grown(old.plane, old.names, names, vectors.matrix, old.fitted)
        if old is not None and old.names == names:
            sheet = old
        elif old is not None and more is not None:
            sheet = Sheet(space, names, more, old.fitted)
        else:
            plane = yield from place(vectors.matrix, method)
            sheet = Sheet(space, names, plane, frozenset(names))
        with self._lock:
            self._sheets[space, method] = now, sheet
        return sheet

    def left_out(self, sheet: Sheet) -> int:
        """How many memories have no place in a picture: of another model, or without such a key."""
        return max(0, len(self.rows(exact=False).infos) - len(sheet.names))

    # -------------------------------------------------------------- vectors
    def vectors(self, space: Space) -> Generator[Status, None, Vectors]:
        """The vectors that a picture is made from. Those of different models cannot be compared, so
        `kv` and `prompt` are of the model with most memories. Raises LatentmemError for a space
        that there is not."""
        if space == "prompt":
            shape, ids = _of_one_shape(self.rows(exact=False))
            if self._prompts is None or set(self._prompts.names) != ids:
                self._prompts = yield from _prompt_vectors(self.bank, shape, ids)
            return self._prompts
        if space not in ("input", "kv"):
            raise LatentmemError(
                f"There is no map by {str(space)[:20]!r}: choose input, kv or prompt."
            )
        return self._keys(space)

    def _keys(self, space: Any) -> Vectors:
        model = None
        if space == "kv":
            models = [i.model for i in self.rows(exact=False).infos]
            model = max(dict.fromkeys(models), key=models.count) if models else None
        names, matrix = self.bank.keys(space, model=model, include_quarantined=True)
        return Vectors(tuple(names), matrix)

    def prompt_hits(self, memory_id: str, k: int = 5) -> tuple[Hit, ...]:
        """The memories whose soft prompts differ from the mean in the most similar direction, best
        first, quarantined ones left out."""
        known = self._prompts
        if known is None or memory_id not in known.names:
            return ()
        rows, me = self.rows().by_id, known.names.index(memory_id)
        similar = zip((known.matrix @ known.matrix[me]).tolist(), known.names, strict=True)
        usable = [(s, n) for s, n in similar if n in rows and not rows[n].quarantined]
        best = sorted((-s, n) for s, n in usable if n != memory_id)[: k + 1]
        after = [-s for s, _ in best[1:]] + [None]
        return tuple(
            Hit(n, rows[n].name, -s, i, None if (gap := after[i - 1]) is None else -s - gap)
            for i, (s, n) in enumerate(best[:k], 1)
        )


def _of_one_shape(rows: Rows) -> tuple[tuple[int, int], set[str]]:
    """((virtual tokens, hidden), ids) of the memories of the model and the shape that most have."""
    shapes = [(i.model, i.virtual_tokens, i.hidden) for i in rows.infos]
    if not shapes:
        return (0, 0), set()
    most = max(dict.fromkeys(shapes), key=shapes.count)
    return most[1:], {i.id for i, shape in zip(rows.infos, shapes, strict=True) if shape == most}


def _prompt_vectors(
    bank: Any, shape: tuple[int, int], wanted: set[str]
) -> Generator[Status, None, Vectors]:
    if len(wanted) * shape[0] * shape[1] * 4 > ROOM:
        raise LatentmemError(
            f"The soft prompts of {len(wanted):,} memories take more than {ROOM >> 30} GiB: choose "
            "another distance."
        )
    names: list[str] = []
    kept = np.empty((len(wanted), shape[0] * shape[1]), np.float32)
    for done, (name, prompt) in enumerate(bank.soft_prompts(), 1):
        if done % 500 == 0:
            yield Status("Reading the soft prompts", done, len(wanted))
        if name in wanted and len(names) < len(kept) and (len(prompt), prompt.shape[-1]) == shape:
            kept[len(names)] = prompt.ravel()
            names.append(name)
    kept = kept[: len(names)]
    kept -= kept.mean(axis=0) if names else 0
    kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return Vectors(tuple(names), kept)
