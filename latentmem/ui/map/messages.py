"""The map as plain JSON for `map_view.js`: the points once, and then only what changes. Pure
functions; no gradio.

Five small messages make the picture. `points`: where the memories lie; sent when another picture is
wanted. `paint`: one byte a point, and what each of its values looks like. `mark`: a plotly figure
with the star, the edges to its hits and the open memory. `lit`: one bit a point, which of them a
search found. `extras`: names of groups, density. Each carries the stamp of the picture it belongs
to.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from markupsafe import Markup

from ...records import Hit, MemoryInfo
from ..views.html import count, percent, safe
from .atlas import bits_of
from .projection import Group, Plane, nearest

COLOURS = (
    "theme:blue",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#B8A800",
)  # Okabe and Ito
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "pentagon")
GREY, QUARANTINED, UNTAGGED = "#8a8f98", "quarantined", "no tag"
COLOUR_BY = {
    "Data set": "source",
    "Agreement": "agreement",
    "Helped − hurt": "helped",
    "Age": "age",
    "Tags": "tags",
}
SCALE = (
    (0.0, "#0072B2"),
    (0.5, "#A9ADB3"),
    (1.0, "#E69F00"),
)  # blue to orange, told apart without red and green
LEVELS = 64  # of a colour scale
# colours and symbols that can be told apart with a glance at the legend; the rest are "other"
MOST_GROUPS = 27


def map_figure(
    infos: Sequence[MemoryInfo],
    plane: Plane | None,
    *,
    stamp: str = "",
    colour_by: str = "source",
    tags: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """All that a page without a picture is sent: `plane.points[i]` belongs to `infos[i]`."""
    if plane is None:
        return {"points": None, "paint": None}
    return {
        "points": points(infos, plane.points, stamp),
        "paint": paint(infos, tags or {}, colour_by, stamp),
    }


# ------------------------------------------------------------------ points
def points(infos: Sequence[MemoryInfo], where: np.ndarray, stamp: str) -> dict[str, Any]:
    """Coordinates as one string of float32 pairs, ids and names as one string each: long lists of
    small values are slow on their way through the page."""
    return {
        "stamp": stamp,
        "n": len(infos),
        "xy": packed(np.asarray(where, "<f4").tobytes()),
        "ids": "\n".join(i.id for i in infos),
        "names": "\n".join(point_words(i) for i in infos),
    }


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def point_words(i: MemoryInfo) -> str:
    """A point in words: what a pointer over it shows, and what a screen reader says. Plain text,
    one line."""
    text = f"{i.name} → {_short(i.label or 'no answer', 30)}"
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _short(text: str, width: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


# ------------------------------------------------------------------ colours
def paint(
    infos: Sequence[MemoryInfo], tags: Mapping[str, tuple[str, ...]], colour_by: str, stamp: str
) -> dict[str, Any]:
    """One byte a point and the legend: `groups` (name, colour, symbol, how many), or a `scale` from
    low to high."""
    if colour_by in ("source", "tags"):
        names = [_source(i) if colour_by == "source" else _tag(i, tags) for i in infos]
        codes, groups = _grouped(names)
        return {"stamp": stamp, "codes": packed(codes.tobytes()), "groups": groups, "scale": None}
    values, title = _values(infos, colour_by)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if colour_by == "helped":
        high = max(1.0, abs(low), abs(high))
        low = -high
    codes = (
        np.round((values - low) / max(high - low, 1e-9) * (LEVELS - 1))
        .clip(0, LEVELS - 1)
        .astype(np.uint8)
    )
    words = [_number(low, colour_by), _number(high, colour_by)]
    return {
        "stamp": stamp,
        "codes": packed(codes.tobytes()),
        "groups": [],
        "scale": {
            "title": title,
            "low": words[0],
            "high": words[1],
            "colours": scale_colours(LEVELS),
        },
    }


def _source(i: MemoryInfo) -> str:
    return QUARANTINED if i.quarantined else i.problem.source or "typed"


def _tag(i: MemoryInfo, tags: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(tags.get(i.id, ())) or UNTAGGED


def _grouped(names: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(code of each, legend): the largest groups first, grey ones last, beyond MOST_GROUPS one
    group of all others.

    Beyond the palette the colours come again with other symbols, so that no two groups look the
    same.
    """
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    dull = (UNTAGGED, QUARANTINED)
    order = sorted(sizes, key=lambda n: (n in dull, -sizes[n], n))
    kept, rest = (
        [n for n in order if n not in dull][:MOST_GROUPS],
        [n for n in order if n not in dull][MOST_GROUPS:],
    )
    legend = [
        {
            "name": _shown(n),
            "colour": COLOURS[i % len(COLOURS)],
            "count": sizes[n],
            "symbol": SYMBOLS[(i + i // len(COLOURS)) % len(SYMBOLS)],
        }
        for i, n in enumerate(kept)
    ]
    code = {n: i for i, n in enumerate(kept)}
    if rest:
        code |= dict.fromkeys(rest, len(legend))
        legend.append(
            {
                "name": f"{len(rest)} others",
                "colour": GREY,
                "symbol": "circle",
                "count": sum(sizes[n] for n in rest),
            }
        )
    for name in [n for n in order if n in dull]:
        code[name] = len(legend)
        legend.append(
            {
                "name": name,
                "colour": GREY,
                "symbol": "x" if name == QUARANTINED else "circle",
                "count": sizes[name],
            }
        )
    return np.fromiter((code[n] for n in names), np.uint8, len(names)), legend


def _shown(name: str) -> str:
    return _short(name.rsplit("/", 1)[-1], 40).encode("utf-8", "replace").decode()


def scale_colours(n: int) -> list[str]:
    """n colours of SCALE, evenly spaced, as #rrggbb."""
    stops = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for _, c in SCALE], float)
    at = np.linspace(0, 1, n)
    rgb = (
        np.stack([np.interp(at, [s for s, _ in SCALE], stops[:, k]) for k in range(3)], axis=1)
        .round()
        .astype(int)
    )
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb]


