"""Intervals and estimators against values worked out by hand."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.evaluation.metrics import (
    Estimate,
    bootstrap,
    flips,
    nearest_share,
    paired,
    pass_at_k,
    share,
)


def test_the_interval_of_a_share_is_the_exact_one() -> None:
    """Clopper and Pearson's interval of 30 of 100 is 21.24 % to 39.98 %."""
    found = share(30, 100)
    assert found is not None and (found.n, found.mean) == (100, 0.3)
    assert (found.low, found.high) == pytest.approx((0.2124, 0.3998), abs=1e-4)


def test_the_bootstrap_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap as theirs

    values = np.random.default_rng(3).uniform(-1, 1, size=80)
    ours = bootstrap(values.tolist())
    other = theirs(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    )
    assert ours is not None
    assert ours.low == pytest.approx(other.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(other.confidence_interval.high, abs=0.01)


def test_equal_values_do_not_pretend_to_be_certain() -> None:
    """0 of 20: the exact upper bound is 1 - 0.025^(1/20) = 0.1684. A difference that is 0 for all
    20 may be up to so much on either side."""
    none, whole, equal = share(0, 20), share(20, 20), bootstrap([0.0] * 20)
    assert none is not None and whole is not None and equal is not None
    assert (none.mean, none.low, none.high) == (0.0, 0.0, pytest.approx(0.16843, abs=1e-5))
    assert (whole.mean, whole.low, whole.high) == (1.0, pytest.approx(0.83157, abs=1e-5), 1.0)
    assert (equal.mean, equal.low, equal.high) == (0, -none.high, none.high)
    assert bootstrap([1.0] * 20) == Estimate(20, 1.0, pytest.approx(1 - 2 * none.high), 1.0)


def test_nothing_has_no_interval() -> None:
    assert share(0, 0) is None and bootstrap([]) is None
    assert paired({"a": 1.0}, {"b": 1.0}) is None


def test_the_paired_difference_is_over_shared_problems_only() -> None:
    found = paired(
        {"a": 1.0, "b": 0.0, "c": 1.0, "x": 1.0}, {"a": 0.0, "b": 0.0, "c": 1.0, "y": 0.0}
    )
    assert found is not None and (found.n, found.mean) == (3, pytest.approx(1 / 3))


def test_pairing_makes_the_interval_of_a_steady_gain_narrow() -> None:
    """Nine of ten problems alike and one gained in each ten: unpaired the intervals overlap, paired
    the gain is above 0."""
    without = {i: float(i % 10 < 5) for i in range(200)}
    with_it = {i: float(i % 10 < 6) for i in range(200)}
    gain = paired(with_it, without)
    a, b = (share(int(sum(those.values())), 200) for those in (with_it, without))
    assert gain is not None and a is not None and b is not None
    assert gain.low > 0 and a.low < b.high


def test_flips_by_hand() -> None:
    first = {"a": True, "b": True, "c": False, "d": False, "x": True}
    second = {"a": False, "b": True, "c": True, "d": False}
    assert flips(first, second) == (1, 1)


def test_pass_at_k_by_hand() -> None:
    """4 traces, 1 right: of the 6 pairs, 3 hold the right one. k = n asks whether any is right."""
    assert pass_at_k(4, 1, 2) == 0.5
    assert (pass_at_k(8, 1, 8), pass_at_k(8, 0, 8), pass_at_k(5, 3, 1)) == (
        1.0,
        0.0,
        pytest.approx(0.6),
    )
    with pytest.raises(ValueError, match="pass@9 of 1 right among 8"):
        pass_at_k(8, 1, 9)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    hits = sum(any(i < right for i in chosen) for chosen in combinations(range(n), k))
    assert pass_at_k(n, right, k) == pytest.approx(hits / comb(n, k))


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_stays_in_range(values: list[float]) -> None:
    found, right = bootstrap(values), share(values.count(1.0), len(values))
    assert found is not None and right is not None
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert 0 <= right.low <= right.mean <= right.high <= 1
    assert found == bootstrap(values), "the same values, the same interval"


def test_nearest_share_by_hand() -> None:
    """Points at 0, 5, 90 and 20 degrees: the first three have a nearest of their own family (the
    one at 90 the one at 20), the one at 20 has the one at 5. Of the 12 ordered pairs 4 are of
    one family."""
    angles = np.radians([0, 5, 90, 20])
    keys = np.stack([np.cos(angles), np.sin(angles)], 1)
    share, by_chance = nearest_share(keys, ["a", "a", "b", "b"])
    assert share == 0.75
    assert by_chance == pytest.approx(4 / 12)
    with pytest.raises(ValueError, match="no neighbours"):
        nearest_share(keys[:1], ["a"])
