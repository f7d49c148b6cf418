"""Figures become rows: medians, ratios, targets met or missed; the JSON file that keeps them, its
table and its picture."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal

from .. import __version__
from ..files import write_whole
from ..records import LatentmemError

Kind = Literal["bench", "scale", "profile"]
# Kind of report -> what its rows have and no others' rows do, the command that makes it.
KINDS: dict[str, tuple[str, str]] = {
    "bench": ("ours", "latentmem bench"),
    "scale": ("x", "latentmem bench --scale"),
    "profile": ("operations", "latentmem bench --profile"),
}
ALWAYS = (
    "latentmem",
    "python",
    "system",
    "torch",
    "transformers",
    "numpy",
)  # what our own side of every row depends on
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "numpy",
    "trl",
    "llama-cpp-python",
    "qdrant-client",
    "datasets",
)
MISSING = "not installed"
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Target:
    """What a row must reach. `ratio`: how many times better than the peer; `limit`: our figure at
    most."""

    ratio: float | None = None
    limit: float | None = None

    def words(self, unit: str) -> str:
        parts = [f"{self.ratio:g} x"] if self.ratio is not None else []
        return ", ".join(
            parts + ([f"under {self.limit:g} {unit}"] if self.limit is not None else [])
        )

    def met(self, ours: float, ratio: float | None) -> bool | None:
        """None if it needs a peer that was not measured."""
        if self.ratio is not None and ratio is None:
            return None
        return (self.ratio is None or ratio >= self.ratio) and (
            self.limit is None or ours < self.limit
        )


@dataclass(frozen=True)
class Row:
    """One line of the report. `ratio` is how many times better ours is, whichever way is better;
    None without a peer."""

    name: str
    what: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float | None
    target: str
    met: bool | None
    note: str = ""
    ours_runs: tuple[float, ...] = ()
    peer_runs: tuple[float, ...] = ()
    load: float | None = (
        None  # processes that wanted a core when the bench began: a quiet machine has less than one
    )
    seconds: float = 0.0  # that measuring the row took
    measured: str = ""  # ISO 8601, UTC
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(
        default_factory=dict
    )  # of what the row depends on, when it was measured


def ratio_of(ours: float, peer: float | None, better: Better) -> float | None:
    """How many times better ours is than the peer; None if that is not a number."""
    if peer is None or min(ours, peer) <= 0:
        return None
    return ours / peer if better == "higher" else peer / ours


def row(
    name: str,
    what: str,
    unit: str,
    better: Better,
    target: Target,
    peer_name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    **facts: Any,
) -> Row:
    """The row of some runs: medians, and the ratio of the medians."""
    mine, theirs = median(ours), median(peer) if peer else None
    ratio = ratio_of(mine, theirs, better)
    return Row(
        name,
        what,
        unit,
        mine,
        theirs,
        peer_name,
        ratio,
        target.words(unit),
        target.met(mine, ratio),
        ours_runs=tuple(ours),
        peer_runs=tuple(peer),
        **facts,
    )


# ---------- The file.


def machine() -> dict[str, Any]:
    """Processor, cores, instructions, memory, accelerators: what a figure depends on."""
    from ..engine.doctor import machine as examined

    return {name: value for name, value in examined([]).items() if name != "memory free"}


def versions() -> dict[str, str]:
    found = {
        "latentmem": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = MISSING
    return found


def needed(found: Mapping[str, str], packages: Sequence[str] = ()) -> dict[str, str]:
    """Of these versions those that a row depends on, with the packages of its peer."""
    return {name: found[name] for name in (*ALWAYS, *packages) if name in found}


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def read(file: Path, kind: Kind | None = None) -> dict[str, Any]:
    """The content of a report: kind, machine, versions and rows; empty if there is no file.

    Raises LatentmemError if the file is not a report of a bench, or one of another kind.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise LatentmemError(
            f"{file} is not a report of a bench ({e}): give another file with --out."
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("rows"), list):
        raise LatentmemError(f"{file} is not a report of a bench: give another file with --out.")
    there = _kind(file, data)
    if kind and there and there != kind:
        raise LatentmemError(
            f"{file} is a report of `{KINDS[there][1]}` and not of `{KINDS[kind][1]}`: give "
            "another file with --out."
        )
    return data


def _kind(file: Path, data: Mapping[str, Any]) -> str | None:
    """The kind of a report, from its rows and from what it says itself; None if it has no rows and
    says nothing."""
    own = data.get("kind")
    kinds = {
        next(
            (
                kind
                for kind, (member, _) in KINDS.items()
                if isinstance(row, dict) and "name" in row and member in row
            ),
            None,
        )
        for row in data["rows"]
    } | ({str(own)} if own is not None else set())
    if None in kinds or len(kinds) > 1 or not kinds <= set(KINDS):
        raise LatentmemError(
            f"{file} is not a report of a bench, for its rows are not of one kind: give another "
            "file with --out."
        )
    return next(iter(kinds), None)


def check_machine(file: Path, kind: Kind, here: Mapping[str, Any]) -> None:
    """Raises LatentmemError if the file has figures of another machine or of another kind."""
    there = read(file, kind).get("machine", here)
    changed = [
        name
        for name in ("processor", "cores", "instructions", "accelerators")
        if there.get(name) != here.get(name)
    ]
    if changed:
        raise LatentmemError(
            f"{file} has figures of another machine ({changed[0]} {there.get(changed[0])}, here "
            f"{here.get(changed[0])}): give another file with --out."
        )


def is_done(
    there: Mapping[str, Any], name: str, settings: Mapping[str, Any], versions: Mapping[str, str]
) -> bool:
    """Whether a report has the row, measured with these settings and these versions of what it
    depends on."""
    made = next((r for r in there.get("rows", []) if r["name"] == name), {})
    then = made.get("versions") or there.get(
        "versions", {}
    )  # a report from before rows had their own
    return made.get("settings") == settings and all(
        then.get(package) == version for package, version in versions.items()
    )


