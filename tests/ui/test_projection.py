"""Keys on a plane: exact where it can be, quick where it must be, and honest about trust."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank
from latentmem.records import LatentmemError, Status
from latentmem.ui.map import projection
from latentmem.ui.map import projection as map_layouts
from latentmem.ui.map.atlas import Atlas
from latentmem.ui.map.projection import (
    FEWEST,
    Plane,
    between,
    families,
    grown,
    pca,
    place,
    run,
    spread,
    trustworthiness,
)
from tests.bank_samples import make_memory


def blobs(n: int, d: int = 24, groups: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(unit keys [n, d] float32 in groups, the group of each)"""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % groups
    keys = 4 * rng.standard_normal((groups, d))[group] + rng.standard_normal((n, d))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32), group


# ------------------------------------------------------------------ PCA
@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (1500, 900)])
def test_the_random_axes_are_nearly_the_exact_ones(shape: tuple[int, int]) -> None:
    keys, _ = blobs(*shape)
    centred = keys - keys.mean(axis=0)
    _, values, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    plane = pca(keys)
    np.testing.assert_allclose(np.abs(np.sum(plane.axes.T * axes[:2], axis=1)), 1, atol=1e-3)
    assert plane.explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), abs=1e-4)
    np.testing.assert_allclose(plane.axes.T @ plane.axes, np.eye(2), atol=1e-5)
    assert (plane.axes[np.abs(plane.axes).argmax(axis=0), [0, 1]] > 0).all(), "signs are fixed"


def test_a_linear_plane_projects_keys_of_its_own_length_only() -> None:
    keys, _ = blobs(30)
    plane = pca(keys)
    np.testing.assert_allclose(plane.project(keys[3]), plane.points[3], atol=1e-6)
    assert plane.project(keys[3][:5]) is None
    assert Plane(plane.points, "tsne").project(keys[3]) is None


@pytest.mark.parametrize(
    "keys", [np.zeros((0, 0), np.float32), np.ones((1, 3), np.float32), np.ones((4, 3), np.float32)]
)
def test_too_few_or_equal_keys_give_finite_points(keys: np.ndarray) -> None:
    plane = pca(keys)
    assert plane.points.shape == (len(keys), 2)
    assert np.isfinite(plane.points).all()
    assert plane.explained == 1.0


# ------------------------------------------------------------------ beside neighbours
def test_only_families_that_lie_together_are_named() -> None:
    keys, group = blobs(60, 2)
    near = [f"examples/{'abc'[g]}" for g in group]
    assert {g.words[0] for g in families(10 * keys, near)} <= {"a", "b", "c"}
    corners = np.array([[0, 0], [10, 0], [0, 10]], np.float32)[group]
    assert [g.words[0] for g in families(corners, near)] == ["a", "b", "c"]
    assert families(corners, [f"all/{i % 2}" for i in range(60)]) == []
    assert families(corners, [""] * 60) == []


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.integers(0, 99))
def test_between_lies_within_its_points_and_near_the_most_similar(
    similar: list[float], seed: int
) -> None:
    points = np.random.default_rng(seed).normal(size=(len(similar), 2))
    at = between(points, similar)
    assert (at >= points.min(axis=0) - 1e-9).all() and (at <= points.max(axis=0) + 1e-9).all()
    one = between(points, [1.0] + [0.0] * (len(similar) - 1))
    assert np.linalg.norm(one - points[0]) < 0.02 * max(1.0, np.abs(points).max() * 2)


def test_points_the_method_did_not_place_join_their_group() -> None:
    keys, group = blobs(90)
    corners = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    fitted = np.arange(0, 90, 2)
    points = spread(keys, fitted, corners[group[fitted]])
    np.testing.assert_array_equal(points[fitted], corners[group[fitted]])
    assert (np.linalg.norm(points - corners[group], axis=1) < 1).all()


# ------------------------------------------------------------------ trust
def test_trust_is_one_for_a_true_picture_and_a_half_for_chance() -> None:
    flat = np.random.default_rng(0).normal(size=(300, 2)) @ np.random.default_rng(1).normal(
        size=(2, 9)
    )
    assert trustworthiness(flat, pca(flat).points) == (pytest.approx(1.0), 300)
    chance, n = trustworthiness(flat, np.random.default_rng(2).normal(size=(300, 2)))
    assert 0.4 < chance < 0.6 and n == 300
    assert trustworthiness(flat[:4], flat[:4, :2]) is None
    big = np.random.default_rng(3).normal(size=(1500, 3))
    assert trustworthiness(big, big[:, :2])[1] == projection.SAMPLE


# ------------------------------------------------------------------ t-SNE
def heard(steps, said: list[Status]):
    """The same generator, its statuses taken down."""
    while True:
        try:
            said.append(next(steps))
        except StopIteration as end:
            return end.value
        yield said[-1]


