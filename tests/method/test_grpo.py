"""Advantages and token log-probabilities against values computed by hand and by the plain formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.method.grpo import (
    LOST,
    NEGLIGIBLE,
    Row,
    advantages,
    expected,
    policy,
    token_log_probs,
)


def test_advantages_by_hand():
    # mean 0.75, deviations 0.25 x3 and -0.75; population std = sqrt(0.75 * 0.25) = 0.4330127
    got = advantages([1, 1, 1, 0])
    assert torch.allclose(
        got, torch.tensor([0.5773503, 0.5773503, 0.5773503, -1.7320508]), atol=1e-6
    )
    assert advantages([1, 1, 1, 0], "mean").tolist() == [0.25, 0.25, 0.25, -0.75]


@pytest.mark.parametrize("scheme", ["std", "mean"])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_unanimous_group_has_no_gradient(scheme, reward):
    assert advantages([reward] * 8, scheme).tolist() == [0.0] * 8


def test_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="'rank' is unknown"):
        advantages([0, 1], "rank")  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16))
def test_advantages_are_centred_and_ordered_like_rewards(rewards):
    for scheme in ("std", "mean"):
        a = advantages(rewards, scheme)
        assert abs(float(a.sum())) < 1e-4
        for x, y in zip(rewards, a.tolist(), strict=True):
            assert y * (x - 0.5) >= 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_log_probs_and_gradient_equal_the_plain_formula(temperature, chunk):
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, requires_grad=True)
    head, targets, g = torch.randn(17, 6), torch.randint(0, 17, (10,)), torch.randn(10)
    plain = (hidden @ head.T / temperature).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    (want,) = torch.autograd.grad((plain * g).sum(), hidden)
    ours = token_log_probs(hidden, head, targets, temperature, chunk)
    (got,) = torch.autograd.grad((ours * g).sum(), hidden)
    assert torch.allclose(ours, plain, atol=1e-5)
    assert torch.allclose(got, want, atol=1e-5)


def test_gradcheck_in_double():
    torch.manual_seed(1)
    head = torch.randn(9, 4)
    hidden = torch.randn(3, 4, requires_grad=True)
    eps = 1e-3
    targets = torch.tensor([0, 8, 3])
    token_log_probs(hidden, head, targets).sum().backward()
    for i in range(3):
        for j in range(4):
            up, down = hidden.detach().clone(), hidden.detach().clone()
            up[i, j] += eps
            down[i, j] -= eps
            slope = (
                token_log_probs(up, head, targets) - token_log_probs(down, head, targets)
            ).sum() / (2 * eps)
            assert abs(float(slope) - float(hidden.grad[i, j])) < 5e-3


def test_a_trained_head_gives_the_same_log_probs_and_gathers_its_gradient():
    torch.manual_seed(0)
    hidden, head, ids = torch.randn(300, 8), torch.randn(50, 8), torch.randint(0, 50, (300,))
    trained = head.clone().requires_grad_()
    got = token_log_probs(hidden, trained, ids, 0.7)
    assert torch.allclose(got, token_log_probs(hidden, head, ids, 0.7), atol=1e-5)
    got.sum().backward()
    plain = head.clone().requires_grad_()
    (hidden @ plain.T / 0.7).log_softmax(-1).gather(1, ids[:, None]).sum().backward()
    assert torch.allclose(trained.grad, plain.grad, atol=1e-4)


def test_the_policys_loss_by_hand():
    """Two words and no preference: each token has log-probability -ln 2. A bonus of 0.1 above an
    entropy of 0.5 adds 0.1 * (ln 2 - 0.5) to the weight."""
    rows = [Row(0, 0, (), (1, 0), 0.5, 0.0, 0.5), Row(0, 1, (), (1,), -0.25, 0.1, 0.5)]
    loss = policy(
        torch.zeros(3, 4),
        torch.randn(2, 4),
        torch.tensor([1, 0, 1]),
        rows,
        torch.tensor([0, 0, 1]),
        1.0,
    )
    ln2 = 0.6931472
    want = [0.5 * ln2, 0.5 * ln2, (-0.25 + 0.1 * (ln2 - 0.5)) * ln2]
    assert loss.tolist() == pytest.approx(want, abs=1e-6)


def test_expectation_over_the_few_words_that_count():
    g = torch.Generator().manual_seed(0)
    head = torch.randn(5000, 16, generator=g)
    logits = torch.randn(40, 5000, generator=g)
    logits[torch.arange(40), torch.arange(40) * 7] += (
        25  # a language model is this sure of most words
    )
    peaked, flat = logits.softmax(-1), torch.randn(40, 5000, generator=g).softmax(-1)
    assert ((peaked.amax(0) > NEGLIGIBLE).sum() < 1250) and (
        expected(peaked, head) - peaked @ head
    ).abs().max() < 1e-3
    assert torch.equal(expected(flat, head), flat @ head)
    # one position that would lose more than LOST keeps all words for its chunk
    peaked[3] = torch.full((5000,), 0.9 * NEGLIGIBLE)
    peaked[3, 0] = 1 - 4999 * 0.9 * NEGLIGIBLE
    assert 4999 * 0.9 * NEGLIGIBLE < LOST and not torch.equal(expected(peaked, head), peaked @ head)
    peaked[3] = 0.5 * NEGLIGIBLE  # not a distribution, so that nearly all of it is lost
    assert torch.equal(expected(peaked, head), peaked @ head)
