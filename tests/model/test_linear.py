"""Products in 8-bit integers: orthogonal turning, the error that the rounding leaves, gradients,
rows that stay their own."""

from __future__ import annotations

import pytest
import torch

from latentmem.method.rollouts import Job, sample
from latentmem.model.language_model import LanguageModel
from latentmem.model.linear import Int8Linear, Linear, block_of, hadamard, has_int8, turn
from latentmem.records import Problem, Trace
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer

needs_int8 = pytest.mark.skipif(not has_int8(), reason="needs a CPU with AVX512-VNNI")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float(((got - want).norm() / want.norm()).detach())


@pytest.mark.parametrize("size", [1, 2, 32, 128])
def test_a_hadamard_matrix_is_orthogonal(size: int) -> None:
    h = hadamard(size)
    assert torch.allclose(h @ h.T, torch.eye(size), atol=1e-6)
    assert torch.allclose(h.abs(), torch.full((size, size), size**-0.5))


def test_a_hadamard_matrix_of_two_is_the_known_one() -> None:
    assert torch.allclose(hadamard(2) * 2**0.5, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))


def test_turning_both_sides_changes_no_product() -> None:
    x, w, h = numbers(5, 96), numbers(7, 96, seed=1), hadamard(32)
    assert torch.allclose(turn(x, h) @ turn(w, h).T, x @ w.T, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "block"), [(896, 128), (4864, 128), (576, 64), (1536, 128), (48, 16), (7, 1)]
)
def test_blocks_divide_the_width(width: int, block: int) -> None:
    assert block_of(width) == block


@needs_int8
def test_a_product_is_off_by_about_a_percent() -> None:
    w, x = numbers(300, 896) * 0.02, numbers(9, 896, seed=1)
    x[:, 17] *= (
        # an input far larger than the others: without the turning all others would be lost beside
        # it
        300
    )
    got, want = Int8Linear(w)(x), x @ w.T
    assert got.shape == (9, 300) and off(got, want) < 0.012
    plain = torch.round(x / (x.abs().amax(1, keepdim=True) / 127)) * (
        x.abs().amax(1, keepdim=True) / 127
    )
    small = torch.arange(896) != 17
    assert off(plain[:, small] @ w[:, small].T, x[:, small] @ w[:, small].T) > 0.3


@needs_int8
def test_zeros_stay_zeros() -> None:
    assert Int8Linear(numbers(5, 64))(torch.zeros(2, 3, 64)).abs().max() == 0
    assert Int8Linear(torch.zeros(5, 64))(numbers(2, 64)).abs().max() < 1e-9


@needs_int8
def test_a_row_hardly_depends_on_its_batch() -> None:
    matrix, x = Int8Linear(numbers(40, 128)), numbers(33, 128, seed=1)
    assert off(matrix(x)[7], matrix(x[7:8])[0]) < 1e-3, (
        "only the turning, in float32, is summed in another order"
    )


@needs_int8
def test_a_rounded_matrix_rounds_only_without_a_gradient() -> None:
    w, b, x = numbers(256, 192) * 0.1, numbers(256, seed=1), numbers(2, 5, 192, seed=2)
    plain, rounded = Linear(w, b), Linear(w, b)
    rounded.round()
    a, c = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert torch.equal(rounded(c), plain(a))
    rounded(c).sum().backward()
    plain(a).sum().backward()
    assert torch.equal(c.grad, a.grad)
    with torch.no_grad():
        assert 0 < off(rounded(x), plain(x)) < 0.012


@needs_int8
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_rounded_model_is_close_to_the_plain_one(family: str) -> None:
    plain = tiny_model(family)
    rounded = LanguageModel.of(
        tiny_hf(family), tiny_tokenizer(), name="tiny", fingerprint="tiny", use_int8=True
    )
    assert (plain.body.arithmetic, rounded.body.arithmetic) == ("float32", "int8")
    job = [Job(Problem("What is 6 times 7?"), 3)]
    ends = [
        [
            r
            for _, r in sample(m, job, seed=1, temperature=0.8, max_new_tokens=6)
            if isinstance(r, Trace)
        ]
        for m in (plain, rounded, rounded)
    ]
    assert ends[1] == ends[2] or [t.token_ids for t in ends[1]] == [t.token_ids for t in ends[2]]
    p, q = (m.next_token_probs([_prompt(m)], range(258))[0] for m in (plain, rounded))
    assert abs(p - q).sum() < 0.1 and abs(p - q).sum() > 0


def _prompt(model: LanguageModel):
    from latentmem.model.language_model import Prompt

    return Prompt(model.render([{"role": "user", "content": "What is 6 times 7?"}]))


@needs_int8
def test_a_rounded_matrix_is_read_byte_by_byte() -> None:
    plain = Linear(numbers(48, 32))
    assert plain.read == 48 * 32 * 4
    plain.round()
    assert plain.read == 48 * 32
