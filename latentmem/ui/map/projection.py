"""Keys -> points of a plane, and how far the picture may be trusted; groups of points and their
words. By scikit-learn."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.sparse import csr_matrix
from sklearn import manifold
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer, TfidfTransformer
from sklearn.neighbors import KNeighborsRegressor

from ...records import LatentmemError, Status

log = logging.getLogger(__name__)
T = TypeVar("T")
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
    """The two principal axes of keys [n, d], by randomized SVD (Halko et al., 0909.4061). Axes
    without variance are zero, so points of equal keys coincide.

    The same bank always gives the same picture: the seed is fixed, and the largest loading of each
    axis is positive.
    """
    n, d = keys.shape
    if min(n, d) < 1 or not np.ptp(keys, axis=0).any():
        return Plane(np.zeros((n, 2)), "pca", keys[0] if n else np.zeros(d), np.zeros((d, 2)), 1.0)
    fit = PCA(min(2, n, d), svd_solver="randomized", random_state=0).fit(keys)
    kept = fit.explained_variance_ratio_ > 1e-10
    axes = np.zeros((d, 2))
    axes[:, : len(kept)] = fit.components_.T * kept
    explained = min(1.0, float(fit.explained_variance_ratio_.sum()))
    return Plane((keys - fit.mean_) @ axes, "pca", fit.mean_, axes, explained)


def between(points: np.ndarray, similarities: Sequence[float]) -> np.ndarray:
    """The mean of these points [m, 2], weighted by 1 / (1 - similarity)."""
    weights = 1 / (1.001 - np.clip(np.asarray(similarities, np.float64), -1, 1))
    return (points * weights[:, None]).sum(axis=0) / weights.sum()


def spread(keys: np.ndarray, fitted: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [n, 2] of unit keys [n, d], of which those at `fitted` [m] have `points` [m, 2]; each
    of the others lies between its NEAR most similar fitted ones."""
    all_points = np.zeros((len(keys), 2), np.float32)
    all_points[fitted] = points
    rest = np.setdiff1d(np.arange(len(keys)), fitted)
    if len(rest):
        beside = KNeighborsRegressor(
            min(NEAR, len(fitted)), weights=lambda far: 1 / (0.001 + far), metric="cosine"
        )
        all_points[rest] = beside.fit(keys[fitted], points).predict(keys[rest])
    return all_points


def trustworthiness(keys: np.ndarray, points: np.ndarray) -> tuple[float, int] | None:
    """(trustworthiness, number of keys it was measured on): 1 when each point's nearest in the
    picture are its nearest in truth, about 0.5 for a picture drawn by chance (Venna and Kaski
    2001). On a fixed sample; None for fewer than 5 keys.
    """
    rows = np.arange(len(keys))
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(len(keys), SAMPLE, replace=False))
    neighbours = min(NEIGHBOURS, (len(rows) - 1) // 2)
    if len(rows) < 5 or neighbours < 1:
        return None
    far = np.asarray(keys[rows], np.float64)
    return float(manifold.trustworthiness(far, points[rows], n_neighbors=neighbours)), len(rows)


# ---------- t-SNE and UMAP: computed in a process of their own.

METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
FEWEST = 5  # memories a neighbour method needs
# keys the method itself places: t-SNE takes minutes for more; the others lie beside their nearest
MOST_FITTED = 10_000
PATIENCE = 1800.0  # seconds
LOOK = 0.2  # seconds between two looks at the worker's progress
PROGRESS = re.compile(r"^(\d+) (\d+)$", re.MULTILINE)
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
    points = yield from _computed(np.ascontiguousarray(keys[fitted], np.float32), method)
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
    """The worker's points [n, 2]. Closing the generator kills the worker."""
    name, began = METHODS[method], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="latentmem-map-") as folder:
        given, wanted, log_file = (Path(folder) / n for n in ("keys.npy", "points.npy", "log"))
        np.save(given, keys, allow_pickle=False)
        with log_file.open("wb") as out:
            # -P: the folder of the script is no place to import from; -u: progress line by line
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", str(WORKER), method, str(given), str(wanted)],
                stdout=out,
                stderr=out,
            )
        try:
            while process.poll() is None:
                seconds = time.monotonic() - began
                if seconds > PATIENCE:
                    raise LatentmemError(
                        f"{name} was stopped after {PATIENCE / 60:.0f} minutes: use PCA."
                    )
                done = PROGRESS.findall(log_file.read_text(errors="replace"))
                yield Status(
                    f"Computing the {name} map of {len(keys)} memories, once: {seconds:.0f} s",
                    *map(float, done[-1] if done else (0, 0)),
                )
                time.sleep(LOOK)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0 or not wanted.is_file():
            log.error("%s failed: %s", name, log_file.read_text(errors="replace")[-2000:])
            raise LatentmemError(
                f"{name} failed on these {len(keys)} memories: use PCA; the server's log says why."
            )
        return np.load(wanted, allow_pickle=False)


