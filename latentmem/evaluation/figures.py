"""The report's figures as plotly's JSON. Colours of Okabe and Ito; shapes differ, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .metrics import Estimate, Row, curve, grouped
from .results import Result

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8f98", "#B8A800")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon")
GREY = "#8a8f98"
# where a logarithmic axis has its marks
ROUND = [d * 10**e for e in range(1, 7) for d in (1, 2, 5)]
SHARES = {"tickformat": ".0%"}
Figure = dict[str, Any]
Looks = Mapping[str, dict[str, Any]]  # system -> its colour and shape


def look(i: int) -> dict[str, Any]:
    """The colour and shape of the i-th of some things in one figure."""
    last = len(COLOURS)
    return {"color": COLOURS[i % last], "symbol": SHAPES[(i + i // last) % last]}


def styles(names: Sequence[str]) -> Looks:
    """A colour and a shape for each name, the same throughout a report."""
    return {n: look(i) for i, n in enumerate(dict.fromkeys(names))}


def layout(x: str, y: str, xaxis: Mapping[str, Any] = {}, yaxis: Mapping[str, Any] = {}) -> Figure:
    return {
        "height": 380,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 54},
        "legend": {"orientation": "h", "y": -0.2},
        "xaxis": {"title": {"text": x}, "automargin": True, **xaxis},
        "yaxis": {"title": {"text": y}, "automargin": True, **yaxis},
    }


def scatter(name: str, x: Sequence[float], y: Sequence[float], mode: str, **more: Any) -> Figure:
    return {"type": "scatter", "mode": mode, "name": plain(name), "x": x, "y": y, **more}


def spread(those: Sequence[Estimate], colour: str, scale: float = 1) -> dict[str, Any]:
    """The intervals of estimates as plotly's error bars; `scale`: 100 for points."""
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 1.25,
        "width": 3,
        "color": colour,
        "array": [scale * (e.high - e.mean) for e in those],
        "arrayminus": [scale * (e.mean - e.low) for e in those],
    }


def accuracy_by_tokens(rows: Sequence[Row], looks: Looks) -> Figure:
    """Accuracy with its interval against tokens a problem, learning shared out."""
    data = []
    for system in dict.fromkeys(r.system for r in rows):
        mine = [r for r in rows if r.system == system]
        accuracies = [r.accuracy for r in mine]
        told = "%{text}<br>%{x:.0f} tokens a problem<br>%{y:.1%}<extra>" + plain(system)
        data.append(
            scatter(
                system,
                [(r.tokens + r.learn_tokens) / r.n for r in mine],
                [e.mean for e in accuracies],
                "markers",
                text=[plain(f"{r.dataset}, {r.form}, n = {r.n}") for r in mine],
                marker={**looks[system], "size": [9 if r.form == "one" else 14 for r in mine]},
                error_y=spread(accuracies, looks[system]["color"]),
                hovertemplate=told + "</extra>",
            )
        )
    tokens = {"type": "log", "tickvals": ROUND, "tickformat": ",", "minor": {"ticks": ""}}
    shown = layout("tokens a problem, learning included", "accuracy", tokens, SHARES)
    return {"data": data, "layout": shown}


def differences(groups: Mapping[str, Sequence[tuple[str, Estimate]]]) -> Figure:
    """Paired differences to zero_shot with their intervals, the best of each group on top.
    `groups`: title -> (system, difference as a share). Filled: an interval that does not touch
    zero."""
    sizes = [len(rows) + 2 for rows in groups.values()]  # in lines: the title and a distance, too
    height, top = sum(sizes), 1.0
    zero = {"zeroline": True, "zerolinewidth": 2, "zerolinecolor": GREY}
    shown = layout("points against the model alone", "", {**zero, "anchor": "free", "position": 0})
    shown |= {"height": 90 + 19 * height, "showlegend": False, "annotations": []}
    shown["margin"]["t"] = 30
    data = []
    for i, (title, rows) in enumerate(groups.items()):
        rows = sorted(rows, key=lambda r: r[1].mean)
        end = str(i + 1) if i else ""
        data.append(_differences(rows, "y" + end))
        shown["yaxis" + end] = {
            "domain": [max(0.0, top - (sizes[i] - 1) / height), top],
            "automargin": True,
            "range": [-0.7, len(rows) - 0.3],
            "tickvals": list(range(len(rows))),
            "ticktext": [plain(name) for name, _ in rows],
        }
        corner = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        words = {"text": plain(title), "font": {"weight": 600}, "showarrow": False}
        shown["annotations"].append({**words, "x": 0, "y": top, **corner})
        top -= sizes[i] / height
    return {"data": data, "layout": shown}


def _differences(rows: Sequence[tuple[str, Estimate]], axis: str) -> dict[str, Any]:
    """One group: blue ahead, orange behind, grey for neither."""
    estimates = [e for _, e in rows]
    sides = [(e.mean > 0) - (e.mean < 0) for e in estimates]
    marker = {
        "color": [(GREY, COLOURS[0], COLOURS[1])[side] for side in sides],
        "size": 9,
        "symbol": ["circle" if e.low > 0 or e.high < 0 else "circle-open" for e in estimates],
    }
    return scatter(
        "",
        [100 * e.mean for e in estimates],
        list(range(len(rows))),
        "markers",
        text=[plain(name) for name, _ in rows],
        xaxis="x",
        yaxis=axis,
        marker=marker,
        error_x=spread(estimates, GREY, 100),
        customdata=[[100 * e.low, 100 * e.high] for e in estimates],
        hovertemplate="%{text}: %{x:+.1f} (%{customdata[0]:+.1f} to "
        "%{customdata[1]:+.1f})<extra></extra>",
    )


def stream_curve(results: Sequence[Result], looks: Looks) -> Figure:
    """Accuracy so far by system over the stream."""
    data = []
    for (_, _, system, form), mine in grouped(results).items():
        met, shares = zip(*curve(mine), strict=True)
        dash = "solid" if form == "one" else "dot"
        line = {"color": looks[system]["color"], "dash": dash, "width": 2.5}
        data.append(scatter(f"{system}, {form}", met, shares, "lines", line=line))
    shown = layout("problems met", "accuracy so far", yaxis={**SHARES, "range": [0, 1.02]})
    return {"data": data, "layout": shown}


def plain(text: str) -> str:
    """Text for plotly, which reads <b> and a few other tags, so foreign text is escaped."""
    return escape(text, quote=False)
