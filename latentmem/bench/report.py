"""Figures become rows; the JSON file that keeps them, its table and its picture."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
# what our own side of every row depends on
ALWAYS = ("latentmem", "python", "system", "torch", "transformers", "numpy")
PACKAGES = "torch transformers peft numpy trl llama-cpp-python qdrant-client datasets".split()
MISSING = "not installed"


@dataclass(frozen=True)
class RowSpec:
    """What a row measures, against whom, and what it must reach. `ours` and `peer` name the
    functions that prepare a side: a module of this package and a function. `ratio`: how many times
    better than the peer; `limit`: our figure at most."""

    name: str
    what: str
    unit: str  # a rate, "tokens/s", is better when higher, anything else when lower
    ours: str
    peer: str = ""
    peer_name: str = ""
    packages: tuple[str, ...] = ()  # of the peer, beside those that every row depends on
    ratio: float | None = None
    limit: float | None = None
    # The figure is one of a whole process: every run has its own, and the peer counts with the
    # better of its dtypes, since which one is faster says nothing about it.
    fresh: bool = False

    @property
    def target(self) -> str:
        ratio = [f"{self.ratio:g} x"] if self.ratio is not None else []
        limit = [f"under {self.limit:g} {self.unit}"] if self.limit is not None else []
        return ", ".join(ratio + limit)

    def times(self, ours: float, peer: float | None) -> float | None:
        """How many times better ours is than the peer; None if that is not a number."""
        if peer is None or min(ours, peer) <= 0:
            return None
        return ours / peer if self.unit.endswith("/s") else peer / ours

    def met(self, ours: float, times: float | None) -> bool | None:
        """None if it needs a peer that was not measured."""
        if self.ratio is not None and times is None:
            return None
        fast = self.ratio is None or times >= self.ratio
        return fast and (self.limit is None or ours < self.limit)


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
    # Processes that wanted a core when the bench began: a quiet machine has less than one.
    load: float | None = None
    seconds: float = 0.0  # that measuring the row took
    measured: str = ""  # ISO 8601, UTC
    settings: Mapping[str, Any] = field(default_factory=dict)
    # of what the row depends on, when it was measured
    versions: Mapping[str, str] = field(default_factory=dict)


def row(spec: RowSpec, ours: Sequence[float], peer: Sequence[float], **facts: Any) -> Row:
    """The row of some runs: medians, and the ratio of the medians."""
    mine, theirs = median(ours), median(peer) if peer else None
    times = spec.times(mine, theirs)
    return Row(
        *(spec.name, spec.what, spec.unit, mine, theirs, spec.peer_name, times, spec.target),
        met=spec.met(mine, times),
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
    found = {"latentmem": __version__, "python": platform.python_version()}
    found["system"] = platform.platform()
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
        kinds = {_kind_of(row) for row in data["rows"]} | {str(data.get("kind", ""))} - {""}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise _refused(file, f"is not a report of a bench ({e})") from None
    if len(kinds) > 1 or not kinds <= set(KINDS):
        raise _refused(file, "is not a report of a bench, for its rows are not of one kind")
    for there in kinds:
        if kind and there != kind:
            raise _refused(
                file, f"is a report of `{KINDS[there][1]}` and not of `{KINDS[kind][1]}`"
            )
    return data


def _kind_of(row: Any) -> str:
    """The kind of report that a row belongs to, "none" if it is no row."""
    named = isinstance(row, dict) and "name" in row
    return next((k for k, (member, _) in KINDS.items() if named and member in row), "none")


def _refused(file: Path, why: str) -> LatentmemError:
    return LatentmemError(f"{file} {why}: give another file with --out.")


def check_machine(file: Path, kind: Kind, here: Mapping[str, Any]) -> None:
    """Raises LatentmemError if the file has figures of another machine or of another kind."""
    there = read(file, kind).get("machine", here)
    for name in ("processor", "cores", "instructions", "accelerators"):
        if there.get(name) != here.get(name):
            differs = f"{name} {there.get(name)}, here {here.get(name)}"
            raise _refused(file, f"has figures of another machine ({differs})")


def is_done(
    there: Mapping[str, Any], name: str, settings: Mapping[str, Any], versions: Mapping[str, str]
) -> bool:
    """Whether a report has the row, measured with these settings and versions."""
    made = next((r for r in there.get("rows", []) if r["name"] == name), {})
    # a report from before rows had their own
    then = made.get("versions") or there.get("versions", {})
    return made.get("settings") == settings and versions.items() <= then.items()


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
    data = {"kind": kind, **facts, "rows": list(rows)}
    write(file, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write(file: Path, text: str) -> None:
    write_whole(file, text, "give another file with --out", folders=True)


# ---------- The table.


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits: 0.0312, 1.25, 118."""
    if value is None:
        return "–"
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def markdown(data: Mapping[str, Any]) -> str:
    """A report as a table, with the machine above it and the notes below, which name the versions
    of a row where they differ."""
    lines, rows, versions = [], data.get("rows", []), data.get("versions", {})
    if machine := data.get("machine"):
        about = [str(machine.get(name)) for name in ("processor", "instructions", "memory")]
        about.insert(1, f"{machine.get('cores')} cores")
        lines.append(f"{', '.join(about)}, accelerators: {machine.get('accelerators')}.")
    if versions:
        lines += ["", _listed(versions) + "."]
    lines += [
        "",
        "| what | ours | peer | peer's figure | times better | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for r in rows:
        met = {True: "yes", False: "**no**", None: "–"}[r["met"]]
        lines.append(
            f"| {r['what']} | {number(r['ours'], r['unit'])} | {r['peer_name'] or '–'} | "
            f"{number(r['peer'], r['unit'])} | {number(r['ratio'])} | {r['target']} | {met} |"
        )
        # the note of a row names a missing peer
        own = {
            name: version
            for name, version in (r.get("versions") or {}).items()
            if version not in (MISSING, versions.get(name, version))
        }
        if said := [r["note"]] * bool(r["note"]) + ["measured with " + _listed(own)] * bool(own):
            notes.append(f"- {r['what']}: {'; '.join(said)}.")
    return "\n".join([*lines, "", *notes]).strip() + "\n"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


# ---------- The series of `bench --scale` as one picture and as tables.

COLUMNS = 2
WIDE = 30  # values that span so many times the lowest take a logarithmic axis


def figure(series: Sequence[Mapping[str, Any]]) -> Any:
    """A plotly figure of all series; sizes, and values that span WIDE, have logarithmic axes."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = max(1, -(-len(series) // COLUMNS))
    titles = [s["title"] for s in series]
    made = make_subplots(rows, COLUMNS, subplot_titles=titles, vertical_spacing=0.35 / rows)
    for i, s in enumerate(series):
        place = {"row": i // COLUMNS + 1, "col": i % COLUMNS + 1}
        x, y, limit = list(s["x"]), list(s["y"]), list(s.get("limit", ()))
        line = {"x": x, "showlegend": not i}
        made.add_trace(
            go.Scatter(y=y, mode="lines+markers", name="measured", marker_color="#0072B2", **line),
            **place,
        )
        if limit:
            name, dotted = "limit of reading the weights", {"color": "#8a8f98", "dash": "dot"}
            made.add_trace(
                go.Scatter(y=limit, mode="lines", name=name, line=dotted, **line), **place
            )
        ticks = {"tickvals": x, "ticktext": [f"{v:,.0f}" for v in x]}
        made.update_xaxes(title_text=s["x_name"], type="log", **ticks, **place)
        lowest, highest = min(y + limit, default=0), max(y + limit, default=0)
        kind = "log" if 0 < WIDE * lowest < highest else "linear"
        made.update_yaxes(title_text=s["y_name"], type=kind, rangemode="tozero", **place)
    legend, margin = {"orientation": "h", "y": -0.05}, {"t": 50, "l": 70, "r": 20, "b": 60}
    height = 330 * rows + 60
    made.update_layout(height=height, template="plotly_white", legend=legend, margin=margin)
    return made


def save_figure(series: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Write the page beside `file`; returns its path. It carries plotly, so it opens offline."""
    page = file.with_suffix(".html")
    write(page, figure(series).to_html(include_plotlyjs=True, full_html=True))
    return page


def figure_markdown(series: Sequence[Mapping[str, Any]]) -> str:
    """One table for each series."""
    parts = []
    for s in series:
        columns = [s["y"], *([s["limit"]] if s.get("limit") else [])]
        names = [s["x_name"], s["y_name"], "limit"][: 1 + len(columns)]
        note = f" ({s['note']})" if s.get("note") else ""
        lines = [
            f"**{s['title']}**{note}",
            "",
            f"| {' | '.join(names)} |",
            "|---" * len(names) + "|",
        ]
        lines += [
            f"| {x:,.0f} | {' | '.join(map(number, values))} |"
            for x, *values in zip(s["x"], *columns, strict=True)
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def parts_markdown(parts: Sequence[Mapping[str, Any]]) -> str:
    """One table for each part of a profile."""
    out = []
    for part in parts:
        whole = sum(part["operations"].values()) or 1.0
        spent = f"{part['seconds']:.1f} s, {part['cpu_seconds']:.1f} s of the processors"
        lines = [f"**{part['title']}**: {spent}", ""]
        lines += ["| operation | s | of those shown |", "|---|---|---|"]
        lines += [f"| `{op}` | {s:.2f} | {s / whole:.0%} |" for op, s in part["operations"].items()]
        out.append("\n".join(lines))
    return "\n\n".join(out) + "\n"
