"""The bank as the map and the lists need it: rows, and their keys projected onto a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records import KeyKind, MemoryInfo
from .projection import Plane, pca

if TYPE_CHECKING:
    from .session import Desk


@dataclass(frozen=True)
class Shelf:
    """`all` rows of the bank, newest first; `mapped[i]` lies at `plane.points[i]`."""

    all: tuple[MemoryInfo, ...]
    mapped: tuple[MemoryInfo, ...]
    plane: Plane | None


def shelf(desk: Desk, kind: KeyKind) -> Shelf:
    """The bank as it is now. The projection is computed once for the same memories.

    `kv` keys of different models cannot be compared, so the map then shows those of the model with most memories.
    """
    infos = tuple(desk.engine.bank.infos())
    if not infos:
        return Shelf((), (), None)
    models = [i.model for i in infos]
    model = max(dict.fromkeys(models), key=models.count) if kind == "kv" else None
    ids, keys = desk.engine.bank.keys(kind, model=model, include_quarantined=True)
    rows = {info.id: info for info in infos}
    known = [i for i, name in enumerate(ids) if name in rows]  # another process may have stored one just now
    names = tuple(ids[i] for i in known)
    cached = desk.planes.get(kind)
    if cached is None or cached[0] != names:
        desk.planes[kind] = cached = (names, pca(keys[known])) if names else (names, None)
    return Shelf(infos, tuple(rows[name] for name in names), cached[1])
