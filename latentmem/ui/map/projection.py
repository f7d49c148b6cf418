"""Keys -> points of a plane, and how far the picture may be trusted. numpy; scikit-learn only where
it is asked for."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...files import replacing
from ...model.weights.cache import cache_dir
from ...records import LatentmemError, Status, digest

# up to this many keys or numbers a key the principal axes are exact; beyond it, an iteration finds
# them
EXACT = 800
CHUNK = 1 << 22  # numbers handled at a time: 32 MB in float64
NEAR = 3  # neighbours that place a point the method itself did not place
SAMPLE, NEIGHBOURS = 1000, 10  # of the measure of trust


@dataclass(frozen=True, eq=False)
class Plane:
    """Points [n, 2] of n keys. A linear one also has its `centre` [d], its `axes` [d, 2] and the
    share of the variance they explain. `beside` of the points were placed next to their nearest
    neighbours, not by the method itself."""

    points: np.ndarray
    method: str = "pca"
    centre: np.ndarray | None = None
    axes: np.ndarray | None = None
    explained: float | None = None
    beside: int = 0

    def project(self, key: np.ndarray) -> np.ndarray | None:
        """One key [d] -> its point [2]; None when the plane is not linear or was made from keys of
        another length."""
        if self.axes is None or self.centre is None or len(key) != len(self.centre):
            return None
        return (key - self.centre) @ self.axes


def pca(keys: np.ndarray) -> Plane:
    """The two principal axes of keys [n, d]. With fewer than three keys the missing axes are zero,
    so points may coincide.

    The sign of each axis is fixed (its largest loading is positive), so the same bank always gives
    the same picture.
    """
    n, d = keys.shape
    centre = keys.mean(axis=0, dtype=np.float64) if n else np.zeros(d)
    axes = np.zeros((d, 2))
    explained = 1.0
    if n > 1:
        top, values, total = (_exact if min(n, d) <= EXACT else _iterated)(keys, centre)
        top = top[:, values > 1e-10]
        axes[:, : top.shape[1]] = top * np.where(
            top[np.abs(top).argmax(axis=0), range(top.shape[1])] < 0, -1, 1
        )
        explained = min(1.0, float(values.sum() / total)) if total > 0 else 1.0
    points = (
        np.concatenate([(part - centre) @ axes for part in _parts(keys)]) if n else np.zeros((0, 2))
    )
    return Plane(points, "pca", centre, axes, explained)


def _parts(keys: np.ndarray) -> list[np.ndarray]:
    rows = max(1, CHUNK // max(1, keys.shape[1]))
    return [keys[i : i + rows] for i in range(0, len(keys), rows)]


def _exact(keys: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(axes [d, at most 2], their variances, the whole variance) from the smaller of the two Gram
    matrices."""
    n, d = keys.shape
    if n >= d:
        gram = sum(c.T @ c for part in _parts(keys) for c in [part - centre])
        values, vectors = np.linalg.eigh(gram)
        return (
            vectors[:, ::-1][:, :2],
            np.maximum(values[::-1][:2], 0),
            float(np.maximum(values, 0).sum()),
        )
    centred = keys - centre
    values, left = np.linalg.eigh(centred @ centred.T)
    best = np.maximum(values[::-1][:2], 0)
    return (
        centred.T @ left[:, ::-1][:, :2] / np.sqrt(np.maximum(best, 1e-12)),
        best,
        float(np.maximum(values, 0).sum()),
    )


