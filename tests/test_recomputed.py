"""The norm and the gated activation: gradients as autograd's, and less kept for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentmem.recomputed import gated, norm


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def plain_gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def kept(f: Callable[[], Tensor], given: Tensor) -> int:
    """Bytes that the graph keeps beside what was given."""
    found: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() != given.untyped_storage().data_ptr():
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        f()
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_the_norm_has_autograds_gradient(dtype: torch.dtype, trained: bool) -> None:
    torch.manual_seed(3)
    x, grad = (torch.randn(2, 5, 48).mul(4).to(dtype) for _ in range(2))
    weight = torch.randn(48).to(dtype)
    found = []
    for f in (norm, plain_norm):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        y = f(a, w, 1e-6)
        y.backward(grad)
        found.append((y.detach(), a.grad, w.grad))
    (y, a, w), (plain, a_plain, w_plain) = found
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    assert torch.equal(y, plain)
    torch.testing.assert_close(a, a_plain, **close)
    if trained:
        torch.testing.assert_close(w, w_plain, rtol=close["rtol"], atol=20 * close["atol"])
    else:
        assert w is None and w_plain is None


def test_the_norm_of_a_frozen_input_trains_the_weight_alone() -> None:
    x, weight = torch.randn(3, 8), torch.ones(8, requires_grad=True)
    norm(x, weight, 1e-6).sum().backward()
    torch.testing.assert_close(weight.grad, F.rms_norm(x, (8,), None, 1e-6).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_activation_has_autograds_gradient_exactly(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    x, grad = torch.randn(2, 5, 64).mul(3).to(dtype), torch.randn(2, 5, 32).to(dtype)
    found = []
    for f in (gated, plain_gated):
        a = x.clone().requires_grad_()
        y = f(a)
        y.backward(grad)
        found.append((y.detach(), a.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_nothing_is_kept_beside_the_input() -> None:
    x, weight = torch.randn(4, 256, dtype=torch.bfloat16).requires_grad_(), torch.randn(256, dtype=torch.bfloat16)
    assert kept(lambda: norm(x, weight, 1e-6), x) == weight.nbytes
    assert kept(lambda: gated(x), x) == 0
    assert kept(lambda: plain_norm(x, weight, 1e-6), x) > 2 * x.nbytes
    assert kept(lambda: plain_gated(x), x) == x.nbytes // 2


def test_without_a_gradient_no_graph_is_made() -> None:
    x, weight = torch.randn(4, 8).requires_grad_(), torch.ones(8)
    with torch.no_grad():
        assert norm(x, weight, 1e-6).grad_fn is None and gated(x).grad_fn is None
