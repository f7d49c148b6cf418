"""Trained weights: adapters and all parameters, held to PEFT's and transformers' own logits and
gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from latentmem.evaluation.baselines.offline import FullLearner
from latentmem.evaluation.baselines.weight_training import (
    LoraModel,
    weight_gradient,
)
from latentmem.method.distillation import Recipe
from latentmem.method.grpo import RolloutGroup
from latentmem.method.prompts import solve_messages
from latentmem.model.language_model import LanguageModel, Prompt
from latentmem.records import Trace
from tests.baseline_samples import one_thread, problems, run  # noqa: F401
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=5)


def some_lots(model, soft=None):
    """Two problems, five completions of different lengths, advantages of both signs and one of
    zero."""
    draw = np.random.default_rng(0)
    lots = []
    for p, weights in zip(problems(2), ([1.0, -0.5, 0.0], [-1.0, 2.0]), strict=True):
        traces = [
            Trace(i, "", "1", True, n, token_ids=tuple(int(t) for t in draw.integers(0, 250, n)))
            for i, n in zip(range(len(weights)), (1, 7, 12), strict=False)
        ]
        lots.append(RolloutGroup(p, soft, traces, torch.tensor(weights)))
    return lots


def plain_loss(logits_of, model, lots, temperature):
    """The same loss, written plainly over a transformers model's logits."""
    losses = []
    for lot in lots:
        prompt, total, loss = (
            model.render(solve_messages(lot.problem.text)),
            sum(t.tokens for t in lot.traces),
            0.0,
        )
        for trace, a in zip(lot.traces, lot.advantages.tolist(), strict=True):
            logits = (
                logits_of(torch.tensor([[*prompt, *trace.token_ids]]))[0, len(prompt) - 1 : -1]
                / temperature
            )
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(trace.token_ids)[:, None])
            loss = loss - a / total * chosen.sum()
        losses.append(loss)
    return losses


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_adapter_is_pefts(family):
    """Logits, loss and gradient of our low-rank adapter against PEFT's LoRA on the transformers
    model."""
    from peft import LoraConfig, get_peft_model

    hf = tiny_hf(family, seed=3)
    lora = LoraModel(
        LanguageModel.of(copy.deepcopy(hf), tiny_tokenizer(), name="t", fingerprint="t"),
        rank=4,
        alpha=8,
    )
    theirs = get_peft_model(
        hf, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    )
    torch.manual_seed(0)
    adapter = torch.nn.Parameter(
        lora.text_prompt("", 0) + 0.1 * torch.randn_like(lora.text_prompt("", 0))
    )
    named = dict(theirs.named_parameters())
    slots, at = [], 0
    for layer in range(3):
        for matrix in ("q_proj", "v_proj"):
            for part in ("A", "B"):
                place = f"layers.{layer}.self_attn.{matrix}.lora_{part}"
                name = f"base_model.model.model.{place}.default.weight"
                slots.append((named[name], at))
                named[name].data = (
                    adapter.detach()
                    .flatten()[at : at + named[name].numel()]
                    .view_as(named[name])
                    .clone()
                )
                at += named[name].numel()
    assert at == lora.numbers
    ids = lora.render(solve_messages("What is 2 + 2?"))
    with torch.no_grad():
        ours = lora.adapted(adapter)
        logits = ours.body.head(ours.prefill([Prompt(ids)]).hidden)
        assert (logits - theirs(torch.tensor([ids])).logits).abs().max() < 1e-4
        with theirs.disable_adapter():
            assert (logits - theirs(torch.tensor([ids])).logits).abs().max() > 1e-2, (
                "an adapter that does something"
            )
    lots = some_lots(lora)
    want = plain_loss(lambda x: theirs(x).logits, lora, lots, 0.7)
    sum(want).backward()
    got = run(weight_gradient(lambda: lora.adapted(adapter), lots, 0.7, budget=400))
    assert got == pytest.approx([w.item() for w in want], abs=1e-4)
    for parameter, start in slots:
        mine = adapter.grad.flatten()[start : start + parameter.numel()].view_as(parameter)
        assert torch.allclose(mine, parameter.grad, atol=1e-5, rtol=1e-3)
    assert parameter.grad.abs().max() > 1e-3


def test_untrained_adapter_changes_nothing(model):
    lora = LoraModel(model)
    ids = model.render(solve_messages("What is 2 + 2?"))
    with torch.no_grad():
        a, b = (
            m.prefill([Prompt(ids)]).hidden for m in (model, lora.adapted(lora.text_prompt("", 0)))
        )
    assert torch.equal(a, b)


