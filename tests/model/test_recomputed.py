"""The norm and the gated activation: gradients as autograd's, and less kept for them; and what a
whole pass keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentmem.method.grpo import token_bytes
from latentmem.model.kv_cache import Prefix
from latentmem.model.transformer import aligned, causal_mask, forward, gated, norm
from tests.tiny import tiny_model


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
    x, weight = (
        torch.randn(4, 256, dtype=torch.bfloat16).requires_grad_(),
        torch.randn(256, dtype=torch.bfloat16),
    )
    assert kept(lambda: norm(x, weight, 1e-6), x) == weight.nbytes
    assert kept(lambda: gated(x), x) == 0
    assert kept(lambda: plain_norm(x, weight, 1e-6), x) > 2 * x.nbytes
    assert kept(lambda: plain_gated(x), x) == x.nbytes // 2


def test_without_a_gradient_no_graph_is_made() -> None:
    x, weight = torch.randn(4, 8).requires_grad_(), torch.ones(8)
    with torch.no_grad():
        assert norm(x, weight, 1e-6).grad_fn is None and gated(x).grad_fn is None


def saved_by_a_pass(rows: int, length: int) -> tuple[int, list[int]]:
    """What three layers keep of rows of that length behind prompts as long, in float32: bytes a
    token without weights and masks, and the sizes of the masks."""
    body = tiny_model(hidden_size=64, intermediate_size=160).body
    prefix = [
        tuple(torch.randn(1, 2, length, 16).requires_grad_() for _ in range(2)) for _ in body.layers
    ]
    positions = torch.arange(length, 2 * length).expand(rows, -1)
    mask = causal_mask(torch.ones(rows, 2 * length, dtype=torch.bool), length, body.dtype)
    weights = {
        t.data_ptr()
        for w in body.layers
        for t in (w.norm1, w.norm2, *(m.weight for m in (w.qkv, w.out, w.gate_up, w.down)))
    } | {body.norm.data_ptr()}
    found: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t
        return t

    x, past = torch.randn(rows, length, 64), Prefix(prefix, torch.zeros(rows, dtype=torch.long))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = forward(body, x, positions, mask, past)
    assert out.requires_grad
    masks = [
        t.untyped_storage().nbytes()
        for t in found.values()
        if t.shape[-2:] == (2 * length, 2 * length)
    ]
    rest = sum(
        t.untyped_storage().nbytes()
        for k, t in found.items()
        if k not in weights and t.shape[-2:] != (2 * length, 2 * length)
    )
    return rest // (rows * length), masks


def test_all_layers_keep_one_and_the_same_mask() -> None:
    """Two query heads share a key head: 2 * 24 queries by 48 keys, 5 rows, 4 bytes."""
    assert saved_by_a_pass(5, 24)[1] == [5 * 48 * 48 * 4]


def test_the_estimate_of_what_a_token_keeps() -> None:
    """Hand-computed: 3 layers of (2 * 64 + 10 * 16 + 320 + 8 * 16) numbers of 4 bytes and 4
    float32."""
    body = tiny_model(hidden_size=64, intermediate_size=160).body
    assert token_bytes(body) == 3 * (4 * 736 + 16) == 8880
    assert saved_by_a_pass(5, 24)[0] == pytest.approx(token_bytes(body), rel=0.1)


@pytest.mark.parametrize("size", [5, 8, 16, 21])
def test_a_masks_rows_begin_where_cuda_wants_them(size: int) -> None:
    for mask in (torch.randn(2, 1, 3, size), torch.randn(2, 1, 1, 30)[..., :size]):
        made = aligned(mask)
        assert (
            torch.equal(made, mask)
            and made.stride(-1) == 1
            and all(s % 8 == 0 for s in made.stride()[:-1])
        )
        assert (made is mask) == all(s % 8 == 0 for s in mask.stride()[:-1])