def run(steps: Generator[Status, None, T]) -> T:
    """What a generator returns at its end, for callers that do not stream."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# ---------- Groups of the points, named by their words.

FEWEST_CLUSTERED = 12  # points below which groups mean nothing
MOST = 14  # groups: more names than that cover the picture
MOST_WORDS = 3
ASKING = frozenset(
    "does did gets get takes take makes make has had many much long far total altogether "
    "number".split()
)


@dataclass(frozen=True, slots=True)
class Group:
    """Points near each other: where their name stands, their most typical words."""

    x: float
    y: float
    words: tuple[str, ...]
    size: int


def groups(points: np.ndarray, texts: Sequence[str]) -> list[Group]:
    """Groups of the points [n, 2] of these problems, by k-means in the picture; the same every
    time, the largest first. A group without words of its own is left out."""
    n = len(points)
    if n < FEWEST_CLUSTERED:
        return []
    k = int(np.clip(round((n / 6) ** 0.5), 2, MOST))
    if len(np.unique(points, axis=0)) < k:
        return []
    label = KMeans(k, n_init=3, random_state=0).fit(np.asarray(points, np.float64)).labels_
    found, named = [], typical_words(texts, label, k)
    for g in np.argsort(-np.bincount(label, minlength=k), kind="stable"):
        mine, words = points[label == g], named[g]
        if words and len(mine) >= 3 and all(words != other.words for other in found):
            x, y = np.median(mine, axis=0)
            found.append(Group(float(x), float(y), words, len(mine)))
    return found


def families(points: np.ndarray, names: Sequence[str]) -> list[Group]:
    """The families that lie close together among the points [n, 2], the largest first."""
    found = []
    for name in dict.fromkeys(filter(None, names)):
        mine = points[[n == name for n in names]]
        centre = np.median(mine, axis=0)
        far = [np.median(np.linalg.norm(some - centre, axis=1)) for some in (mine, points)]
        if len(mine) >= 3 and far[0] < 0.5 * far[1]:
            found.append(Group(*map(float, centre), (name.rsplit("/", 1)[-1],), len(mine)))
    return sorted(found, key=lambda g: -g.size)[:MOST]


def typical_words(texts: Sequence[str], label: np.ndarray, k: int) -> list[tuple[str, ...]]:
    """For each of k groups the words most typical of its texts: class-based tf-idf (Grootendorst,
    2203.05794), in which a group is one document. A word must stand in a fifth of the group's
    texts, and there half again as often as elsewhere."""
    counter = CountVectorizer(
        stop_words=sorted(ENGLISH_STOP_WORDS | ASKING),
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        min_df=2,
        binary=True,
    )
    try:
        table = counter.fit_transform(texts)
    except ValueError:  # no words at all, or none twice
        return [()] * k
    words, n = counter.get_feature_names_out(), len(texts)
    member = csr_matrix((np.ones(n), (label, np.arange(n))), (k, n))
    inside = (member @ table).toarray()  # [k, words]: texts of the group with the word
    often = inside / np.maximum(np.bincount(label, minlength=k)[:, None], 1)
    score = TfidfTransformer().fit_transform(inside).toarray()
    score[(inside < 2) | (often < 0.2) | (often < 1.5 * inside.sum(axis=0) / n)] = 0
    return [
        tuple(str(words[i]) for i in np.argsort(-row, kind="stable")[:MOST_WORDS] if row[i] > 0)
        for row in score
    ]
