"""Computes a t-SNE or UMAP picture in a process of its own, run as a script by `projection.py`.

Why a process: neither library can be stopped or reports progress to its caller, and both would hold
up the app for as long as they compute. Arguments: method, file with keys [n, d] (.npy), file for
points [n, 2] (.npy). Standard output: "<done> <total>" lines.
"""

from __future__ import annotations

import contextlib
import os
import sys

import numpy as np

WIDE = 50  # numbers a key is reduced to before t-SNE, as its authors advise


def tsne(keys: np.ndarray) -> np.ndarray:
    """Points [n, 2] by Barnes-Hut t-SNE from the principal components on; the same every time."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, d = keys.shape
    if min(n, d) > WIDE:
        keys = PCA(WIDE, svd_solver="randomized", random_state=0).fit_transform(keys)
    steps = 1000 if n <= 5000 else 600
    with contextlib.redirect_stdout(_Iterations(steps)):
        return TSNE(
            2,
            perplexity=min(30.0, (n - 1) / 3),
            init="pca",
            learning_rate="auto",
            max_iter=steps,
            random_state=0,
            verbose=2,
        ).fit_transform(keys)


def umap(keys: np.ndarray) -> np.ndarray:
    """Points [n, 2] by UMAP with cosine distances; the same every time."""
    from umap import UMAP

    epochs = 500 if len(keys) <= 10_000 else 200
    print(0, epochs, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        made = UMAP(
            n_components=2,
            n_neighbors=min(15, len(keys) - 1),
            min_dist=0.1,
            metric="cosine",
            random_state=0,
            n_jobs=1,
            n_epochs=epochs,
            init="spectral" if len(keys) > 20 else "random",
        ).fit_transform(keys)
    print(epochs, epochs, flush=True)
    return made


class _Iterations:
    """Stands in for standard output while scikit-learn prints "[t-SNE] Iteration 50: ..."."""

    def __init__(self, total: int) -> None:
        self.total, self.out = total, sys.stdout

    def write(self, text: str) -> None:
        if text.startswith("[t-SNE] Iteration "):
            self.out.write(f"{text.split()[2].rstrip(':')} {self.total}\n")
            self.out.flush()

    def flush(self) -> None:
        self.out.flush()


def main(method: str, given: str, wanted: str) -> None:
    with contextlib.suppress(
        OSError, AttributeError
    ):  # not everywhere; the app goes first where it is
        os.nice(10)
    points = {"tsne": tsne, "umap": umap}[method](np.load(given, allow_pickle=False))
    np.save(wanted, np.asarray(points, np.float32), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:4])
