"""The report's figures, as plotly's JSON in plain dicts. Pure; the colours are those of Okabe and
Ito, and shapes differ too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .metrics import Estimate, MemoryEffect, Routing, Row, agreement_bins, curve, grouped, share
from .results import Result, SideResult

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8f98", "#B8A800")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon")
GREY = "#8a8f98"
ROUND = [
    d * 10**e for e in range(1, 7) for d in (1, 2, 5)
]  # where a logarithmic axis has its marks
ABOVE = {"y": 1.0, "yanchor": "bottom"}  # a legend that no axis title can meet
FEW = 6  # counts up to here are marked one by one
NAME = 26  # characters of a label beside bars: a phone is narrow
Figure = dict[str, Any]
Looks = Mapping[str, dict[str, Any]]  # system -> its colour and shape


def styles(names: Sequence[str]) -> Looks:
    """A colour and a shape for each name, the same throughout a report."""
    return {
        n: {
            "color": COLOURS[i % len(COLOURS)],
            "symbol": SHAPES[(i + i // len(COLOURS)) % len(SHAPES)],
        }
        for i, n in enumerate(dict.fromkeys(names))
    }


def layout(x: str, y: str, height: int = 380, **more: Any) -> dict[str, Any]:
    base = {
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 54},
        "legend": {"orientation": "h", "y": -0.2},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
    }
    for name, value in more.items():
        base[name] = (
            {**base[name], **value}
            if isinstance(base.get(name), dict) and isinstance(value, dict)
            else value
        )
    return base


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


def accuracy_by_tokens(rows: Sequence[Row], look: Looks) -> Figure:
    """Accuracy with its interval against tokens a problem, learning shared out, so that systems
    compare at equal compute."""
    data = []
    for system in dict.fromkeys(r.system for r in rows):
        mine = [r for r in rows if r.system == system]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": system,
                "x": [tokens_a_problem(r) for r in mine],
                "y": [r.accuracy.mean for r in mine],
                "text": [plain(f"{r.dataset}, {r.form}, n = {r.n}") for r in mine],
                "marker": {**look[system], "size": [9 if r.form == "one" else 14 for r in mine]},
                "error_y": spread([r.accuracy for r in mine], look[system]["color"]),
                "hovertemplate": "%{text}<br>%{x:.0f} tokens a problem<br>%{y:.1%}<extra>"
                + plain(system)
                + "</extra>",
            }
        )
    return {
        "data": data,
        "layout": layout(
            "tokens a problem, learning included",
            "accuracy",
            yaxis={"tickformat": ".0%"},
            xaxis={"type": "log", "tickvals": ROUND, "tickformat": ",", "minor": {"ticks": ""}},
        ),
    }


def differences(groups: Mapping[str, Sequence[tuple[str, Estimate]]]) -> Figure:
    """Paired differences to zero_shot with their intervals, the best of each group on top.
    `groups`: title -> (system, difference as a share). Filled: an interval that does not touch
    zero."""
    sizes = [len(rows) + 2 for rows in groups.values()]  # in lines: the title and a distance, too
    height, top = sum(sizes), 1.0
    shown = layout("", "", 90 + 19 * height, margin={"t": 30})
    shown["xaxis"] = {
        "title": {"text": "points against the model alone"},
        "zeroline": True,
        "zerolinewidth": 2,
        "zerolinecolor": GREY,
        "anchor": "free",
        "position": 0,
    }
    data, titles = [], []
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
        titles.append(
            {"text": plain(title), "font": {"weight": 600}, "x": 0, "y": top, "showarrow": False}
            | corner
        )
        top -= sizes[i] / height
    return {"data": data, "layout": shown | {"showlegend": False, "annotations": titles}}


def _differences(rows: Sequence[tuple[str, Estimate]], axis: str) -> dict[str, Any]:
    """One group: blue ahead, orange behind, grey for neither."""
    estimates = [e for _, e in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * e.mean for e in estimates],
        "y": list(range(len(rows))),
        "text": [plain(name) for name, _ in rows],
        "xaxis": "x",
        "yaxis": axis,
        "marker": {
            "color": [
                COLOURS[0] if e.mean > 0 else COLOURS[1] if e.mean < 0 else GREY for e in estimates
            ],
            "size": 9,
            "symbol": ["circle" if e.low > 0 or e.high < 0 else "circle-open" for e in estimates],
        },
        "error_x": spread(estimates, GREY, 100),
        "customdata": [[100 * e.low, 100 * e.high] for e in estimates],
        "hovertemplate": "%{text}: %{x:+.1f} (%{customdata[0]:+.1f} to "
        "%{customdata[1]:+.1f})<extra></extra>",
    }


def tokens_a_problem(row: Row) -> float:
    return (row.tokens + row.learn_tokens) / row.n


def stream_curve(results: Sequence[Result], look: Looks) -> Figure:
    """Accuracy so far by system over the stream."""
    data = []
    for (_, _, system, form), mine in grouped(results).items():
        points = curve(mine)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{system}, {form}",
                "x": [met for met, _ in points],
                "y": [share for _, share in points],
                "line": {
                    "color": look[system]["color"],
                    "dash": "solid" if form == "one" else "dot",
                    "width": 2.5,
                },
            }
        )
    return {
        "data": data,
        "layout": layout(
            "problems met", "accuracy so far", yaxis={"tickformat": ".0%", "range": [0, 1.02]}
        ),
    }


def memory_bars(effects: Sequence[MemoryEffect], most: int = 25) -> Figure:
    """Problems that each memory helped (right) and hurt (left)."""
    shown = [s for s in effects if s.helped or s.hurt][:most][::-1]
    names = [
        s.name if len(s.name) <= NAME else s.name[: NAME - 1].rstrip(" …") + "…" for s in shown
    ]
    most_of_one = max((max(len(s.helped), len(s.hurt)) for s in shown), default=0)
    bars = [
        ("helped", [len(s.helped) for s in shown], "#009E73"),
        ("hurt", [-len(s.hurt) for s in shown], "#D55E00"),
    ]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": list(range(len(shown))),
                "x": x,
                "text": [plain(f"{s.name} ({s.memory[:8]})") for s in shown],
                "textposition": "none",
                "hovertemplate": "%{text}: %{x}<extra>" + name + "</extra>",
                "marker": {"color": colour},
            }
            for name, x, colour in bars
        ],
        "layout": layout(
            "problems",
            "",
            140 + 22 * len(shown),
            barmode="relative",
            legend=ABOVE,
            margin={"t": 40},
            xaxis={"dtick": 1} if most_of_one <= FEW else {},
            yaxis={"tickvals": list(range(len(shown))), "ticktext": [plain(n) for n in names]},
        ),
    }


def routing_bars(rows: Sequence[tuple[str, Routing]]) -> Figure:
    """Of the disagreements with one side right: how often each router took the right side, and
    which ones it missed. `rows`: (run, what a router did there)."""
    parts = (
        ("memory right, taken", "memory_right_taken", "#009E73"),
        ("alone right, taken", "alone_right_taken", "#56B4E9"),
        ("memory right, missed", "memory_right_missed", "#E69F00"),
        ("alone right, missed", "alone_right_missed", "#D55E00"),
    )
    those, runs = [r for _, r in rows], {run for run, _ in rows}
    names = [
        (f"{run}, " if len(runs) > 1 else "") + f"{r.system}, {r.form}: {r.router}"
        for run, r in rows
    ][::-1]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [plain(n) for n in names],
                "x": [getattr(r, member) for r in those][::-1],
                "marker": {"color": colour},
            }
            for name, member, colour in parts
        ],
        "layout": layout(
            "disagreements",
            "",
            160 + 26 * len(those),
            barmode="stack",
            legend=ABOVE,
            margin={"t": 60},
        ),
    }


def agreement(sides: Sequence[tuple[str, Sequence[SideResult]]]) -> Figure:
    """The share of traces that agree against the share of right labels: how far the vote can be
    trusted."""
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as sure as right",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": GREY, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for i, (name, those) in enumerate(sides):
        bins = agreement_bins(those)
        if bins:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": plain(name),
                    "x": [b[0] for b in bins],
                    "y": [b[1] for b in bins],
                    "text": [f"{b[2]} votes" for b in bins],
                    "hovertemplate": "%{text}<br>%{x:.0%} agree, %{y:.0%} right",
                    "marker": {
                        "color": COLOURS[i % len(COLOURS)],
                        "symbol": SHAPES[i % len(SHAPES)],
                        "size": [6 + 3 * b[2] ** 0.5 for b in bins],
                    },
                }
            )
    return {
        "data": data,
        "layout": layout(
            "traces that agree with the majority",
            "majority is right",
            xaxis={"tickformat": ".0%", "range": [0, 1.05]},
            yaxis={"tickformat": ".0%", "range": [-0.05, 1.05]},
        ),
    }


def matrix(rows: Sequence[Row]) -> Figure:
    """Transfer: the paired difference to zero_shot, in points, of memories of one set (row) on
    another (column)."""
    learned, asked = (
        list(dict.fromkeys(getattr(r, m) for r in rows)) for m in ("learned_on", "dataset")
    )
    cells = {(r.learned_on, r.dataset): r for r in rows}
    z = [[delta(cells.get((a, b))) for b in asked] for a in learned]
    text = [["" if v is None else f"{v:+z.1f}" for v in line] for line in z]
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [plain(a) for a in asked],
                "y": [plain(a) for a in learned],
                "z": z,
                "text": text,
                "texttemplate": "%{text}",
                "colorscale": [[0, "#D55E00"], [0.5, "#f2f2f2"], [1, "#0072B2"]],
                "zmid": 0,
                "colorbar": {"title": {"text": "points"}},
            }
        ],
        "layout": layout("asked", "learnt from", 160 + 60 * len(learned)),
    }


def delta(row: Row | None) -> float | None:
    return None if row is None or row.delta is None else 100 * row.delta.mean


def step_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Held-out accuracy against gradient steps on one problem, a line for each way of training and
    problem."""
    lines: dict[str, list[dict[str, Any]]] = {}
    setups: dict[str, list[Any]] = {}  # by curve: another rate, another test part, another curve
    for r in rows:
        those = setups.setdefault(f"{r['learner']}: {r['problem_id']}", [])
        those += [] if r.get("setup") in those else [r.get("setup")]
    for r in rows:
        name = f"{r['learner']}: {r['problem_id']}"
        more = f" ({setups[name].index(r.get('setup')) + 1})" if len(setups[name]) > 1 else ""
        lines.setdefault(name + more, []).append(r)
    data = []
    for i, (name, mine) in enumerate(lines.items()):
        mine = sorted(mine, key=lambda r: r["step"])
        colour, spans = COLOURS[i % len(COLOURS)], [step_accuracy(r) for r in mine]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(name),
                "x": [r["step"] for r in mine],
                "y": [e.mean for e in spans],
                "line": {"color": colour},
                "marker": {"symbol": SHAPES[i % len(SHAPES)]},
                "error_y": spread(spans, colour),
            }
        )
    return {
        "data": data,
        "layout": layout(
            "gradient steps on one problem",
            "accuracy on held-out problems",
            yaxis={"tickformat": ".0%"},
        ),
    }


def step_accuracy(row: dict[str, Any]) -> Estimate:
    """Held-out accuracy after a step, with its interval."""
    found = share(round(row["accuracy"] * row["n"]), row["n"])
    assert found is not None
    return found


def plain(text: str) -> str:
    """Text for plotly, which reads <b> and a few other tags, so foreign text is escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
