"""What a picture of many points says at a glance: groups named by their words, and where the points are dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST = 12  # points below which groups mean nothing
MOST = 14  # groups: more names than that cover the picture
MOST_WORDS = 3
ASKING = frozenset("does did gets get takes take makes make has had many much long far total altogether number".split())
GRID, BLUR = 56, 1.8  # cells along each side of the density, and the width of its bell in cells


@dataclass(frozen=True, slots=True)
class Group:
    """A group of points near each other, where its name stands, and the words most typical of its problems."""

    x: float
    y: float
    words: tuple[str, ...]
    size: int


def groups(points: np.ndarray, texts: Sequence[str]) -> list[Group]:
    """Groups of the points [n, 2] of these problems, by k-means in the picture; the same every time. A group without a
    typical word is left out."""
    n = len(points)
    if n < FEWEST:
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
    """For each of k groups the words most typical of its texts: class-based tf-idf (Grootendorst, 2203.05794), in which a
    group is one document. A word must stand in a fifth of the group's texts, and there half again as often as elsewhere."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    try:
        counter = CountVectorizer(stop_words=sorted(ENGLISH_STOP_WORDS | ASKING), token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
                                  min_df=2, binary=True)
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
    return [tuple(str(words[i]) for i in np.argsort(-row, kind="stable")[:MOST_WORDS] if row[i] > 0) for row in score]


def density(points: np.ndarray) -> dict[str, Any] | None:
    """{"x", "y", "z"}: how dense the points [n, 2] are on a grid of GRID x GRID cells, 1 at the densest."""
    if len(points) < FEWEST:
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
    return {"x": [round(float(v), 5) for v in centres[0]], "y": [round(float(v), 5) for v in centres[1]],
            "z": np.round(counts.T / max(counts.max(), 1e-12), 3).tolist()}
