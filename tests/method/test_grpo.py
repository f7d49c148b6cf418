"""Advantages, token log-probabilities and gradients, against values computed by hand and by the
plain formula. Tiny random weights."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.evaluation.baselines.weight_training import LoraModel, weight_gradient
from latentmem.method.grpo import (
    LOST,
    NEGLIGIBLE,
    RolloutGroup,
    Row,
    advantages,
    budget_in,
    default_budget,
    entropy_weights,
    expected,
    policy,
    policy_gradient,
    token_log_probs,
)
from latentmem.method.prompts import solve_messages
from latentmem.records import Problem, Trace
from tests.tiny import tiny_hf, tiny_model


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


# ---------- The gradient of the shared, micro-batched step equals that of the plain computation.


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
    front = soft if soft.ndim == 2 else soft[0, :0]
    for layer, vector in zip(hf.model.layers, soft if soft.ndim == 3 else (), strict=False):
        layer.register_forward_hook(lambda _, inputs, output, vector=vector: output + vector)
    total = sum(t.tokens for t in lot.traces)
    prompt = model.render(solve_messages(lot.problem.text))
    loss = 0.0
    for t, a in zip(lot.traces, lot.advantages.tolist(), strict=True):
        ids = torch.tensor(prompt + t.token_ids)
        logits = hf(inputs_embeds=torch.cat((front, hf.model.embed_tokens(ids)))[None]).logits[0]
        log_p = (logits[len(front) + len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        loss = loss - a / total * log_p.gather(1, torch.tensor(t.token_ids)[:, None]).sum()
    (grad,) = torch.autograd.grad(loss, soft)
    return float(loss.detach()), grad


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("budget", [1, 24, 10_000])
@pytest.mark.parametrize("shapes", [((4, 32),) * 2, ((3, 1, 32),) * 2, ((3, 1, 32), (4, 32))])
def test_gradient_equals_the_plain_one(family, budget, shapes):
    """Of soft prompts, of layer vectors, and of both in one batch."""
    model, lots = tiny_model(family), []
    for i, text in enumerate(
        ["What is 1+1?", "A much longer question: what is twelve times nine?"]
    ):
        soft = torch.nn.Parameter(
            torch.randn(*shapes[i], generator=torch.Generator().manual_seed(i)) * 0.3
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


def test_an_adapter_gathers_the_same_gradient_with_prompts_shared_or_read_again():
    model, grads = tiny_model(), []
    group = RolloutGroup(Problem("2+2?"), None, traces(0, [3, 1, 7]), advantages([1, 0, 0]))
    lora = LoraModel(model, 2)
    for shared in (True, False):
        adapter = torch.nn.Parameter(lora.text_prompt("", 0) + 0.1)
        if shared:
            list(policy_gradient(lora.adapted(adapter), [group], 0.8, budget=8))
        else:
            list(weight_gradient(partial(lora.adapted, adapter), [group], 0.8))
        grads.append(adapter.grad)
    assert grads[0].abs().max() > 1e-4 and torch.allclose(*grads, atol=1e-6, rtol=1e-3)


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


# ---------- The entropy bonus.


def test_entropy_weights_by_hand():
    # 0.5 * (1 - 1.5), 0.5 * (2 - 1.5), 0 * ...
    found = entropy_weights(
        torch.tensor([-1.0, -2.0, -9.0]),
        torch.tensor([1.5, 1.5, 1.0]),
        torch.tensor([0.5, 0.5, 0.0]),
    )
    assert found.tolist() == [-0.25, 0.25, 0.0]


def test_entropy_weights_point_up_the_entropy():
    """Over all samples, weighted by their probability, the estimate is the entropy's own gradient,
    whatever the baseline."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], requires_grad=True)
    log_p = logits.log_softmax(0)
    (want,) = torch.autograd.grad(-(log_p.exp() * log_p).sum(), logits, retain_graph=True)
    for baseline in (0.0, 1.3):
        weights = entropy_weights(log_p, torch.full((4,), baseline), torch.ones(4))
        (found,) = torch.autograd.grad(
            (log_p.exp().detach() * weights * log_p).sum(), logits, retain_graph=True
        )
        assert torch.allclose(found, want, atol=1e-6)


def test_an_entropy_bonus_reaches_the_prompt_even_from_a_unanimous_group():
    model, group = tiny_model(), traces(0, [3, 4, 5])
    grads = []
    for bonus in (0.0, 0.5):
        lot = RolloutGroup(
            Problem("2+2?"),
            torch.nn.Parameter(torch.ones(2, 32) * 0.1),
            group,
            torch.zeros(3),
            entropy_bonus=bonus,
        )
        total = list(policy_gradient(model, [lot], 1.0))[-1][1] if bonus else 0
        grads.append(lot.soft.grad)
        assert total == (3 if bonus else 0)
    assert grads[0] is None and grads[1].abs().max() > 0


def test_the_bonus_adds_to_the_plain_gradient():
    """No bonus: the plain gradient. With one: the gradient of the plain loss whose tokens weigh as
    `entropy_weights` says."""
    model = tiny_model()
    start = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * 0.3
    group, a = traces(0, [5, 9]), advantages([1, 0])
    grads = {}
    for bonus in (0.0, 0.2):
        lot = RolloutGroup(
            Problem("1+1?"), torch.nn.Parameter(start.clone()), group, a, entropy_bonus=bonus
        )
        list(policy_gradient(model, [lot], 1.0))
        grads[bonus] = lot.soft.grad
    assert torch.allclose(grads[0.0], plain("qwen2", model, lot, 1.0)[1], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(grads[0.0], grads[0.2], atol=1e-5)
    only = RolloutGroup(
        Problem("1+1?"), torch.nn.Parameter(start.clone()), group, torch.zeros(2), entropy_bonus=0.2
    )
    list(policy_gradient(model, [only], 1.0))
    assert torch.allclose(grads[0.2], grads[0.0] + only.soft.grad, atol=1e-5, rtol=1e-3)
