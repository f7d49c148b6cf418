"""Keys -> points of a plane, and how far the picture may be trusted. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plane:
    """A linear projection onto two principal axes. `points` [n, 2], `centre` [d], `axes` [d, 2], `explained` in 0..1."""

    points: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    explained: float

    def project(self, key: np.ndarray) -> np.ndarray:
        """One key [d] -> its point [2]."""
        return (key - self.centre) @ self.axes


def pca(keys: np.ndarray) -> Plane:
    """Principal axes of keys [n, d]. With fewer than three keys the missing axes are zero, so points may coincide.

    The sign of each axis is fixed (its largest loading is positive), so the same bank always gives the same picture.
    """
    keys = np.asarray(keys, dtype=np.float64)
    n, d = keys.shape
    centre = keys.mean(axis=0) if n else np.zeros(d)
    axes = np.zeros((d, 2))
    explained = 1.0
    if n > 1:
        centred = keys - centre
        # The eigenvectors of the smaller of the two Gram matrices: 5,000 x 384 takes 50 ms, a full SVD a second.
        if n >= d:
            values, vectors = np.linalg.eigh(centred.T @ centred)
            top = vectors[:, ::-1][:, :2]
        else:
            values, left = np.linalg.eigh(centred @ centred.T)
            scale = np.sqrt(np.maximum(values[::-1][:2], 1e-12))
            top = centred.T @ left[:, ::-1][:, :2] / scale
            top[:, values[::-1][:2] < 1e-10] = 0
        values = np.maximum(values[::-1], 0)
        axes[:, : top.shape[1]] = top * np.where(top[np.abs(top).argmax(axis=0), range(top.shape[1])] < 0, -1, 1)
        explained = float(values[:2].sum() / values.sum()) if values.sum() > 0 else 1.0
    return Plane((keys - centre) @ axes, centre, axes, explained)


def nearest(points: np.ndarray, star: np.ndarray) -> int:
    """Index of the point nearest to the star in the picture."""
    return int(((points - star) ** 2).sum(axis=1).argmin())