def merge(
    file: Path, kind: Kind, rows: Sequence[Mapping[str, Any]], order: Sequence[str], **facts: Any
) -> None:
    """Put rows into the file, in place of those of the same name; whole or not at all. Raises
    LatentmemError.

    Rows that stay keep the versions with which they were measured, because the file's versions are
    those of the new rows.
    """
    there = read(file, kind)
    old = [
        r if r.get("versions") else {**r, "versions": there.get("versions", {})}
        for r in there.get("rows", [])
    ]
    kept = {r["name"]: r for r in (*old, *rows)}
    place = {name: i for i, name in enumerate(order)}
    ordered = sorted(kept.values(), key=lambda r: place.get(r["name"], len(place)))
    save(file, kind, ordered, **facts)


def save(file: Path, kind: Kind, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Write the file with these rows and no others."""
    write(
        file,
        json.dumps({"kind": kind, **facts, "rows": list(rows)}, indent=1, ensure_ascii=False)
        + "\n",
    )


def write(file: Path, text: str) -> None:
    write_whole(file, text, "give another file with --out", folders=True)


def plain(made: Row) -> dict[str, Any]:
    """A row as JSON values."""
    return asdict(made)


# ---------- The table.


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits: 0.0312, 1.25, 118."""
    if value is None:
        return "–"
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def markdown(
    rows: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
) -> str:
    """The report as a table, with the machine above it and the notes below, which name the versions
    of a row where they differ."""
    lines = []
    if machine:
        lines += [
            f"{machine.get('processor')}, {machine.get('cores')} cores, "
            f"{machine.get('instructions')}, {machine.get('memory')}, accelerators: "
            f"{machine.get('accelerators')}."
        ]
    if versions:
        lines += ["", ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    lines += [
        "",
        "| what | ours | peer | peer's figure | times better | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        met = {True: "yes", False: "**no**", None: "–"}[r["met"]]
        lines.append(
            f"| {r['what']} | {number(r['ours'], r['unit'])} | {r['peer_name'] or '–'} | "
            f"{number(r['peer'], r['unit'])} | {number(r['ratio'])} | {r['target']} | {met} |"
        )
    notes = [
        f"- {r['what']}: {note}."
        for r in rows
        if (note := "; ".join(filter(None, [r["note"], _with(r, versions or {})])))
    ]
    return "\n".join([*lines, "", *notes]).strip() + "\n"


def _with(row: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    """The versions of a row that differ from those above the table, in words. The note of a row
    names a missing peer."""
    own = {
        name: version
        for name, version in (row.get("versions") or {}).items()
        if versions.get(name, version) != version and version != MISSING
    }
    return (
        "measured with " + ", ".join(f"{name} {version}" for name, version in own.items())
        if own
        else ""
    )


# ---------- The series of `bench --scale` as one picture and as tables.

OURS, BOUND = "#0072B2", "#8a8f98"
COLUMNS = 2
# values that span so many times the lowest take a logarithmic axis
WIDE = 30


def figure(series: Sequence[Mapping[str, Any]]) -> Any:
    """A plotly figure with one plot for each series; sizes, and values that span WIDE, have a
    logarithmic axis."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = max(1, -(-len(series) // COLUMNS))
    made = make_subplots(
        rows, COLUMNS, subplot_titles=[s["title"] for s in series], vertical_spacing=0.35 / rows
    )
    for i, s in enumerate(series):
        place = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        x, y = list(s["x"]), list(s["y"])
        made.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines+markers", name="measured", marker_color=OURS, showlegend=not i
            ),
            **place,
        )
        if s.get("limit"):
            made.add_trace(
                go.Scatter(
                    x=x,
                    y=list(s["limit"]),
                    mode="lines",
                    name="limit of reading the weights",
                    line={"color": BOUND, "dash": "dot"},
                    showlegend=not i,
                ),
                **place,
            )
        made.update_xaxes(
            title_text=s["x_name"],
            type="log",
            tickvals=x,
            ticktext=[f"{v:,.0f}" for v in x],
            **place,
        )
        seen = [*y, *s.get("limit", ())]
        wide = min(seen, default=0) > 0 and max(seen) > WIDE * min(seen)
        made.update_yaxes(
            title_text=s["y_name"], type="log" if wide else "linear", rangemode="tozero", **place
        )
    made.update_layout(
        height=330 * rows + 60,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.05},
        margin={"t": 50, "l": 70, "r": 20, "b": 60},
    )
    return made


def save_figure(series: Sequence[Mapping[str, Any]], file: Path) -> tuple[Path, Path]:
    """Write `file`'s name with .html and .figure.json; returns both paths. The page carries plotly,
    so it opens offline."""
    made, page, data = figure(series), file.with_suffix(".html"), file.with_suffix(".figure.json")
    write(page, made.to_html(include_plotlyjs=True, full_html=True))
    write(data, made.to_json() + "\n")
    return page, data


def figure_markdown(series: Sequence[Mapping[str, Any]]) -> str:
    """One table for each series."""
    parts = []
    for s in series:
        limit = s.get("limit") or ()
        lines = [
            f"**{s['title']}**" + (f" ({s['note']})" if s.get("note") else ""),
            "",
            f"| {s['x_name']} | {s['y_name']} |" + (" limit |" if limit else ""),
            "|---|---|" + ("---|" if limit else ""),
        ]
        for i, (x, y) in enumerate(zip(s["x"], s["y"], strict=True)):
            lines.append(
                f"| {x:,.0f} | {number(y)} |" + (f" {number(limit[i])} |" if limit else "")
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
