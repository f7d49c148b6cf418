"""Figures become rows; the JSON file that keeps them, and how it is shown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .. import __version__
from ..engine.doctor import MISSING, installed
from ..engine.doctor import machine as examined
from ..evaluation.figures import layout, scatter
from ..evaluation.page import NONE, Columns, Report
from ..files import write_whole
from ..records import LatentmemError

# kind of report -> what its rows have
KINDS = {"bench": "ours", "scale": "x"}
# what our own side of every row depends on
ALWAYS = ("latentmem", "python", "system", "torch", "transformers", "numpy")
PACKAGES = "torch transformers peft numpy trl llama-cpp-python qdrant-client datasets".split()


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
    return {name: value for name, value in examined([]).items() if name != "memory free"}


def versions() -> dict[str, str]:
    found = {"latentmem": __version__, "python": platform.python_version()}
    return found | {"system": platform.platform()} | installed(PACKAGES)


def needed(found: Mapping[str, str], packages: Sequence[str] = ()) -> dict[str, str]:
    """Of these versions those that a row depends on, with the packages of its peer."""
    return {name: found[name] for name in (*ALWAYS, *packages) if name in found}


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def read(file: Path, kind: str) -> dict[str, Any]:
    """The content of a report: machine, versions and rows; empty if there is no file. Raises
    LatentmemError if the file is no report of this kind."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        whole = all(row["name"] and KINDS[kind] in row for row in data["rows"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise _refused(file, f"is no report of kind {kind} ({type(e).__name__}: {e})") from None
    if not whole:
        raise _refused(file, f"is no report of kind {kind}, for its rows are others")
    return data


def _refused(file: Path, why: str) -> LatentmemError:
    return LatentmemError(f"{file} {why}: give another file with --out.")


def check_machine(file: Path, kind: str, here: Mapping[str, Any]) -> None:
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
    return made.get("settings") == settings and made.get("versions") == versions


def merge(
    file: Path, kind: str, rows: Sequence[Mapping[str, Any]], order: Sequence[str], **facts: Any
) -> None:
    """Put rows into the file, in place of those of the same name; whole or not at all. Raises
    LatentmemError.

    Rows that stay keep the versions with which they were measured, because the file's versions are
    those of the new rows.
    """
    kept = {r["name"]: r for r in (*read(file, kind).get("rows", []), *rows)}
    place = {name: i for i, name in enumerate(order)}
    ordered = sorted(kept.values(), key=lambda r: place.get(r["name"], len(place)))
    data = {**facts, "rows": ordered}
    write(file, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write(file: Path, text: str) -> None:
    write_whole(file, text, "give another file with --out", folders=True)


# ---------- How it is shown.


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits: 0.0312, 1.25, 118."""
    if value is None:
        return NONE
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def overview(data: Mapping[str, Any]) -> Report:
    """The rows as a table under the machine and the versions; a row's note names those versions in
    which it differs."""
    machine, versions = data.get("machine", {}), data.get("versions", {})

    def note(r: Mapping[str, Any]) -> str:
        named = r.get("versions", {}).items()  # of a missing peer the note says so already
        own = {n: v for n, v in named if v not in (MISSING, versions.get(n, v))}
        return "; ".join(filter(None, (r["note"], own and f"measured with {_listed(own)}")))

    report = Report("Measured", f"{_listed(machine)}. {_listed(versions)}.")
    columns: Columns = {
        "what": "what",
        "ours": lambda r: number(r["ours"], r["unit"]),
        "peer": lambda r: r["peer_name"] or NONE,
        "peer's figure": lambda r: number(r["peer"], r["unit"]),
        "times better": lambda r: number(r["ratio"]),
        "target": "target",
        "met": lambda r: {True: "yes", False: "no", None: NONE}[r["met"]],
        "note": note,
    }
    report.table(data.get("rows", []), columns, text_columns=(0, 2, 5, 6, 7))
    return report


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


# ---------- The series of `bench --scale`.

WIDE = 30  # values that span so many times the lowest take a logarithmic axis


def growth(data: Mapping[str, Any]) -> Report:
    """A table and a figure for each series."""
    report = Report("How cost grows", f"{_listed(data.get('machine', {}))}.")
    for s in data.get("rows", []):
        report.section(s["title"], s.get("note", ""))
        columns: Columns = {
            s["x_name"]: lambda point: f"{point[0]:,.0f}",
            s["y_name"]: lambda point: number(point[1]),
        }
        report.table(zip(s["x"], s["y"], strict=True), columns, text_columns=())
        report.figure(figure(s), s["title"])
    return report


def figure(s: Mapping[str, Any]) -> dict[str, Any]:
    """A series as a plotly figure; sizes, and values that span WIDE, have logarithmic axes."""
    x, y = list(s["x"]), list(s["y"])
    across = {"type": "log", "tickvals": x, "ticktext": [f"{v:,.0f}" for v in x]}
    kind = "log" if 0 < WIDE * min(y) < max(y) else "linear"
    shown = layout(s["x_name"], s["y_name"], across, {"type": kind, "rangemode": "tozero"})
    return {"data": [scatter(s["title"], x, y, "lines+markers")], "layout": shown}
