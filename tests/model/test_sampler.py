"""Drawing tokens: the right distribution, one uniform number a row, exact statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmem.model.sampler import BLOCK, _pick, draw, nucleus


@pytest.mark.parametrize("words", [3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_inverse_cdf_by_hand(words):
    mass = torch.zeros(1, words)
    mass[0, 1], mass[0, words - 1] = 1.0, 3.0
    for u, want in ((0.0, 1), (0.2499, 1), (0.2501, words - 1), (0.9999999, words - 1)):
        assert _pick(mass, torch.tensor([u])).item() == want


@pytest.mark.parametrize("words", [3, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_what_is_no_distribution_leads_to_no_word_beyond_the_vocabulary(words, bad):
    assert 0 <= _pick(torch.full((1, words), bad), torch.tensor([0.7])).item() < words


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 1500), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pick_equals_the_plain_search_up_to_rounding(words, seed, u):
    generator = torch.Generator().manual_seed(seed)
    mass = torch.rand(1, words, generator=generator) * (
        torch.rand(1, words, generator=generator) > 0.5
    )
    mass[0, seed % words] = 0.5
    got = _pick(mass, torch.tensor([u])).item()
    assert mass[0, got] > 0
    upto = mass[0].double().cumsum(0)
    low = 0.0 if got == 0 else upto[got - 1].item()
    assert low - 1e-3 <= u * upto[-1].item() <= upto[got].item() + 1e-3


def test_frequencies_match_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    n, temperature = 10_000, 0.7
    u = (torch.arange(n) + 0.5) / n
    ids, _, _ = draw(logits.expand(n, -1), u, temperature)
    got = torch.bincount(ids, minlength=4) / n
    assert torch.allclose(got, (logits[0] / temperature).softmax(-1), atol=2 / n)


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert (nucleus(p, 0.7) > 0).tolist() == [[False, True, False, True]]
    assert (nucleus(p, 0.5) > 0).tolist() == [[False, True, False, False]]
    assert (nucleus(p, 0.76) > 0).tolist() == [[False, True, True, True]]
    ids, _, _ = draw(p.log().expand(100, -1), torch.linspace(0, 0.999, 100), 1.0, 0.7)
    assert set(ids.tolist()) == {1, 3}


def test_greedy_is_argmax_and_needs_no_luck():
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    for u in (0.0, 0.5, 0.999):
        ids, _, _ = draw(logits, torch.full((5,), u), 0.0)
        assert ids.tolist() == logits.argmax(-1).tolist()


def test_entropy_and_self_certainty_by_hand():
    _, entropy, certainty = draw(torch.zeros(1, 8), torch.tensor([0.3]), 0.8)
    assert entropy.item() == pytest.approx(math.log(8), abs=1e-5)
    assert certainty.item() == pytest.approx(0.0, abs=1e-5)
    p = torch.tensor([[0.5, 0.25, 0.25]])
    _, entropy, certainty = draw(p.log(), torch.tensor([0.3]), 1.0)
    assert entropy.item() == pytest.approx(1.5 * math.log(2), abs=1e-5)
    # KL(U || p) = -log 3 - mean log p = -1.0986 + (0.6931 + 2 * 1.3863) / 3
    assert certainty.item() == pytest.approx(-math.log(3) + 5 * math.log(2) / 3, abs=1e-5)