def _values(infos: Sequence[MemoryInfo], colour_by: str) -> tuple[np.ndarray, str]:
    if colour_by == "agreement":
        return np.array([i.majority_ratio for i in infos], float), "Agreement of the vote"
    if colour_by == "helped":
        return np.array(
            [i.counters.helped - i.counters.hurt for i in infos], float
        ), "Helped − hurt"
    days = np.array([_day(i.created) for i in infos], float)
    return (days.max() - days if len(days) else days), "Days older than the newest"


def _number(value: float, colour_by: str) -> str:
    if colour_by == "agreement":
        return percent(value)
    return (
        f"{value:+.0f}".replace("-", "−")
        if colour_by == "helped"
        else f"{value:.1f}"
        if 0 < value < 10
        else f"{value:.0f}"
    )


def _day(created: str) -> float:
    try:
        return datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() / 86400
    except ValueError:  # a bank made elsewhere may carry no date
        return 0.0


# ------------------------------------------------------------------ star, edges, the open memory
def mark(
    stamp: str,
    n: int,
    where: Mapping[str, np.ndarray],
    *,
    chosen: str = "",
    star: np.ndarray | None = None,
    star_text: str = "",
    hits: Sequence[Hit] = (),
    row: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """A plotly figure to lie under the points: dashed edges from the star (a typed problem), or
    else from the chosen memory, to `hits`, each with its similarity in the original space.
    `where` has the points of those named.

    `lit` are the rows that stay bright while the others are dimmed.
    """
    data: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    origin = star if star is not None else where.get(chosen)
    ends = [(h, where[h.memory_id]) for h in hits if h.memory_id in where]
    if origin is not None and ends:
        data.append(_edges(origin, ends, annotations))
    if star is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "your problem",
                "x": [float(star[0])],
                "y": [float(star[1])],
                "hoverinfo": "skip",
                "marker": {"size": 1, "opacity": 0},
            }
        )
    rows = row or {}
    lit = [rows[h.memory_id] for h, _ in ends] + ([rows[chosen]] if chosen in rows else [])
    return {
        "stamp": stamp,
        "data": data,
        "layout": {"annotations": annotations},
        "chosen": rows.get(chosen, -1),
        "lit": lit if ends or chosen in rows else [],
        "star": None if star is None else [float(v) for v in star],
        "star_text": _short(star_text).encode("utf-8", "replace").decode()
        if star is not None
        else "",
        "words": map_words(n, star is not None, hits),
    }


