"""The series of `bench --scale` as one picture (a page of HTML, and the figure's JSON) and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .report import number, write

OURS, BOUND = "#0072B2", "#8a8f98"
COLUMNS = 2
WIDE = 30  # a highest value that is so many times the lowest takes a logarithmic axis, or the low ones lie on the floor


def figure(series: Sequence[Mapping[str, Any]]) -> Any:
    """A plotly figure with one plot a series, the sizes (and what spans WIDE) on a logarithmic axis."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = max(1, -(-len(series) // COLUMNS))
    made = make_subplots(rows, COLUMNS, subplot_titles=[s["title"] for s in series], vertical_spacing=0.35 / rows)
    for i, s in enumerate(series):
        place = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        x, y = list(s["x"]), list(s["y"])
        made.add_trace(go.Scatter(x=x, y=y, mode="lines+markers", name="measured", marker_color=OURS, showlegend=not i), **place)
        if s.get("limit"):
            made.add_trace(go.Scatter(x=x, y=list(s["limit"]), mode="lines", name="limit of reading the weights",
                                      line={"color": BOUND, "dash": "dot"}, showlegend=not i), **place)
        made.update_xaxes(title_text=s["x_name"], type="log", tickvals=x, ticktext=[f"{v:,.0f}" for v in x], **place)
        seen = [*y, *s.get("limit", ())]
        wide = min(seen, default=0) > 0 and max(seen) > WIDE * min(seen)
        made.update_yaxes(title_text=s["y_name"], type="log" if wide else "linear", rangemode="tozero", **place)
    made.update_layout(height=330 * rows + 60, template="plotly_white", legend={"orientation": "h", "y": -0.05},
                       margin={"t": 50, "l": 70, "r": 20, "b": 60})
    return made


def save(series: Sequence[Mapping[str, Any]], file: Path) -> tuple[Path, Path]:
    """Write `file`'s name with .html and .figure.json; both paths. The page carries plotly, so it opens offline."""
    made, page, data = figure(series), file.with_suffix(".html"), file.with_suffix(".figure.json")
    write(page, made.to_html(include_plotlyjs=True, full_html=True))
    write(data, made.to_json() + "\n")
    return page, data


def markdown(series: Sequence[Mapping[str, Any]]) -> str:
    """One table a series."""
    parts = []
    for s in series:
        limit = s.get("limit") or ()
        lines = [f"**{s['title']}**" + (f" ({s['note']})" if s.get("note") else ""), "",
                 f"| {s['x_name']} | {s['y_name']} |" + (" limit |" if limit else ""), "|---|---|" + ("---|" if limit else "")]
        for i, (x, y) in enumerate(zip(s["x"], s["y"], strict=True)):
            lines.append(f"| {x:,.0f} | {number(y)} |" + (f" {number(limit[i])} |" if limit else ""))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
