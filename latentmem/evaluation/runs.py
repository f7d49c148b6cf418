"""The runs in a folder, as a report reads them: nothing is computed again, and nothing is changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import LatentmemError
from .journal import read_results
from .results import Learned, Result

ROWS_FILES = {"sweep": "sweep.jsonl", "single": "single.jsonl", "keys": "keys.jsonl"}


@dataclass(frozen=True)
class Run:
    """One folder with results. `name` is its path within the report's folder, and tells it apart from all others."""

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


def collect(folders: Sequence[Path], *, remedy: str = "run `latentmem evaluate` first") -> Found:
    """All runs in these folders and below, each once. Raises LatentmemError if there is none, or if one is damaged."""
    runs = []
    for place, name in _named(_files(folders, "results.jsonl")).items():
        results, learned, facts = read_results(place)
        if results:
            runs.append(Run(name, facts, tuple(results), tuple(learned)))
    rows = {kind: tuple(row for file in _files(folders, name) for row in read_rows(file)) for kind, name in ROWS_FILES.items()}
    if not runs and not any(rows.values()):
        raise LatentmemError(f"There are no results in {', '.join(map(str, folders))}: {remedy}.")
    return Found(tuple(runs), rows)


def _files(folders: Sequence[Path], name: str) -> dict[Path, Path]:
    """Every file of this name in the folders and below, whole paths, each once, and the folder that it was found from."""
    found: dict[Path, tuple[Path, Path]] = {}
    for folder in folders:
        try:
            for file in sorted(folder.resolve().rglob(name)):
                found.setdefault(file.resolve(), (file, folder.resolve()))
        except OSError as e:
            raise LatentmemError(f"{folder} cannot be read ({e.strerror}): give another folder.") from None
    return dict(found.values())


def _named(files: Mapping[Path, Path]) -> dict[Path, str]:
    """The folder of each file, and a name for it: its path within the folder it was found from, and as much of what
    stands before as tells equal ones apart."""
    length = {file.parent: max(1, len(file.parent.relative_to(folder).parts)) for file, folder in files.items()}
    while True:
        names = {place: Path(*place.parts[-n:]).as_posix() for place, n in length.items()}
        count = Counter(names.values())
        if max(count.values(), default=1) == 1:
            return names
        for place, name in names.items():
            length[place] += count[name] > 1


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
