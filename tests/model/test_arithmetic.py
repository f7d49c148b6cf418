"""Every way a CPU can multiply runs the whole loop: sampling, distilling, adapters. Tiny random
weights."""

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
from latentmem.model.linear import has_int8
from latentmem.records import Problem, Step, Trace
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer

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
