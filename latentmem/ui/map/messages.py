"""The map as plain JSON for `map.js`: the points once, and then only what changes. Pure functions,
without gradio.

Five small messages make the picture. `points`: where the memories lie; sent when another picture is
wanted. `paint`: a colour for each point, and the legend. `mark`: plotly traces and annotations for
the star, the edges to its hits and the open memory. `lit`: which points a search found. `extras`:
the names of groups. Each carries the stamp of the picture it belongs to.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from ...records import Hit, MemoryInfo
from ..views.html import count, percent, short, whole
from .projection import Group, Plane

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
# blue to orange, told apart without red and green
SCALE = ((0.0, "#0072B2"), (0.5, "#A9ADB3"), (1.0, "#E69F00"))
# colours and symbols that can be told apart with a glance at the legend; the rest are "others"
MOST_GROUPS = 27
WIDE = 56  # characters in a line of the box beside the pointer


def map_figure(
    infos: Sequence[MemoryInfo],
    plane: Plane,
    *,
    stamp: str = "",
    colour_by: str = "source",
    tags: Mapping[str, tuple[str, ...]] | None = None,
    shown: np.ndarray | None = None,
) -> dict[str, Any]:
    """The messages that draw a map without one: `plane.points[i]` belongs to `infos[i]`. `shown`:
    the rows that are drawn, if not all."""
    rows = np.arange(len(infos)) if shown is None else shown
    x, y = (np.round(plane.points[rows, axis].astype(float), 5).tolist() for axis in (0, 1))
    painted = paint(infos, tags or {}, colour_by, stamp, rows)
    some = [infos[i] for i in rows]
    names = [point_words(i) for i in some]
    return {
        "points": {"stamp": stamp, "ids": [i.id for i in some], "names": names, "x": x, "y": y},
        "paint": painted,
    }


def point_words(i: MemoryInfo) -> str:
    """A point in words, for the box beside the pointer and for a screen reader: a few lines of the
    markup that plotly knows, with foreign text escaped."""
    return lines_of(f"{i.name} → {short(i.label or 'no answer', 30)}")


def lines_of(text: str) -> str:
    """Escaped text in the lines that plotly draws."""
    lines = textwrap.wrap(" ".join(whole(text).split()), WIDE)
    return " <br>".join(map(escape, lines)) or "…"


# ------------------------------------------------------------------ colours
def paint(
    infos: Sequence[MemoryInfo],
    tags: Mapping[str, tuple[str, ...]],
    colour_by: str,
    stamp: str,
    shown: np.ndarray,
) -> dict[str, Any]:
    """`codes`: for each point that is shown the number of its group, with `groups` (name, colour,
    symbol, how many in the bank), or a value on a `scale`, which is plotly's colour scale."""
    if colour_by in ("source", "tags"):
        names = [_tag(i, tags) if colour_by == "tags" else _source(i) for i in infos]
        codes, groups = _grouped(names)
        return {"stamp": stamp, "codes": codes[shown].tolist(), "groups": groups, "scale": None}
    values, title = _values(infos, colour_by)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if colour_by == "helped":
        high = max(1.0, abs(low), abs(high))
        low = -high
    bar = {
        "title": {"text": title, "side": "top", "font": {"size": 13}},
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": 0,
        "yanchor": "top",
        "len": 0.5,
        "thickness": 10,
        "tickformat": {"agreement": ".0%", "helped": "+.0f"}.get(colour_by, "~g"),
        "nticks": 5,
    }
    scale = {
        "colorscale": SCALE,
        "cmin": low,
        "cmax": max(high, low + 1e-9),
        "showscale": True,
        "colorbar": bar,
    }
    codes = np.round(values[shown], 4).tolist()
    return {"stamp": stamp, "codes": codes, "groups": [], "scale": scale}


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
    sizes, code, legend = Counter(names), dict[str, int](), list[dict[str, Any]]()
    order = sorted(sizes, key=lambda n: (-sizes[n], n))
    named = [n for n in order if n not in (UNTAGGED, QUARANTINED)]
    dull = [n for n in order if n in (UNTAGGED, QUARANTINED)]

    def group(name: str, colour: str, symbol: str, *those: str) -> None:
        code.update(dict.fromkeys(those, len(legend)))
        size = sum(sizes[n] for n in those)
        legend.append({"name": name, "colour": colour, "symbol": symbol, "count": size})

    for i, n in enumerate(named[:MOST_GROUPS]):
        symbol = SYMBOLS[(i + i // len(COLOURS)) % len(SYMBOLS)]
        shown = str(escape(whole(short(n.rsplit("/", 1)[-1], 40))))
        group(shown, COLOURS[i % len(COLOURS)], symbol, n)
    if rest := named[MOST_GROUPS:]:
        group(f"{len(rest)} others", GREY, "circle", *rest)
    for n in dull:
        group(n, GREY, "x" if n == QUARANTINED else "circle", n)
    return np.fromiter((code[n] for n in names), int, len(names)), legend


def _values(infos: Sequence[MemoryInfo], colour_by: str) -> tuple[np.ndarray, str]:
    if colour_by == "agreement":
        return np.array([i.majority_ratio for i in infos], float), "Agreement of the vote"
    if colour_by == "helped":
        values = [i.counters.helped - i.counters.hurt for i in infos]
        return np.array(values, float), "Helped − hurt"
    days = np.array([_day(i.created) for i in infos], float)
    return (days.max() - days if len(days) else days), "Days older than the newest"


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
    """Dashed edges from the star (a typed problem), or else from the memory `chosen`, to `hits`,
    each with its similarity in the original space. `where` has the points of those named, `row`
    their numbers among the points that are drawn: one that is not drawn gets a point here.

    `lit` are the rows that stay bright while the others are dimmed, `frame` the ranges of x and y
    that show the star and its hits.
    """
    origin, rows = star if star is not None else where.get(chosen), row or {}
    ends = [(h, where[h.memory_id]) for h in hits if h.memory_id in where]
    data: list[dict[str, Any]] = []
    if origin is not None and ends:
        data.append(_edges(origin, [end for _, end in ends]))
    names = {h.memory_id: h.name for h, _ in ends}
    if chosen in where:
        names.setdefault(chosen, "the open memory")
        data.append(_marker([where[chosen]], symbol="circle-open", size=19, color="theme:ink"))
        data[-1] |= {"hoverinfo": "skip"}
    if beyond := [name for name in names if name not in rows]:
        looks = {"size": 8, "color": GREY, "line": {"width": 1.5, "color": "theme:ink"}}
        data.append(_marker([where[name] for name in beyond], **looks))
        data[-1] |= {"customdata": beyond, "text": [lines_of(names[name]) for name in beyond]}
    if star is not None:
        looks = {"size": 19, "color": "#D55E00", "line": {"width": 1.5, "color": "theme:paper"}}
        data.append(_marker([star], symbol="star", **looks))
        words = lines_of(short(star_text))
        data[-1] |= {"name": "your problem", "showlegend": True, "text": [words]}
    return {
        "stamp": stamp,
        "data": data,
        "annotations": [] if origin is None else [_similarity(origin, *end) for end in ends],
        "open": chosen,
        "frame": None if star is None else _frame([star, *(end for _, end in ends)]),
        "lit": [rows[name] for name in names if name in rows],
        "star": None if star is None else [float(v) for v in star],
        "words": map_words(n, star is not None, hits),
    }


def _frame(points: Sequence[np.ndarray]) -> list[list[float]]:
    """The ranges of x and y around these points [2], with room beside them."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    room = 0.35 * max(float((high - low).max()), 0.05)
    return [[float(a - room), float(b + room)] for a, b in zip(low, high, strict=True)]


def _marker(where: Sequence[np.ndarray], **looks: Any) -> dict[str, Any]:
    x, y = (list(v) for v in zip(*map(_rounded, where), strict=True))
    hover = "%{text}<extra></extra>"
    common = {"type": "scatter", "mode": "markers", "showlegend": False, "hovertemplate": hover}
    return {**common, "x": x, "y": y, "marker": {"opacity": 1, **looks}}


def _rounded(point: np.ndarray) -> tuple[float, float]:
    return round(float(point[0]), 5), round(float(point[1]), 5)


def _edges(origin: np.ndarray, ends: Sequence[np.ndarray]) -> dict[str, Any]:
    """One dashed line for all hits; None lifts the pen."""
    (ax, ay), where = _rounded(origin), [_rounded(end) for end in ends]
    x = [v for end in where for v in (ax, end[0], None)]
    y = [v for end in where for v in (ay, end[1], None)]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "hoverinfo": "skip",
        "showlegend": False,
        "line": {"color": "theme:ink", "width": 1.5, "dash": "dash"},
    }


def _similarity(origin: np.ndarray, hit: Hit, end: np.ndarray) -> dict[str, Any]:
    """The similarity of a hit, beyond the hit and its ring, where no other edge runs."""
    x, y = _rounded(end)
    away = np.asarray(end, float) - np.asarray(origin, float)
    away = away / length if (length := float(np.hypot(*away))) > 1e-12 else np.array([0.0, 1.0])
    return {
        "x": x,
        "y": y,
        "xshift": round(float(34 * away[0]), 1),
        "yshift": round(float(28 * away[1]), 1),
        "text": f"{hit.similarity:.2f}",
        "showarrow": False,
        "bgcolor": "theme:paper",
        "borderpad": 1,
        "font": {"size": 12.5},
    }


def map_words(n: int, star: bool, hits: Sequence[Hit]) -> str:
    """The map for a screen reader."""
    joined = f", your problem joined to the {len(hits)} most similar" if star and hits else ""
    return f"Map of {n} memories{joined}"


def extras(found: Sequence[Group], stamp: str) -> dict[str, Any]:
    """The names of groups as plotly annotations."""
    labels = [
        {
            "x": g.x,
            "y": g.y,
            "text": str(escape(" · ".join(g.words))),
            "showarrow": False,
            "bgcolor": "theme:paper",
            "opacity": 0.85,
            "borderpad": 3,
            "font": {"size": 13},
        }
        for g in found
    ]
    return {"stamp": stamp, "labels": labels}


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
    shown: int | None = None,
    measured: tuple[float, int] | None = None,
) -> Markup:
    """What the picture shows of n memories, and one number that says how far it is right. `shown`:
    how many are drawn, if not all."""
    if plane is None or n < 2:
        return Markup("")
    what = SPACES.get(space, "the keys")
    if plane.explained is not None:
        words = f"Two directions show {percent(plane.explained)} of the differences between {what}."
    else:
        words = f"Neighbours by {what} stay together; distances between groups mean little."
    if shown is not None and shown < n:
        words += (
            f" The map shows a random sample of {shown:,} of the {n:,} memories; the open memory "
            "and all neighbours are always there."
        )
    if plane.beside:
        words += f" {count(plane.beside, 'memory lies', 'memories lie')} beside their nearest."
    if left_out:
        words += (
            f" {count(left_out, 'memory has', 'memories have')} no place here: of another model, "
            "or without such a key."
        )
    hint = Markup('<p class="hint">{} {} The numbers on edges are the true similarities.</p>')
    return hint.format(words, _trust_number(measured, n))


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
    ).format(value, next(words for least, words in MEANINGS if value >= least), on)


MEANINGS = (
    (0.95, "near in the picture is near in truth"),
    (0.85, "near in the picture is mostly near in truth"),
    (0.7, "trust the picture with care"),
    (0.0, "do not trust what looks near"),
)


ALIKE = 0.02  # a lead in similarity that decides nothing


def misleads(
    where: Mapping[str, np.ndarray], origin: np.ndarray | None, hits: Sequence[Hit]
) -> Markup:
    """A warning where, among its `hits`, the memory that looks nearest to the star, or to the
    chosen memory, is not the most similar one. `where`: id -> point [2]."""
    placed = [h for h in hits if h.memory_id in where]
    if origin is None or not placed:
        return Markup("")
    seen = min(placed, key=lambda h: float(((where[h.memory_id] - origin) ** 2).sum()))
    if placed[0].similarity - seen.similarity < ALIKE:
        return Markup("")
    return Markup(
        '<p class="notice warn" role="alert">The picture misleads here: “{}” ({:.2f}) looks '
        "nearest, but the most similar memory is “{}” ({:.2f}).</p>"
    ).format(seen.name, seen.similarity, placed[0].name, placed[0].similarity)
