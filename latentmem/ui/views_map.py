"""The map of the bank as a plotly figure, as plain dicts: points, star, edges, and how far the picture misleads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from markupsafe import Markup

from ..records import Hit, MemoryInfo
from .projection import Plane, nearest
from .views import safe

COLOURS = ("theme:blue", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800")  # Okabe and Ito
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "pentagon")
COLOUR_BY = {"Data set": "source", "Agreement": "agreement", "Helped − hurt": "helped", "Age": "age"}
SCALE = [[0, "theme:blue"], [0.5, "#9aa3ad"], [1, "#E69F00"]]  # blue to orange, told apart without red and green


def map_figure(infos: Sequence[MemoryInfo], plane: Plane | None, *, colour_by: str = "source", chosen: str = "",
               star: np.ndarray | None = None, star_text: str = "", hits: Sequence[Hit] = ()) -> dict[str, Any]:
    """The map: `plane.points[i]` belongs to `infos[i]`.

    Edges go from the star (a typed problem) or else from the chosen memory to `hits`, each with its similarity in the
    original space. With edges, everything that is not a hit is dimmed.
    """
    layout = _layout(chosen)
    if plane is None or not infos:
        return {"data": [], "layout": layout}
    where = {info.id: plane.points[i] for i, info in enumerate(infos)}
    lit = {h.memory_id for h in hits} | ({chosen} if chosen else set())
    origin = star if star is not None else where.get(chosen)
    data = _edges(origin, where, hits, layout)
    data += (_by_source if colour_by == "source" else _by_value)(infos, plane.points, colour_by, lit if hits else set())
    if chosen in where:
        x, y = where[chosen]
        data.append({"type": "scatter", "mode": "markers", "x": [float(x)], "y": [float(y)], "hoverinfo": "skip",
                     "showlegend": False,
                     "marker": {"size": 22, "symbol": "circle-open", "color": "theme:ink", "line": {"width": 2.5}}})
    if star is not None:
        data.append({"type": "scatter", "mode": "markers", "name": "your problem", "x": [float(star[0])],
                     "y": [float(star[1])], "text": [str(safe(_short(star_text)))],
                     "hovertemplate": "%{text}<extra>your problem</extra>",
                     "marker": {"size": 19, "symbol": "star", "color": "#D55E00",
                                "line": {"width": 1.5, "color": "theme:paper"}}})
    return {"data": data, "layout": layout}


def _layout(chosen: str) -> dict[str, Any]:
    quiet = {"showgrid": False, "zeroline": False, "showticklabels": False, "title": {"text": ""}}
    return {"height": 480, "margin": {"l": 8, "r": 8, "t": 8, "b": 8}, "hovermode": "closest", "dragmode": "pan",
            "xaxis": dict(quiet), "yaxis": dict(quiet, scaleanchor="x"), "annotations": [], "uirevision": "map",
            "legend": {"orientation": "h", "y": -0.02, "yanchor": "top", "x": 0}}


def _short(text: str, width: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _points(infos: Sequence[MemoryInfo], points: np.ndarray, rows: Sequence[int], lit: set[str]) -> dict[str, Any]:
    return {
        "type": "scattergl", "mode": "markers",
        "x": [round(float(points[i, 0]), 5) for i in rows], "y": [round(float(points[i, 1]), 5) for i in rows],
        "customdata": [infos[i].id for i in rows],
        "text": [str(safe(f"{infos[i].name} → {_short(infos[i].label or 'no answer', 30)}")) for i in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 11 if len(infos) < 500 else 7, "line": {"width": 1, "color": "theme:paper"},
                   "opacity": [0.38 if lit and infos[i].id not in lit else 0.92 for i in rows]}}


def _by_source(infos: Sequence[MemoryInfo], points: np.ndarray, _: str, lit: set[str]) -> list[dict[str, Any]]:
    """One trace a data set; beyond the palette the colours come again with other symbols."""
    names: dict[str, list[int]] = {}
    for i, info in enumerate(infos):
        names.setdefault("quarantined" if info.quarantined else info.problem.source or "typed", []).append(i)
    traces = []
    for order, name in enumerate(sorted(names, key=lambda n: (n == "quarantined", -len(names[n])))):
        trace = _points(infos, points, names[name], lit)
        colour, symbol = COLOURS[order % len(COLOURS)], SYMBOLS[(order + order // len(COLOURS)) % len(SYMBOLS)]
        grey = name == "quarantined"
        trace["name"] = str(safe(name.rsplit("/", 1)[-1]))
        trace["marker"] |= {"color": "#8a8f98" if grey else colour, "symbol": "x" if grey else symbol}
        traces.append(trace)
    return traces


def _by_value(infos: Sequence[MemoryInfo], points: np.ndarray, colour_by: str, lit: set[str]) -> list[dict[str, Any]]:
    trace = _points(infos, points, range(len(infos)), lit)
    values, title = _values(infos, colour_by)
    trace["showlegend"] = False
    trace["marker"] |= {"color": values, "colorscale": SCALE, "showscale": True,
                        "colorbar": {"title": {"text": title}, "thickness": 12, "len": 0.6, "outlinewidth": 0}}
    if colour_by == "helped":
        reach = max(1.0, max(abs(v) for v in values))
        trace["marker"] |= {"cmin": -reach, "cmax": reach}
    return [trace]


def _values(infos: Sequence[MemoryInfo], colour_by: str) -> tuple[list[float], str]:
    if colour_by == "agreement":
        return [round(i.majority_ratio, 3) for i in infos], "agreement"
    if colour_by == "helped":
        return [float(i.counters.helped - i.counters.hurt) for i in infos], "helped − hurt"
    days = [_day(i.created) for i in infos]
    return [round(max(days) - d, 3) for d in days], "days old"


def _day(created: str) -> float:
    try:
        return datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() / 86400
    except ValueError:  # a bank made elsewhere may carry no date
        return 0.0


def _edges(origin: np.ndarray | None, where: Mapping[str, np.ndarray], hits: Sequence[Hit],
           layout: dict[str, Any]) -> list[dict[str, Any]]:
    """One dashed line for all hits, and a label with the original-space similarity on each."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for hit in hits:
        if origin is None or hit.memory_id not in where:
            continue
        x, y = where[hit.memory_id]
        xs += [float(origin[0]), float(x), None]
        ys += [float(origin[1]), float(y), None]
        layout["annotations"].append({
            "x": float(0.4 * origin[0] + 0.6 * x), "y": float(0.4 * origin[1] + 0.6 * y), "text": f"{hit.similarity:.2f}",
            "showarrow": False, "bgcolor": "theme:paper", "borderpad": 2, "font": {"size": 12}})
    if not xs:
        return []
    return [{"type": "scatter", "mode": "lines", "x": xs, "y": ys, "hoverinfo": "skip", "showlegend": False,
             "line": {"color": "#8a8f98", "width": 1.5, "dash": "dash"}}]


def trust(infos: Sequence[MemoryInfo], plane: Plane | None, star: np.ndarray | None, hits: Sequence[Hit]) -> Markup:
    """How far the picture may be believed, with a warning where the nearest in 2-D is not the nearest in truth."""
    if plane is None or len(infos) < 2:
        return Markup("")
    words = Markup('<p class="hint">Two directions show {:.0f} % of the differences between the keys; the numbers on the '
                   "edges are the true similarities.</p>").format(100 * plane.explained)
    if star is None or not hits:
        return words
    seen = infos[nearest(plane.points, star)]
    if seen.id == hits[0].memory_id:
        return words
    return Markup('<p class="notice warn" role="alert">The picture misleads here: “{}” looks nearest, but the most similar '
                  "memory is “{}” ({:.2f}).</p>").format(safe(seen.name), safe(hits[0].name), hits[0].similarity) + words


def map_words(infos: Sequence[MemoryInfo], star: bool, hits: Sequence[Hit]) -> str:
    """The map for a screen reader."""
    said = f"Map of {len(infos)} memories"
    return said + (f", your problem joined to the {len(hits)} most similar" if star and hits else "")
