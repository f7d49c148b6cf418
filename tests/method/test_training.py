"""The gradient of the shared-prefix, micro-batched step equals that of the plain computation. Tiny
random weights."""

from __future__ import annotations

import math
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from latentmem.evaluation.baselines.weight_training import LoraModel, weight_gradient
from latentmem.method import distillation
from latentmem.method.distillation import Recipe, _pupil, grpo_step
from latentmem.method.grpo import (
    RolloutGroup,
    advantages,
    budget_in,
    default_budget,
    policy,
    policy_gradient,
)
from latentmem.method.prompts import solve_messages
from latentmem.method.voting import vote
from latentmem.records import Problem, Step, Trace
from tests.tiny import tiny_hf, tiny_model


def traces(seed, lengths):
    g = torch.Generator().manual_seed(seed)
    return [
        Trace(
            i, "", None, True, n, token_ids=tuple(torch.randint(0, 256, (n,), generator=g).tolist())
        )
        for i, n in enumerate(lengths)
    ]


def plain(family, model, lot, temperature):
    """The same loss through transformers' own forward pass, one row at a time, nothing shared."""
    hf, soft = tiny_hf(family), lot.soft.detach().clone().requires_grad_()
    total = sum(t.tokens for t in lot.traces)
    prompt = model.render(solve_messages(lot.problem.text))
    loss = 0.0
    for t, a in zip(lot.traces, lot.advantages.tolist(), strict=True):
        ids = torch.tensor(prompt + t.token_ids)
        logits = hf(inputs_embeds=torch.cat((soft, hf.model.embed_tokens(ids)))[None]).logits[0]
        log_p = (logits[len(soft) + len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        loss = loss - a / total * log_p.gather(1, torch.tensor(t.token_ids)[:, None]).sum()
    (grad,) = torch.autograd.grad(loss, soft)
    return float(loss.detach()), grad


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("budget", [1, 24, 10_000])
def test_gradient_equals_the_plain_one(family, budget):
    model, lots = tiny_model(family), []
    for i, text in enumerate(
        ["What is 1+1?", "A much longer question: what is twelve times nine?"]
    ):
        soft = torch.nn.Parameter(
            torch.randn(4, 32, generator=torch.Generator().manual_seed(i)) * 0.3
        )
        lots.append(
            RolloutGroup(
                Problem(text), soft, traces(i, [5, 1, 9, 12]), advantages([1, 0, 0, 1 - i])
            )
        )
    gradient = policy_gradient(model, lots, 0.8, budget=budget)
    ticks = []
    while True:
        try:
            ticks.append(next(gradient))
        except StopIteration as end:
            losses = end.value
            break
    assert ticks[-1] == (8, 8) and (len(ticks) == 9 if budget == 1 else len(ticks) < 9)
    for lot, loss in zip(lots, losses, strict=True):
        want, grad = plain(family, model, lot, 0.8)
        assert loss == pytest.approx(want, abs=1e-4)
        assert torch.allclose(lot.soft.grad, grad, atol=1e-5, rtol=1e-3)
        assert grad.abs().max() > 1e-4


def test_the_loss_of_a_token_is_exchangeable():
    """Twice the policy's loss has twice its gradient, into a soft prompt as into weights."""

    def twice(*given):
        return 2 * policy(*given)

    model, grads = tiny_model(), []
    for loss in (policy, twice):
        soft = torch.nn.Parameter(torch.ones(2, 32) * 0.1)
        group = RolloutGroup(Problem("2+2?"), soft, traces(0, [3, 4]), advantages([1, 0]))
        list(policy_gradient(model, [group], 1.0, loss=loss))
        lora = LoraModel(model, 2)
        adapter = torch.nn.Parameter(lora.text_prompt("", 0))
        list(weight_gradient(partial(lora.adapted, adapter), [group], 1.0, loss=loss))
        grads.append((soft.grad, adapter.grad))
    for once, doubled in zip(*grads, strict=True):
        assert once.abs().max() > 1e-5 and torch.allclose(doubled, 2 * once, rtol=1e-4)


def test_rows_of_zero_advantage_are_skipped():
    model = tiny_model()
    lot = RolloutGroup(
        Problem("2+2?"),
        torch.nn.Parameter(torch.randn(2, 32)),
        traces(0, [3, 4, 5]),
        torch.tensor([1.0, 0.0, -1.0]),
    )
    assert list(policy_gradient(model, [lot], 1.0, budget=1)) == [(0, 2), (1, 2), (2, 2)]


def test_base_weights_gather_no_gradient():
    model = tiny_model()
    lot = RolloutGroup(
        Problem("2+2?"),
        torch.nn.Parameter(torch.randn(2, 32)),
        traces(0, [3, 4]),
        advantages([1, 0]),
    )
    for _ in policy_gradient(model, [lot], 1.0):
        pass
    assert lot.soft.grad is not None
    assert model.body.embedding.grad is None and not model.body.layers[0].qkv.weight.requires_grad


@pytest.mark.parametrize(
    "free, token, budget",
    [
        (68_000_000_000, 3_215_360, 10_574),  # Llama-3.1-8B on 80 GiB: 34e9 / 3,215,360 = 10,574.2
        (8_000_000_000, 3_215_360, 1244),  # and on 24 GB: 4e9 / 3,215,360 = 1244.03
        (84_000_000_000, 671_040, 16_384),  # a small model has room for more than is of use
        (1_000_000_000, 3_215_360, 256),
        (-5, 3_215_360, 256),
    ],
)
def test_a_micro_batch_is_as_large_as_a_gpus_memory_allows(free, token, budget):
    assert budget_in(free, token) == budget


def test_a_micro_batch_is_sized_by_the_device():
    """Llama-3.1-8B's numbers stand in for a model on a GPU."""
    gate_up = SimpleNamespace(weight=range(28_672))
    body = SimpleNamespace(
        device=torch.device("cuda"),
        spare=68_000_000_000,
        dtype=torch.bfloat16,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        layers=(SimpleNamespace(gate_up=gate_up),) * 32,
    )
    assert default_budget(body) == 10_574
    assert default_budget(tiny_model().body) == 256


def test_the_time_of_training_includes_the_update_and_a_loss_can_be_stored(monkeypatch):
    model = tiny_model()
    recipe = Recipe(rollouts=2, max_new_tokens=3, virtual_tokens=2, init_text="Think.")
    group = traces(0, [3, 4])
    first = vote(group, side="zero_shot")
    pupils = [_pupil(model, Problem(f"{i}+2?"), group, first, recipe) for i in range(2)]
    monkeypatch.setattr(distillation, "update", lambda *_: (time.sleep(0.15), (0.5, ""))[1])

    def gradient(_, groups, __):
        yield len(groups), len(groups)
        return [math.nan, 0.25]

    records = grpo_step(
        model,
        [p.problem for p in pupils],
        pupils,
        recipe,
        1,
        judge=lambda *_: ((1.0, 0.0), ""),
        gradient=gradient,
    )
    steps = [r for _, r in records if isinstance(r, Step)]
    assert [s.grad_norm for s in steps] == [0.5, 0.5] and [s.loss for s in steps] == [0.0, 0.25]
    assert steps[0].seconds_train == steps[1].seconds_train >= 0.15, "two updates, shared evenly"
