"""A run on disk. It can be killed at any moment and continues as if nothing had happened.

- `run.json`: the configuration. A folder does not continue with another one.
- `results.jsonl`: one unit after another (the replies of one batch, or one lesson). Each line holds
  the number of lines of its unit, so that opening the file finds and drops a unit that a kill cut
  off.
- `state/SYSTEM/N/`: what a system has learnt from its first N lessons. It is written beside its
  place and then renamed, so what has a number is whole. It holds the line of its lesson too, which
  opening adds to the results if the kill came in between.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from .. import files
from ..records import LatentmemError, from_json, to_dict
from .results import Learned, Result

SAVING = 20  # a state is saved again after so many times the seconds that saving it took
KINDS: dict[str, type[Result] | type[Learned]] = {"Result": Result, "Learned": Learned}
KEPT = ("made.device", "made.dtype")  # another arithmetic samples other tokens
Line = Result | Learned


@dataclass(frozen=True)
class Remedies:
    """What a journal's errors advise and call its folder; the defaults fit the command line."""

    folder: str = ""  # in place of its path, which a visitor of the app must not see
    anew: str = "give another folder with --out"  # the folder holds another run
    mend: str = "remove it"  # a line that is damaged
    busy: str = "wait for it, or give another folder with --out"
    room: str = "make room there or give another folder with --out, then start again to go on"

    def name(self, folder: Path, file: Path | None = None) -> str:
        """A journal's folder, or a file of it."""
        if self.folder:
            return self.folder if file is None else str(file.relative_to(folder))
        return str(file or folder)


class Journal:
    """The folder of one run. A context manager: one process at a time may write to a folder."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], remedies: Remedies = Remedies()
    ) -> None:
        """Begin a run, or go on with it. Raises LatentmemError if the folder holds another one."""
        self.folder, self.file, self.remedies = folder, folder / "results.jsonl", remedies
        with files.file_errors(remedies.name(folder), "made", remedies.room):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = taken(folder, remedies)
        try:
            _check_config(folder, config, remedies)
            name = remedies.name(folder, self.file)
            self.units, whole = _read(self.file, name, remedies.mend)
            if self.file.exists() and self.file.stat().st_size != whole:
                os.truncate(self.file, whole)
        except BaseException:
            self.close()
            raise
        # name -> (when its state was saved, how long that took)
        self._saved: dict[str, tuple[float, float]] = {}

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Results

    def results(self) -> list[Result]:
        return [line for unit in self.units.values() for line in unit if isinstance(line, Result)]

    def learned(self) -> list[Learned]:
        return [line for unit in self.units.values() for line in unit if isinstance(line, Learned)]

    def __contains__(self, unit: object) -> bool:
        return unit in self.units

    def append(self, unit: str, lines: Sequence[Line]) -> None:
        """Write a unit whole; it is on the disk when this returns."""
        assert lines and unit not in self.units
        text = "".join(to_line(unit, len(lines), one) + "\n" for one in lines)
        with self._writing(self.file):
            files.append(self.file, text)
        self.units[unit] = tuple(lines)

    def _writing(self, file: Path) -> AbstractContextManager[None]:
        name = self.remedies.name(self.folder, file)
        return files.file_errors(name, "written", self.remedies.room)

    # What a system has learnt

    def state(self, name: str) -> tuple[int, Path | None]:
        """(number of lessons, folder with what was learnt from them); (0, None) at the start."""
        home = self.folder / "state" / name
        done = (
            sorted(int(p.name) for p in home.iterdir() if p.name.isdigit()) if home.is_dir() else []
        )
        return (done[-1], home / str(done[-1])) if done else (0, None)

    def keep(
        self,
        name: str,
        unit: str,
        lesson: Learned,
        save: Callable[[Path], None],
        *,
        must: bool = False,
    ) -> None:
        """Write down a lesson and what the system has learnt after it. If saving takes long and the
        last one is recent, what was learnt is not saved, unless `must` is set: a run that continues
        learns the same from the lessons since."""
        when, took = self._saved.get(name, (-inf, 0.0))
        began = monotonic()
        if must or began - when >= SAVING * took:
            home, number = self.folder / "state" / name, str(lesson.place + 1)
            part = home / f"{number}.part"
            shutil.rmtree(part, ignore_errors=True)
            with self._writing(part):
                part.mkdir(parents=True)
                save(part)
                (part / "lesson.json").write_text(to_line(unit, 1, lesson), encoding="utf-8")
                files.put_in_place(part, home / number)
            self._settle(name)
            self._saved[name] = monotonic(), monotonic() - began
        if unit not in self.units:
            self.append(unit, [lesson])

    def restore(self, name: str, load: Callable[[Path], None]) -> int:
        """Give back to a system what it had learnt; returns the number of its lessons."""
        number, folder = self.state(name)
        if folder is None:
            return 0
        self._settle(name)
        load(folder)
        return number

    def _settle(self, name: str) -> None:
        """Add the last lesson's line if it is missing; remove older and half-written states."""
        folder = self.state(name)[1]
        assert folder is not None
        file = folder / "lesson.json"
        where = self.remedies.name(self.folder, file)
        unit, _, line = from_line(file.read_bytes(), where, self.remedies.mend)
        if unit not in self.units:
            self.append(unit, [line])
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)


