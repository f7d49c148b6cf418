"""How far the map may be believed, in words. Pure functions; no gradio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ..records import Hit, MemoryInfo
from .projection import Plane, nearest
from .views import count, percent, safe

SPACES = {"input": "the sentence embeddings", "kv": "the model's activations", "prompt": "the soft prompts"}


def trust(plane: Plane | None, n: int, *, space: str = "input", left_out: int = 0,
          measured: tuple[float, int] | None = None) -> Markup:
    """What the picture shows, and one number that says how far it is right."""
    if plane is None or n < 2:
        return Markup("")
    what = SPACES.get(space, "the keys")
    if plane.explained is not None:
        said = f"Two directions show {percent(plane.explained)} of the differences between {what}."
    else:
        said = f"Neighbours by {what} are kept together; distances between groups say little."
    if plane.beside:
        said += f" {count(plane.beside, 'memory', 'memories')} were placed beside their nearest."
    if left_out:
        said += f" {count(left_out, 'memory has', 'memories have')} no place here: of another model, or without such a key."
    return Markup('<p class="hint">{} {} The numbers on edges are the true similarities.</p>').format(said, _number(measured, n))


def _number(measured: tuple[float, int] | None, n: int) -> Markup:
    """The measure with its meaning: a meter with words, since few know the name."""
    if measured is None:
        return Markup("")
    value, rows = measured
    on = "" if rows == n else f", on a sample of {rows}"
    return Markup('<span class="trusted" title="1 when every memory that looks near is near in truth, about 0.5 for a picture '
                  'drawn by chance (Venna and Kaski 2001)"><b>Trustworthiness {:.2f}</b> '
                  "of 1 ({}{}).</span>").format(value, _meaning(value), on)


def _meaning(value: float) -> str:
    if value >= 0.95:
        return "near in the picture is near in truth"
    if value >= 0.85:
        return "near in the picture is mostly near in truth"
    if value >= 0.7:
        return "trust the picture with care"
    return "do not trust what looks near"


ALIKE = 0.005  # a lead in similarity that two digits do not show: two memories of one problem are equally near


def misleads(infos: Sequence[MemoryInfo], plane: Plane | None, origin: np.ndarray | None, hits: Sequence[Hit],
             chosen: int | None = None) -> Markup:
    """A warning where the memory that looks nearest to the star, or to the chosen memory, is not the most similar one.

    `infos[i]` lies at `plane.points[i]`. A memory in quarantine is no hit, so it may look nearest without a warning.
    """
    if plane is None or origin is None or not hits:
        return Markup("")
    seen = _nearest_usable(infos, plane, origin, chosen)
    if seen is None or infos[seen].id == hits[0].memory_id:
        return Markup("")
    there = next((h for h in hits if h.memory_id == infos[seen].id), None)
    if there is not None and hits[0].similarity - there.similarity < ALIKE:
        return Markup("")
    also = f" ({there.similarity:.2f})" if there is not None else ""
    return Markup('<p class="notice warn" role="alert">The picture misleads here: “{}”{} looks nearest, but the most similar '
                  "memory is “{}” ({:.2f}).</p>").format(safe(infos[seen].name), also, safe(hits[0].name), hits[0].similarity)


def _nearest_usable(infos: Sequence[MemoryInfo], plane: Plane, origin: np.ndarray, chosen: int | None) -> int | None:
    seen = nearest(plane.points, origin, without=chosen)
    if seen is None or not infos[seen].quarantined:
        return seen
    usable = np.array([i for i, info in enumerate(infos) if not info.quarantined and i != chosen], int)
    best = nearest(plane.points[usable], origin) if len(usable) else None
    return None if best is None else int(usable[best])