def test_tsne_is_computed_with_progress() -> None:
    keys, group = blobs(60)
    said: list[Status] = []
    plane = run(heard(place(keys, "tsne"), said))
    assert plane.method == "tsne" and plane.points.shape == (60, 2) and plane.beside == 0
    assert "t-SNE map of 60 memories" in said[-1].text
    assert said[-1].total == 1000
    assert said[-1].done >= 500
    same = [
        np.linalg.norm(
            plane.points[group == g] - plane.points[group == g].mean(axis=0), axis=1
        ).mean()
        for g in range(3)
    ]
    apart = np.linalg.norm(
        plane.points[group == 0].mean(axis=0) - plane.points[group == 1].mean(axis=0)
    )
    assert apart > 2 * max(same), "groups are apart"


def test_a_picture_of_many_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_layouts, "MOST_FITTED", 20)
    monkeypatch.setattr(map_layouts, "_computed", fake_method)
    keys, _ = blobs(50)
    plane = run(place(keys, "tsne"))
    assert plane.beside == 30 and plane.points.shape == (50, 2) and np.isfinite(plane.points).all()


def fake_method(keys: np.ndarray, method: str):
    yield Status(method)
    return np.asarray(keys[:, :2], np.float32)


def test_closing_the_stream_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = map_layouts.subprocess.Popen

    def popen(*args, **kwargs):
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(map_layouts.subprocess, "Popen", popen)
    steps = place(blobs(3000, 64)[0], "tsne")
    next(steps)
    assert made[0].poll() is None
    steps.close()
    assert made[0].poll() is not None


def test_what_a_user_can_mend_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, _ = blobs(10)
    with pytest.raises(LatentmemError, match=f"t-SNE needs {FEWEST} memories and the map has 3"):
        run(place(keys[:3], "tsne"))
    with pytest.raises(LatentmemError, match="not installed"):
        run(place(keys, "magic"))
    monkeypatch.setattr(map_layouts, "WORKER", Path("no such script.py"))
    with pytest.raises(LatentmemError, match="t-SNE failed on these 10 memories"):
        run(place(keys, "tsne"))


def test_a_new_memory_joins_a_picture_that_is_there() -> None:
    keys, _ = blobs(30)
    names = tuple(f"m{i}" for i in range(30))
    old = Plane(np.asarray(keys[:28, :2]), "tsne")
    plane = grown(old, names[:28], names, keys)
    np.testing.assert_array_equal(plane.points[:28], old.points)
    assert plane.beside == 2
    fewer = grown(old, names[:28], names[5:28], keys[5:28])
    np.testing.assert_array_equal(fewer.points, old.points[5:])
    assert grown(Plane(old.points[:10], "tsne"), names[:10], names, keys) is None, (
        "too many are new"
    )
    assert grown(old, ("x",), names, keys) is None


def test_a_bank_that_grows_one_by_one_is_computed_again_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than a tenth are new since the method last placed them, not since the last memory
    came."""
    monkeypatch.setattr(map_layouts, "_computed", fake_method)
    keys, _ = blobs(60)
    names = tuple(f"m{i}" for i in range(60))
    old = Plane(np.asarray(keys[:30, :2]), "tsne")
    one = grown(old, names[:30], names[:31], keys[:31], names[:30])
    assert one is not None and one.beside == 1
    assert grown(one, names[:31], names[:34], keys[:34], names[:30]) is None, (
        "four are new since then, three are let in"
    )
    assert grown(one, names[:31], names[:34], keys[:34], names[:31]) is not None
    fewer = (*names[5:30], *names[30:33])
    assert (
        grown(old, names[:30], fewer, keys[[int(n[1:]) for n in fewer]], names[:30]) is not None
    ), "what went does not count"

    bank = Bank()
    atlas, sheets = Atlas(bank), []
    for seed in range(40):
        bank.put(make_memory(seed))
        if seed >= 20:
            sheets.append(run(atlas.sheet("input", "tsne")))
    beside = [s.plane.beside for s in sheets]
    assert beside[:5] == [0, 1, 2, 3, 0], (
        "21 to 24 memories, and the 25th is the fourth that is new"
    )
    assert max(beside) <= 4
    assert beside.count(0) >= 4
    assert all(len(s.names) == 21 + i for i, s in enumerate(sheets))


@pytest.mark.skipif("umap" not in map_layouts.methods(), reason="needs the extra umap")
def test_umap_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes ten times as long as this
    keys, _ = blobs(24)
    plane = run(place(keys, "umap"))
    assert plane.method == "umap" and plane.points.shape == (24, 2)


@given(st.integers(0, 9), st.integers(1, 7), st.integers(0, 1000))
def test_pca_places_any_number_of_keys(n: int, d: int, seed: int) -> None:
    keys = np.random.default_rng(seed).normal(size=(n, d))
    plane = pca(keys)
    assert plane.points.shape == (n, 2)
    assert np.isfinite(plane.points).all()
    assert 0 <= plane.explained <= 1 + 1e-9
    if n:
        np.testing.assert_allclose(plane.project(keys[0]), plane.points[0], atol=1e-6)


def test_pca_finds_the_plane() -> None:
    flat = np.random.default_rng(0).normal(size=(50, 2)) @ np.random.default_rng(1).normal(
        size=(2, 9)
    )
    assert pca(flat).explained == pytest.approx(1)
    same = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    shown = np.linalg.norm(pca(flat).points[:, None] - pca(flat).points[None], axis=-1)
    np.testing.assert_allclose(same, shown, atol=1e-8)
