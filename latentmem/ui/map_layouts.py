"""t-SNE and UMAP pictures of keys: computed once, beside the app, with progress, and kept on disk."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..records import LatentmemError, Status, digest
from ..weight_store import cache_dir
from .projection import Plane, pca, spread

log = logging.getLogger(__name__)
T = TypeVar("T")
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
VERSION = "1"  # raise it when a method's settings in `map_worker.py` change: then the pictures are computed again
FEWEST = 5  # memories a neighbour method needs
MOST_FITTED = 10_000  # keys the method itself places: t-SNE takes minutes for more; the others lie beside their nearest
MOST_KEPT = 64  # pictures on disk, the oldest go first
PATIENCE = 1800.0  # seconds
WORKER = Path(__file__).with_name("map_worker.py")


def methods() -> dict[str, str]:
    """Method -> its name, of those that are installed."""
    return {m: name for m, name in METHODS.items() if m != "umap" or find_spec("umap") is not None}


def place(keys: np.ndarray, method: str) -> Generator[Status, None, Plane]:
    """The picture of unit keys [n, d] by a method, as the generator's return value, with progress on the way. Closing the
    generator ends the computation. Raises LatentmemError."""
    if method == "pca":
        return pca(keys)
    if method not in methods():
        raise LatentmemError(f"The projection {str(method)[:20]!r} is not installed: choose {' or '.join(methods().values())}.")
    if len(keys) < FEWEST:
        raise LatentmemError(f"{METHODS[method]} needs {FEWEST} memories and the map has {len(keys)}: use PCA.")
    fitted = np.arange(len(keys))
    if len(keys) > MOST_FITTED:
        fitted = np.sort(np.random.default_rng(0).choice(len(keys), MOST_FITTED, replace=False))
    chosen = np.ascontiguousarray(keys[fitted], np.float32)
    file = folder() / f"{digest(VERSION, method, str(chosen.shape), chosen.tobytes())[:40]}.npy"
    points = kept(file, len(fitted))
    if points is None:
        points = yield from _computed(chosen, method)
        keep(file, points)
    beside = len(keys) - len(fitted)
    return Plane(spread(keys, fitted, points) if beside else points, method, beside=beside)


def grown(old: Plane, old_names: tuple[str, ...], names: tuple[str, ...], keys: np.ndarray,
          fitted: Collection[str] | None = None) -> Plane | None:
    """A neighbour picture after some memories came or went: those that were there stay, new ones lie beside their
    nearest. None when more than a tenth are new, so that it should be computed again.

    `fitted`: the memories that there were when it was last computed, if not those of `old`. New is what came since then: a
    bank that grows one by one would else never have a tenth of new ones.
    """
    at = {name: i for i, name in enumerate(old_names)}
    known = [i for i, name in enumerate(names) if name in at]
    fresh, counted = len(names) - len(known), at if fitted is None else fitted
    if not known or sum(name not in counted for name in names) > max(3, len(names) // 10):
        return None
    points = np.asarray([old.points[at[names[i]]] for i in known], np.float32)
    return Plane(spread(keys, np.asarray(known), points), old.method, beside=old.beside + fresh)


# ------------------------------------------------------------------ the process
def _computed(keys: np.ndarray, method: str) -> Generator[Status, None, np.ndarray]:
    name = METHODS[method]
    with tempfile.TemporaryDirectory(prefix="latentmem-map-") as where:
        given, wanted, said = Path(where) / "keys.npy", Path(where) / "points.npy", Path(where) / "errors"
        np.save(given, keys, allow_pickle=False)
        with said.open("wb") as errors:
            # -P: the folder of the script is no place to import from; -u: progress line by line
            process = subprocess.Popen([sys.executable, "-P", "-u", str(WORKER), method, str(given), str(wanted)],
                                       stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace")
        try:
            yield from _told(process, name, len(keys))
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0 or not wanted.is_file():
            log.error("%s failed: %s", name, said.read_text(errors="replace")[-2000:])
            raise LatentmemError(f"{name} failed on these {len(keys)} memories: use PCA; the server's log says why.")
        return _checked(wanted, len(keys))


def _told(process: subprocess.Popen[str], name: str, n: int) -> Iterator[Status]:
    """Progress until the process has ended, at least twice a second, so that whoever listens can close it."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True, name="latentmem-map").start()
    began, done, total = time.monotonic(), 0.0, 0.0
    while True:
        with suppress(queue.Empty):
            line = lines.get(timeout=0.5)
            if line is None:
                process.wait()
                return
            done, total = _numbers(line) or (done, total)
        if time.monotonic() - began > PATIENCE:
            raise LatentmemError(f"{name} was stopped after {PATIENCE / 60:.0f} minutes: use PCA.")
        yield Status(f"Computing the {name} picture of {n} memories, once: {time.monotonic() - began:.0f} s", done, total)


def _numbers(line: str) -> tuple[float, float] | None:
    words = line.split()
    return (float(words[0]), float(words[1])) if len(words) == 2 and all(w.isdigit() for w in words) else None


# ------------------------------------------------------------------ on disk
def folder() -> Path:
    """Where pictures are kept: `maps` in the cache folder. They can be deleted at any time."""
    return cache_dir() / "maps"


def kept(file: Path, n: int) -> np.ndarray | None:
    """The picture in a file, None when there is none or it is damaged."""
    try:
        points = _checked(file, n)
    except (LatentmemError, OSError):
        return None
    with suppress(OSError):
        os.utime(file)  # the oldest go first
    return points


def keep(file: Path, points: np.ndarray) -> None:
    """Keeps a picture. A disk that is full or read-only means that it is computed again another time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, points, allow_pickle=False)
        temporary.replace(file)
        for old in sorted(file.parent.glob("*.npy"), key=lambda f: f.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as e:
        log.warning("the picture was not kept: %s", e)


def _checked(file: Path, n: int) -> np.ndarray:
    """Finite points [n, 2] in a file. Raises LatentmemError."""
    try:
        points = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as e:
        raise LatentmemError(f"{file.name} holds no picture ({str(e)[:80]}): delete it.") from None
    if points.shape != (n, 2) or points.dtype != np.float32 or not np.isfinite(points).all():
        raise LatentmemError(f"{file.name} holds another picture: delete it.")
    return points


def run(steps: Generator[Status, None, T]) -> T:
    """What a generator returns at its end, for callers that do not stream."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