def taken(folder: Path, remedies: Remedies = Remedies()) -> Any:
    """The lock of a journal, held. Raises LatentmemError while another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        # here it stands within the sentence
        name = remedies.folder[:1].lower() + remedies.folder[1:] or folder
        raise LatentmemError(f"Another run is writing to {name}: {remedies.busy}.") from None
    return lock


# ---------- Lines.


def to_line(unit: str, of: int, line: Line) -> str:
    data = {"record": type(line).__name__, "unit": unit, "of": of} | to_dict(line)
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def from_line(text: str | bytes, where: str, remedy: str = Remedies.mend) -> tuple[str, int, Line]:
    """(unit, lines of that unit, the record). Raises LatentmemError naming what is wrong."""
    try:
        data = json.loads(text)
        kind, unit, of = KINDS[data.pop("record")], str(data.pop("unit")), int(data.pop("of"))
        return unit, of, from_json(kind, json.dumps(data))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        why = f"{type(e).__name__}: {str(e)[:80]}"
    except LatentmemError as e:
        why = str(e).rstrip(".")
    raise LatentmemError(f"{where} is not a line of results ({why}): {remedy}.")


def read_results(folder: Path) -> tuple[list[Result], list[Learned], dict[str, Any]]:
    """The results, lessons and configuration of a run, without taking part in it."""
    file = folder / "results.jsonl"
    lines = [line for unit in _read(file, str(file), Remedies.mend)[0].values() for line in unit]
    results = [one for one in lines if isinstance(one, Result)]
    learned = [one for one in lines if isinstance(one, Learned)]
    return results, learned, _config(folder) or {}


def _read(file: Path, name: str, remedy: str) -> tuple[dict[str, tuple[Line, ...]], int]:
    """(units, bytes that they take). Leaves out a last unit that is not whole. Raises
    LatentmemError for damage before it."""
    units: dict[str, tuple[Line, ...]] = {}
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as e:
        raise LatentmemError(f"{name} cannot be read ({e.strerror}).") from None
    whole = at = 0
    open_unit: list[Line] = []
    # what follows the last newline is not a whole line
    for number, raw in enumerate(data.split(b"\n")[:-1], 1):
        try:
            unit, of, line = from_line(raw, f"{name}, line {number}", remedy)
        except LatentmemError:
            if at + len(raw) + 1 == len(data):  # the last line, torn
                break
            raise
        at += len(raw) + 1
        open_unit.append(line)
        if len(open_unit) == of:
            units[unit], open_unit, whole = tuple(open_unit), [], at
    return units, whole


# ---------- run.json.


def _config(folder: Path, remedies: Remedies = Remedies()) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise LatentmemError(
            f"{remedies.name(folder, folder / 'run.json')} cannot be read ({why}): {remedies.anew}."
        ) from None


def _check_config(folder: Path, config: Mapping[str, Any], remedies: Remedies) -> None:
    """Write the configuration of a new run. That of an old one must be the same, except for what
    stands under "made" and is not in KEPT."""
    given = json.loads(json.dumps(config, default=str))
    there = _config(folder, remedies)
    if there is None:
        file = folder / "run.json"
        text = json.dumps(given, indent=1, ensure_ascii=False) + "\n"
        files.write_whole(file, text, remedies.room, name=remedies.name(folder, file))
        return
    for name, old, new in _differences(there, given):
        if name in KEPT or not name.startswith("made"):
            raise LatentmemError(
                f"{remedies.name(folder)} holds a run with {name.removeprefix('made.')} = {old}, "
                f"and here it is {new}: {remedies.anew}."
            )


def _differences(old: Any, new: Any, name: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name or "run", old, new


def write_whole(file: Path, text: str) -> None:
    """Write a file of a folder of results whole or not at all. Raises LatentmemError."""
    files.write_whole(file, text, "give another folder with --out")


# ---------- The runs in a folder, as a report reads them.

ROWS_FILES = {"sweep": "sweep.jsonl", "single": "single.jsonl", "keys": "keys.jsonl"}


@dataclass(frozen=True)
class Run:
    """One folder with results. `name` is its path within the report's folder, different from all
    others."""

    name: str
    config: dict[str, Any]
    results: tuple[Result, ...]
    learned: tuple[Learned, ...]

    @property
    def protocol(self) -> str:
        return str(self.config.get("protocol", "heldout"))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.config.get("settings", {}))

    @property
    def model(self) -> str:
        return str(self.settings.get("model", ""))


@dataclass(frozen=True)
class Found:
    """What a report is made of. `rows` maps "sweep", "single" and "keys" to their lines."""

    runs: tuple[Run, ...]
    rows: dict[str, tuple[dict[str, Any], ...]]


def collect(folders: Sequence[Path], *, remedy: str = "run `latentmem evaluate` first") -> Found:
    """All runs in these folders and below, each once. Raises LatentmemError if there is none or one
    is damaged."""
    runs = []
    for place, name in _named(_files(folders, "results.jsonl")).items():
        results, learned, config = read_results(place)
        if results:
            runs.append(Run(name, config, tuple(results), tuple(learned)))
    rows = {
        kind: tuple(row for file in _files(folders, name) for row in files.read_lines(file))
        for kind, name in ROWS_FILES.items()
    }
    if not runs and not any(rows.values()):
        raise LatentmemError(f"There are no results in {', '.join(map(str, folders))}: {remedy}.")
    return Found(tuple(runs), rows)


def _files(folders: Sequence[Path], name: str) -> dict[Path, Path]:
    """Every file of this name in the folders and below, with the folder it was found in."""
    found: dict[Path, tuple[Path, Path]] = {}
    for folder in folders:
        with files.file_errors(folder, "read", "give another folder"):
            for file in sorted(folder.resolve().rglob(name)):
                found.setdefault(file.resolve(), (file, folder.resolve()))
    return dict(found.values())


def _named(files: Mapping[Path, Path]) -> dict[Path, str]:
    """The folder of each file, with a name: its path within the folder in which it was found, and
    as many of the folders above as make names differ."""
    length = {f.parent: max(1, len(f.parent.relative_to(top).parts)) for f, top in files.items()}
    while True:
        names = {place: Path(*place.parts[-n:]).as_posix() for place, n in length.items()}
        count = Counter(names.values())
        if max(count.values(), default=1) == 1:
            return names
        for place, name in names.items():
            length[place] += count[name] > 1