def _iterated(
    keys: np.ndarray, centre: np.ndarray, extra: int = 14, rounds: int = 8
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same by subspace iteration (Halko et al., 0909.4061), in time linear in n and d: the Gram
    matrix of 5,000 keys of 6,144 numbers would take half a minute."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((keys.shape[1], 2 + extra)))[0]
    total = 0.0
    for last in [False] * rounds + [True]:
        back, square = np.zeros_like(basis), np.zeros((basis.shape[1],) * 2)
        for part in _parts(keys):
            centred = (part - centre).astype(np.float32)
            seen = centred @ basis.astype(np.float32)
            if last:
                square += (seen.T @ seen).astype(np.float64)
                total += float((centred.astype(np.float64) ** 2).sum())
            else:
                back += centred.T @ seen
        if not last:
            basis = np.linalg.qr(back)[0]
    values, turn = np.linalg.eigh(square)
    return (basis @ turn)[:, ::-1][:, :2], np.maximum(values[::-1][:2], 0), total


def nearest(points: np.ndarray, star: np.ndarray, without: int | None = None) -> int | None:
    """Index of the point nearest to the star in the picture, one point perhaps left out; None when
    there is no other."""
    far = ((points - star) ** 2).sum(axis=1)
    if without is not None:
        far[without] = np.inf
    best = int(far.argmin()) if len(far) else 0
    return best if len(far) and np.isfinite(far[best]) else None


def between(points: np.ndarray, similarities: Sequence[float]) -> np.ndarray:
    """Where something lies that is so similar to these points [m, 2]: their mean, weighted by 1 /
    (1 - similarity)."""
    weights = 1 / (1.001 - np.clip(np.asarray(similarities, np.float64), -1, 1))
    return (points * weights[:, None]).sum(axis=0) / weights.sum()


def spread(keys: np.ndarray, fitted: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [n, 2] of unit keys [n, d], of which those at `fitted` [m] have `points` [m, 2]; each
    of the others lies between its NEAR most similar fitted ones."""
    all_points = np.zeros((len(keys), 2), np.float32)
    all_points[fitted] = points
    rest = np.setdiff1d(np.arange(len(keys)), fitted)
    take, rows = min(NEAR, len(fitted)), max(1, CHUNK // max(1, len(fitted)))
    for some in (rest[i : i + rows] for i in range(0, len(rest), rows)):
        similar = keys[some] @ keys[fitted].T  # [some, m]
        best = np.argpartition(-similar, take - 1, axis=1)[:, :take]
        weights = 1 / (1.001 - np.clip(np.take_along_axis(similar, best, axis=1), -1, 1))
        all_points[some] = (points[best] * weights[:, :, None]).sum(axis=1) / weights.sum(
            axis=1, keepdims=True
        )
    return all_points


def trustworthiness(keys: np.ndarray, points: np.ndarray) -> tuple[float, int] | None:
    """(trustworthiness, number of keys it was measured on): 1 when each point's nearest in the
    picture are its nearest in truth, about 0.5 for a picture drawn by chance (Venna and Kaski
    2001). On a fixed sample; None for fewer than 5 keys.
    """
    from sklearn.manifold import trustworthiness as measured

    rows = np.arange(len(keys))
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(len(keys), SAMPLE, replace=False))
    neighbours = min(NEIGHBOURS, (len(rows) - 1) // 2)
    if len(rows) < 5 or neighbours < 1:
        return None
    return float(
        measured(np.asarray(keys[rows], np.float64), points[rows], n_neighbors=neighbours)
    ), len(rows)


# ---------- t-SNE and UMAP pictures of keys: computed once, beside the app, with progress, and kept
# on disk.

log = logging.getLogger(__name__)
T = TypeVar("T")
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
# raise it when a method's settings in `map_worker.py` change: then the pictures are computed again
VERSION = "1"
FEWEST = 5  # memories a neighbour method needs
# keys the method itself places: t-SNE takes minutes for more; the others lie beside their nearest
MOST_FITTED = 10_000
MOST_KEPT = 64  # pictures on disk, the oldest go first
PATIENCE = 1800.0  # seconds
WORKER = Path(__file__).with_name("projection_worker.py")


def methods() -> dict[str, str]:
    """Method -> its name, of those that are installed."""
    return {m: name for m, name in METHODS.items() if m != "umap" or find_spec("umap") is not None}


def place(keys: np.ndarray, method: str) -> Generator[Status, None, Plane]:
    """The picture of unit keys [n, d] by a method, as the generator's return value, with progress
    on the way. Closing the generator ends the computation. Raises LatentmemError."""
    if method == "pca":
        return pca(keys)
    if method not in methods():
        raise LatentmemError(
            f"The projection {str(method)[:20]!r} is not installed: choose "
            f"{' or '.join(methods().values())}."
        )
    if len(keys) < FEWEST:
        raise LatentmemError(
            f"{METHODS[method]} needs {FEWEST} memories and the map has {len(keys)}: use PCA."
        )
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


def grown(
    old: Plane,
    old_names: tuple[str, ...],
    names: tuple[str, ...],
    keys: np.ndarray,
    fitted: Collection[str] | None = None,
) -> Plane | None:
    """A neighbour picture after some memories came or went: those that were there stay, new ones
    lie beside their nearest. None when more than a tenth are new, so that it should be computed
    again.

    `fitted`: the memories that there were when it was last computed, if not those of `old`. New is
    what came since then: a bank that grows one by one would else never have a tenth of new ones.
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
        given, wanted, said = (
            Path(where) / "keys.npy",
            Path(where) / "points.npy",
            Path(where) / "errors",
        )
        np.save(given, keys, allow_pickle=False)
        with said.open("wb") as errors:
            # -P: the folder of the script is no place to import from; -u: progress line by line
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", str(WORKER), method, str(given), str(wanted)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
            )
        try:
            yield from _told(process, name, len(keys))
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0 or not wanted.is_file():
            log.error("%s failed: %s", name, said.read_text(errors="replace")[-2000:])
            raise LatentmemError(
                f"{name} failed on these {len(keys)} memories: use PCA; the server's log says why."
            )
        return _checked(wanted, len(keys))


def _told(process: subprocess.Popen[str], name: str, n: int) -> Iterator[Status]:
    """Progress until the process has ended, at least twice a second, so that whoever listens can
    close it."""
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
        yield Status(
            f"Computing the {name} picture of {n} memories, once: {time.monotonic() - began:.0f} s",
            done,
            total,
        )


def _numbers(line: str) -> tuple[float, float] | None:
    words = line.split()
    return (
        (float(words[0]), float(words[1]))
        if len(words) == 2 and all(w.isdigit() for w in words)
        else None
    )


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
    """Keeps a picture. A disk that is full or read-only means that it is computed again another
    time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part, part.open("wb") as out:
            np.save(out, points, allow_pickle=False)
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


# ---------- What a picture of many points says at a glance: groups named by their words, and where
# the points are dense.

FEWEST_CLUSTERED = 12  # points below which groups mean nothing
MOST = 14  # groups: more names than that cover the picture
MOST_WORDS = 3
ASKING = frozenset(
    "does did gets get takes take makes make has had many much long far total altogether "
    "number".split()
)
GRID, BLUR = 56, 1.8  # cells along each side of the density, and the width of its bell in cells


@dataclass(frozen=True, slots=True)
class Group:
    """A group of points near each other, where its name stands, and the words most typical of its
    problems."""

    x: float
    y: float
    words: tuple[str, ...]
    size: int


def groups(points: np.ndarray, texts: Sequence[str]) -> list[Group]:
    """Groups of the points [n, 2] of these problems, by k-means in the picture; the same every
    time. A group without a typical word is left out."""
    n = len(points)
    if n < FEWEST_CLUSTERED:
        return []
    from sklearn.cluster import KMeans

    k = int(np.clip(round((n / 6) ** 0.5), 2, MOST))
    if len(np.unique(points, axis=0)) < k:
        return []
    label = KMeans(k, n_init=3, random_state=0).fit(np.asarray(points, np.float64)).labels_
    found = []
    for g, words in enumerate(typical_words(texts, label, k)):
        mine = points[label == g]
        if words and len(mine) >= 3:
            x, y = np.median(mine, axis=0)
            found.append(Group(float(x), float(y), words, len(mine)))
    return found


def typical_words(texts: Sequence[str], label: np.ndarray, k: int) -> list[tuple[str, ...]]:
    """For each of k groups the words most typical of its texts: class-based tf-idf (Grootendorst,
    2203.05794), in which a group is one document. A word must stand in a fifth of the group's
    texts, and there half again as often as elsewhere."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    try:
        counter = CountVectorizer(
            stop_words=sorted(ENGLISH_STOP_WORDS | ASKING),
            token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
            min_df=2,
            binary=True,
        )
        table = counter.fit_transform(texts)
    except ValueError:  # no words at all, or none twice
        return [()] * k
    words, n = counter.get_feature_names_out(), len(texts)
    member = csr_matrix((np.ones(n), (label, np.arange(n))), (k, n))
    inside = (member @ table).toarray()  # [k, words]: texts of the group with the word
    size = np.bincount(label, minlength=k)[:, None]
    frequency = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    score = frequency * np.log1p(inside.sum() / k / np.maximum(inside.sum(axis=0), 1))
    often = inside / np.maximum(size, 1)
    score[(inside < 2) | (often < 0.2) | (often < 1.5 * inside.sum(axis=0) / n)] = 0
    return [
        tuple(str(words[i]) for i in np.argsort(-row, kind="stable")[:MOST_WORDS] if row[i] > 0)
        for row in score
    ]


def density(points: np.ndarray) -> dict[str, Any] | None:
    """{"x", "y", "z"}: how dense the points [n, 2] are on a grid of GRID x GRID cells, 1 at the
    densest."""
    if len(points) < FEWEST_CLUSTERED:
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.maximum(0.08 * (high - low), 1e-6)
    edges = [np.linspace(a - r, b + r, GRID + 1) for a, b, r in zip(low, high, room, strict=True)]
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
    reach = np.arange(-6, 7)
    bell = np.exp(-0.5 * (reach / BLUR) ** 2)
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, bell / bell.sum(), "same")
    centres = [(e[:-1] + e[1:]) / 2 for e in edges]
    return {
        "x": [round(float(v), 5) for v in centres[0]],
        "y": [round(float(v), 5) for v in centres[1]],
        "z": np.round(counts.T / max(counts.max(), 1e-12), 3).tolist(),
    }
