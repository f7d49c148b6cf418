"""Every way a CPU can multiply: the products, and the whole loop over them. Tiny random weights."""

from __future__ import annotations

import pytest
import torch

from latentmem.bench.workloads import scripted
from latentmem.evaluation.baselines.weight_training import LoraModel, weight_gradient
from latentmem.method.distillation import Lesson, Recipe, distil
from latentmem.method.grpo import RolloutGroup, advantages, policy_gradient
from latentmem.method.rollouts import Job, sample
from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel, Prompt, native_number
from latentmem.model.linear import Int8Linear, Linear, block_of, hadamard, has_int8, turn
from latentmem.records import Problem, Step, Trace
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


# ---------- Sampling, distilling and adapters in each arithmetic.


ROUNDED = pytest.param(
    torch.bfloat16,
    True,
    id="int8-bfloat16",
    marks=pytest.mark.skipif(not has_int8(), reason="needs a CPU with AVX512-VNNI"),
)
WAYS = pytest.mark.parametrize(
    ("dtype", "use_int8"), [pytest.param(torch.bfloat16, False, id="bfloat16"), ROUNDED]
)


def made(dtype: torch.dtype, use_int8: bool) -> LanguageModel:
    return LanguageModel.of(
        tiny_hf(), tiny_tokenizer(), name="tiny", fingerprint="tiny", dtype=dtype, use_int8=use_int8
    )


@WAYS
def test_the_whole_loop_runs(dtype: torch.dtype, use_int8: bool) -> None:
    model, problem = made(dtype, use_int8), Problem("What is 6 times 7?")
    traces = [Trace(r, "", "1" if r < 3 else "2", True, 20) for r in range(4)]
    recipe = Recipe(
        rollouts=4,
        temperature=0.8,
        max_new_tokens=20,
        virtual_tokens=3,
        init_text="Think.",
        steps=2,
        gate_votes=1,
        gate_lead=0,
    )
    records = [
        r for _, r in distil(scripted(model, 20, 4), [problem], [(traces, vote(traces, 4))], recipe)
    ]
    steps = [r for r in records if isinstance(r, Step)]
    assert [s.grad_norm > 0 for s in steps] == [True, True, False], "the last is the final check"
    assert isinstance(records[-1], Lesson) and records[-1].soft is not None


@WAYS
def test_a_gradient_has_the_direction_of_the_exact_one(dtype: torch.dtype, use_int8: bool) -> None:
    model, exact = made(dtype, use_int8), tiny_model()
    start = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    job, model.ends = Job(Problem("What is 1+1?"), 6, start, "memory", 1), frozenset()
    traces = sorted(
        (
            r
            for _, r in sample(model, [job], seed=1, temperature=1.0, max_new_tokens=9)
            if isinstance(r, Trace)
        ),
        key=lambda t: t.row,
    )
    grads = []
    for one in (exact, model):
        lot = RolloutGroup(
            job.problem,
            torch.nn.Parameter(start.clone()),
            traces,
            advantages([1, 0, 0, 1, 0, 0]),
        )
        for _ in policy_gradient(one, [lot], 1.0):
            pass
        grads.append(lot.soft.grad.flatten())
    assert torch.cosine_similarity(*grads, 0) > 0.99 and not torch.equal(*grads)


@WAYS
def test_adapters_are_sampled_and_trained(dtype: torch.dtype, use_int8: bool) -> None:
    lora = LoraModel(made(dtype, use_int8), rank=2)
    adapter = torch.nn.Parameter(lora.text_prompt("", 0))
    job = Job(Problem("What is 1+1?"), 3, adapter.detach(), "memory", 1)
    traces = [
        r
        for _, r in sample(lora, [job], seed=1, temperature=1.0, max_new_tokens=6)
        if isinstance(r, Trace)
    ]
    lot = RolloutGroup(job.problem, adapter, traces, advantages([1, 0, 0]))
    for _ in weight_gradient(lambda: lora.adapted(adapter), [lot], 1.0):
        pass
    assert adapter.grad is not None and adapter.grad.abs().max() > 0


@pytest.mark.skipif(not has_int8(), reason="needs a CPU with AVX512-VNNI")
def test_what_flows_is_float32_only_where_products_are_rounded() -> None:
    rounded, plain = made(torch.bfloat16, True), made(torch.bfloat16, False)
    with torch.no_grad():
        assert (rounded.body.flow, plain.body.flow) == (torch.float32, torch.bfloat16)
        assert rounded.prefill([Prompt((1, 2, 3))]).hidden.dtype == torch.float32
    with torch.enable_grad():
        assert (rounded.body.flow, plain.body.flow) == (torch.bfloat16, torch.bfloat16)


def test_bfloat16_only_where_the_chip_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for avx, amx, want in (
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert native_number(torch.device("cpu")) is want
    assert native_number(torch.device("mps")) is torch.float32