@pytest.mark.parametrize("tied", [False, True])
def test_full_gradient_is_transformers_own(tied):
    """Every parameter's gradient, the output matrix and a tied embedding included, against autograd
    in transformers."""
    # With a pad token, transformers leaves its embedding's gradient out; here that token is read
    # like any other.
    hf = tiny_hf("qwen2", seed=4, tie_word_embeddings=tied, pad_token_id=None)
    base = LanguageModel.of(copy.deepcopy(hf), tiny_tokenizer(), name="t", fingerprint="t")
    learner = FullLearner(base, Recipe())
    lots = some_lots(base)
    want = plain_loss(lambda x: hf(x).logits, base, lots, 0.7)
    sum(want).backward()
    got = run(learner.gradient(learner.model, lots, 0.7))
    assert got == pytest.approx([w.item() for w in want], abs=1e-4)
    body, inner = learner.model.body, hf.model
    assert (body.embedding is body.head.weight) == tied
    pairs = [
        (body.embedding, inner.embed_tokens.weight),
        (body.head.weight, hf.lm_head.weight),
        (body.norm, inner.norm.weight),
    ]
    for mine, theirs in zip(body.layers, inner.layers, strict=True):
        a, m = theirs.self_attn, theirs.mlp
        pairs += [
            (mine.norm1, theirs.input_layernorm.weight),
            (mine.norm2, theirs.post_attention_layernorm.weight),
            (mine.out.weight, a.o_proj.weight),
            (mine.down.weight, m.down_proj.weight),
        ]
        for part, rows in (
            (a.q_proj, slice(0, 32)),
            (a.k_proj, slice(32, 48)),
            (a.v_proj, slice(48, 64)),
        ):
            assert torch.allclose(
                mine.qkv.weight.grad[rows], part.weight.grad, atol=1e-5, rtol=1e-3
            )
            assert torch.allclose(mine.qkv.bias.grad[rows], part.bias.grad, atol=1e-5, rtol=1e-3)
        assert torch.allclose(
            mine.gate_up.weight.grad[:48], m.gate_proj.weight.grad, atol=1e-5, rtol=1e-3
        )
    for mine, theirs in pairs:
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    total = sum(p.numel() for p in learner.parameters)
    assert total == sum(p.numel() for p in hf.parameters()), "every parameter is trained, once"


def test_full_learner_of_a_short_type_keeps_long_masters():
    """In bfloat16 a step of 1e-6 would be lost by rounding; the float32 copy takes it down."""
    model = LanguageModel.of(
        tiny_hf(seed=2), tiny_tokenizer(), name="t", fingerprint="t", dtype=torch.bfloat16
    )
    learner = FullLearner(model, Recipe())
    assert all(p.dtype == torch.float32 for p in learner.parameters)
    assert learner.model.body.dtype == torch.bfloat16
    run(learner.gradient(learner.model, some_lots(model), 1.0))
    before = [p.detach().clone() for p in learner.parameters]
    optimizer = torch.optim.AdamW(learner.parameters, lr=1e-6)
    optimizer.step()
    assert (
        sum(bool((a != b).any()) for a, b in zip(before, learner.parameters, strict=True))
        > len(before) / 2
    )
    assert torch.equal(model.body.norm, before[-1].bfloat16()), (
        "the model it was made from stays as it was"
    )


def test_small_steps_reach_the_model_that_samples():
    """Ten steps of 1e-6 the same way are a tenth of the distance between two bfloat16 numbers of
    about 0.02: the mean of the change must arrive, and from a checkpoint's numbers the same
    weights."""
    from latentmem.evaluation.baselines.offline import dithered

    torch.manual_seed(3)
    short = (0.02 * torch.randn(300, 1000)).bfloat16()
    long, start = short.float(), short.float()
    dithered(long, short, 0)
    assert torch.equal(short.float(), start), "numbers that have a bfloat16 stay what they are"
    moved = torch.where(start > 0, 1e-5, -1e-5)
    dithered(long + moved, short, 0)
    arrived = ((short.float() - start) / moved).mean()
    assert abs(float(arrived) - 1) < 0.05
    assert float(((start + moved).bfloat16().float() - start).div(moved).mean()) < 0.5
    again = torch.empty_like(short)
    dithered((long + moved).clone(), again, 0)
    assert torch.equal(again, short)


def test_adapters_share_no_batch_and_keep_their_rows(model):
    """Prompts with two adapters and with none: each row is what its own adapter gives alone."""
    lora = LoraModel(model)
    torch.manual_seed(1)
    a, b = (
        lora.text_prompt("", 0) + 0.3 * torch.randn(lora.text_prompt("", 0).shape) for _ in range(2)
    )
    ids = [model.render(solve_messages(p.text)) for p in problems(4)]
    prompts = [Prompt(ids[0], a), Prompt(ids[1], b), Prompt(ids[2], a), Prompt(ids[3])]
    seeds = [[1, 2], [3], [4, 5], [6]]
    how = {"temperature": 1.0, "max_new_tokens": 8}

    def tokens(stream):
        rows = {}
        for drawn in stream:
            for d in drawn:
                rows.setdefault(d.row, []).append(d.token)
        return rows

    got, at = tokens(lora.generate(prompts, seeds, **how)), 0
    assert sorted(got) == list(range(6))
    for prompt, own in zip(prompts, seeds, strict=True):
        one = lora.base if prompt.soft is None else lora.adapted(prompt.soft)
        alone = tokens(one.generate([Prompt(prompt.ids)], [own], **how))
        assert [got[at + i] for i in range(len(own))] == [alone[i] for i in range(len(own))]
        at += len(own)
    seen = []
    watched = {"stopped": lambda row: row in (2, 4), "watch": lambda live, _: seen.extend(live)}
    cut = tokens(lora.generate(prompts, seeds, **how, **watched))
    assert cut == {row: ids[:1] if row in (2, 4) else ids for row, ids in got.items()}
    assert all(seen.count(row) == len(ids) for row, ids in cut.items())
