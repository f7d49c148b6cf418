"""Keys -> points of a plane, and how far the picture may be trusted. numpy; scikit-learn only where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT = 800  # up to this many keys or numbers a key the principal axes are exact; beyond it, an iteration finds them
CHUNK = 1 << 22  # numbers handled at a time: 32 MB in float64
NEAR = 3  # neighbours that place a point the method itself did not place
SAMPLE, NEIGHBOURS = 1000, 10  # of the measure of trust


@dataclass(frozen=True, eq=False)
class Plane:
    """Points [n, 2] of n keys. A linear one also has its `centre` [d], its `axes` [d, 2] and the share of the variance
    they explain. `beside` of the points were placed next to their nearest neighbours, not by the method itself."""

    points: np.ndarray
    method: str = "pca"
    centre: np.ndarray | None = None
    axes: np.ndarray | None = None
    explained: float | None = None
    beside: int = 0

    def project(self, key: np.ndarray) -> np.ndarray | None:
        """One key [d] -> its point [2]; None when the plane is not linear or was made from keys of another length."""
        if self.axes is None or self.centre is None or len(key) != len(self.centre):
            return None
        return (key - self.centre) @ self.axes


def pca(keys: np.ndarray) -> Plane:
    """The two principal axes of keys [n, d]. With fewer than three keys the missing axes are zero, so points may coincide.

    The sign of each axis is fixed (its largest loading is positive), so the same bank always gives the same picture.
    """
    n, d = keys.shape
    centre = keys.mean(axis=0, dtype=np.float64) if n else np.zeros(d)
    axes = np.zeros((d, 2))
    explained = 1.0
    if n > 1:
        top, values, total = (_exact if min(n, d) <= EXACT else _iterated)(keys, centre)
        top = top[:, values > 1e-10]
        axes[:, : top.shape[1]] = top * np.where(top[np.abs(top).argmax(axis=0), range(top.shape[1])] < 0, -1, 1)
        explained = min(1.0, float(values.sum() / total)) if total > 0 else 1.0
    points = np.concatenate([(part - centre) @ axes for part in _parts(keys)]) if n else np.zeros((0, 2))
    return Plane(points, "pca", centre, axes, explained)


def _parts(keys: np.ndarray) -> list[np.ndarray]:
    rows = max(1, CHUNK // max(1, keys.shape[1]))
    return [keys[i:i + rows] for i in range(0, len(keys), rows)]


def _exact(keys: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(axes [d, at most 2], their variances, the whole variance) from the smaller of the two Gram matrices."""
    n, d = keys.shape
    if n >= d:
        gram = sum(c.T @ c for part in _parts(keys) for c in [part - centre])
        values, vectors = np.linalg.eigh(gram)
        return vectors[:, ::-1][:, :2], np.maximum(values[::-1][:2], 0), float(np.maximum(values, 0).sum())
    centred = keys - centre
    values, left = np.linalg.eigh(centred @ centred.T)
    best = np.maximum(values[::-1][:2], 0)
    return centred.T @ left[:, ::-1][:, :2] / np.sqrt(np.maximum(best, 1e-12)), best, float(np.maximum(values, 0).sum())


def _iterated(keys: np.ndarray, centre: np.ndarray, extra: int = 14, rounds: int = 8) -> tuple[np.ndarray, np.ndarray, float]:
    """The same by subspace iteration (Halko et al., 0909.4061), in time linear in n and d: the Gram matrix of 5,000 keys
    of 6,144 numbers would take half a minute."""
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
    """Index of the point nearest to the star in the picture, one point perhaps left out; None when there is no other."""
    far = ((points - star) ** 2).sum(axis=1)
    if without is not None:
        far[without] = np.inf
    best = int(far.argmin()) if len(far) else 0
    return best if len(far) and np.isfinite(far[best]) else None


def between(points: np.ndarray, similarities: Sequence[float]) -> np.ndarray:
    """Where something lies that is so similar to these points [m, 2]: their mean, weighted by 1 / (1 - similarity)."""
    weights = 1 / (1.001 - np.clip(np.asarray(similarities, np.float64), -1, 1))
    return (points * weights[:, None]).sum(axis=0) / weights.sum()


def spread(keys: np.ndarray, fitted: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [n, 2] of unit keys [n, d], of which those at `fitted` [m] have `points` [m, 2]; each of the others lies
    between its NEAR most similar fitted ones."""
    all_points = np.zeros((len(keys), 2), np.float32)
    all_points[fitted] = points
    rest = np.setdiff1d(np.arange(len(keys)), fitted)
    take, rows = min(NEAR, len(fitted)), max(1, CHUNK // max(1, len(fitted)))
    for some in (rest[i:i + rows] for i in range(0, len(rest), rows)):
        similar = keys[some] @ keys[fitted].T  # [some, m]
        best = np.argpartition(-similar, take - 1, axis=1)[:, :take]
        weights = 1 / (1.001 - np.clip(np.take_along_axis(similar, best, axis=1), -1, 1))
        all_points[some] = (points[best] * weights[:, :, None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    return all_points


def trustworthiness(keys: np.ndarray, points: np.ndarray) -> tuple[float, int] | None:
    """(trustworthiness, number of keys it was measured on): 1 when each point's nearest in the picture are its nearest in
    truth, about 0.5 for a picture drawn by chance (Venna and Kaski 2001). On a fixed sample; None for fewer than 5 keys.
    """
    from sklearn.manifold import trustworthiness as measured

    rows = np.arange(len(keys))
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(len(keys), SAMPLE, replace=False))
    neighbours = min(NEIGHBOURS, (len(rows) - 1) // 2)
    if len(rows) < 5 or neighbours < 1:
        return None
    return float(measured(np.asarray(keys[rows], np.float64), points[rows], n_neighbors=neighbours)), len(rows)
