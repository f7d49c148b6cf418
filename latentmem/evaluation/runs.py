"""The runs in a folder, as a report reads them: nothing is computed again, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import LatentmemError
from .journal import read_results
from .results import Learned, Result

ROWS_FILES = {"sweep": "sweep.jsonl", "single": "single.jsonl", "keys": "keys.jsonl"}


@dataclass(frozen=True)
class Run:
    """One folder with results. `name` is its path within the report's folder."""

    name: str
    facts: dict[str, Any]
    results: tuple[Result, ...]
    learned: tuple[Learned, ...]

    @property
    def protocol(self) -> str:
        return str(self.facts.get("protocol", "heldout"))

    @property
    def seed(self) -> int:
        return int(self.facts.get("seed", 0))

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.facts.get("settings", {}))

    @property
    def model(self) -> str:
        return str(self.settings.get("model", ""))


@dataclass(frozen=True)
class Found:
    """Everything that a report is made of. `rows` maps "sweep", "single" and "keys" to their lines."""

    runs: tuple[Run, ...]
    rows: dict[str, tuple[dict[str, Any], ...]]


def collect(folders: Sequence[Path]) -> Found:
    """All runs in these folders and below. Raises LatentmemError if there is none, or if one is damaged."""
    runs: list[Run] = []
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ROWS_FILES}
    for folder in folders:
        for file in sorted(folder.rglob("results.jsonl")):
            results, learned, facts = read_results(file.parent)
            if results:
                runs.append(Run(file.parent.relative_to(folder).as_posix(), facts, tuple(results), tuple(learned)))
        for kind, name in ROWS_FILES.items():
            for file in sorted(folder.rglob(name)):
                rows[kind] += read_rows(file)
    if not runs and not any(rows.values()):
        raise LatentmemError(f"There are no results in {', '.join(map(str, folders))}: run `latentmem evaluate` first.")
    return Found(tuple(runs), {kind: tuple(lines) for kind, lines in rows.items()})


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file of plain objects; a last line that is not whole is left out. Raises LatentmemError."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    out = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(json.loads(line))
        except ValueError as e:
            raise LatentmemError(f"{file}, line {number} is not JSON ({e}): remove the line.") from None
    return out