def _edges(
    origin: np.ndarray, ends: Sequence[tuple[Hit, np.ndarray]], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """One dashed line for all hits, and a label with the similarity beyond each hit and its ring,
    where no other edge runs."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for h, (x, y) in ends:
        xs += [float(origin[0]), float(x), None]
        ys += [float(origin[1]), float(y), None]
        away = np.array([x, y], float) - np.asarray(origin, float)
        away = away / length if (length := float(np.hypot(*away))) > 1e-12 else np.array([0.0, 1.0])
        annotations.append(
            {
                "x": float(x),
                "y": float(y),
                "xshift": round(float(34 * away[0]), 1),
                "yshift": round(float(28 * away[1]), 1),
                "text": f"{h.similarity:.2f}",
                "showarrow": False,
                "bgcolor": "theme:label",
                "borderpad": 1,
                "font": {"size": 12.5},
            }
        )
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "edges",
        "x": xs,
        "y": ys,
        "hoverinfo": "skip",
        "showlegend": False,
        "line": {"color": "theme:ink", "width": 1.5, "dash": "dash"},
    }


def map_words(n: int, star: bool, hits: Sequence[Hit]) -> str:
    """The map for a screen reader."""
    said = f"Map of {n} memories"
    return said + (
        f", your problem joined to the {len(hits)} most similar" if star and hits else ""
    )


# ------------------------------------------------------------------ search, groups, density
def lit(rows: Sequence[int], n: int, stamp: str) -> dict[str, Any]:
    """The points that a search found."""
    return {"stamp": stamp, "bits": packed(bits_of(rows, n)), "count": len(rows)}


def extras(found: Sequence[Group], dense: Mapping[str, Any] | None, stamp: str) -> dict[str, Any]:
    """Names of groups as plotly annotations, and the density as a plotly contour; the page shows
    either when asked."""
    names = [
        {
            "x": g.x,
            "y": g.y,
            "text": str(safe(" · ".join(g.words))),
            "showarrow": False,
            "bgcolor": "theme:label",
            "borderpad": 3,
            "font": {"size": 13, "color": "theme:ink"},
        }
        for g in found
    ]
    contour = (
        None
        if dense is None
        else {
            **dense,
            "type": "contour",
            "hoverinfo": "skip",
            "showscale": False,
            "name": "density",
            "contours": {"start": 0.08, "end": 0.98, "size": 0.15, "coloring": "fill"},
            "line": {"width": 0.6, "color": "theme:soft"},
            "colorscale": [[0, "rgba(0,114,178,0.06)"], [1, "rgba(0,114,178,0.42)"]],
        }
    )
    return {"stamp": stamp, "labels": names, "density": contour}


# ---------- How far the map may be believed, in words. Pure functions; no gradio.

SPACES = {
    "input": "the sentence embeddings",
    "kv": "the model's activations",
    "prompt": "the soft prompts",
}


def trust(
    plane: Plane | None,
    n: int,
    *,
    space: str = "input",
    left_out: int = 0,
    measured: tuple[float, int] | None = None,
) -> Markup:
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
        said += (
            f" {count(left_out, 'memory has', 'memories have')} no place here: of another "
            "model, or without such a key."
        )
    return Markup(
        '<p class="hint">{} {} The numbers on edges are the true similarities.</p>'
    ).format(said, _trust_number(measured, n))


def _trust_number(measured: tuple[float, int] | None, n: int) -> Markup:
    """The measure with its meaning: a meter with words, since few know the name."""
    if measured is None:
        return Markup("")
    value, rows = measured
    on = "" if rows == n else f", on a sample of {rows}"
    return Markup(
        '<span class="trusted" title="1 when every memory that looks near is near in truth, about '
        '0.5 for a picture drawn by chance (Venna and Kaski 2001)"><b>Trustworthiness {:.2f}</b> '
        "of 1 ({}{}).</span>"
    ).format(value, _meaning(value), on)


def _meaning(value: float) -> str:
    if value >= 0.95:
        return "near in the picture is near in truth"
    if value >= 0.85:
        return "near in the picture is mostly near in truth"
    if value >= 0.7:
        return "trust the picture with care"
    return "do not trust what looks near"


# a lead in similarity that two digits do not show: two memories of one problem are equally near
ALIKE = 0.005


def misleads(
    infos: Sequence[MemoryInfo],
    plane: Plane | None,
    origin: np.ndarray | None,
    hits: Sequence[Hit],
    chosen: int | None = None,
) -> Markup:
    """A warning where the memory that looks nearest to the star, or to the chosen memory, is not
    the most similar one.

    `infos[i]` lies at `plane.points[i]`. A memory in quarantine is no hit, so it may look nearest
    without a warning.
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
    return Markup(
        '<p class="notice warn" role="alert">The picture misleads here: “{}”{} looks nearest, but '
        "the most similar "
        "memory is “{}” ({:.2f}).</p>"
    ).format(safe(infos[seen].name), also, safe(hits[0].name), hits[0].similarity)


def _nearest_usable(
    infos: Sequence[MemoryInfo], plane: Plane, origin: np.ndarray, chosen: int | None
) -> int | None:
    seen = nearest(plane.points, origin, without=chosen)
    if seen is None or not infos[seen].quarantined:
        return seen
    usable = np.array(
        [i for i, info in enumerate(infos) if not info.quarantined and i != chosen], int
    )
    best = nearest(plane.points[usable], origin) if len(usable) else None
    return None if best is None else int(usable[best])
