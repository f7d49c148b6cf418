"""Trained weights: adapters and all parameters, held to PEFT's and transformers' own logits and gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentmem.baselines.base import Form
from latentmem.baselines.learners import FullLearner, LoraLearner, PromptLearner
from latentmem.baselines.offline import Course, Offline
from latentmem.baselines.sampler import Ask
from latentmem.baselines.tuning import LoraModel, trained_log_probs, weight_gradient
from latentmem.grpo import token_log_probs
from latentmem.model import LanguageModel, Prompt
from latentmem.prompts import solve_messages
from latentmem.records import LatentmemError, Problem, Step, Trace
from latentmem.training import Lot, policy_gradient
from tests.baseline_samples import one_thread, problems, tiny_engine, workshop  # noqa: F401
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer

VOTE6 = Form("vote", 6, 1.2)
OFFLINE = ("offline_prompt", "offline_lora", "offline_ttrl", "offline_grpo")


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=5, max_position_embeddings=4096)


@pytest.fixture
def engine(model, monkeypatch):
    return tiny_engine(monkeypatch, model)


def some_lots(model, soft=None):
    """Two problems, five completions of different lengths, advantages of both signs and one of zero."""
    draw = np.random.default_rng(0)
    lots = []
    for p, weights in zip(problems(2), ([1.0, -0.5, 0.0], [-1.0, 2.0]), strict=True):
        traces = [Trace(i, "", "1", True, n, token_ids=tuple(int(t) for t in draw.integers(0, 250, n)))
                  for i, n in zip(range(len(weights)), (1, 7, 12), strict=False)]
        lots.append(Lot(p, soft, traces, torch.tensor(weights)))
    return lots


def plain_loss(logits_of, model, lots, temperature):
    """The same loss, written plainly over a transformers model's logits."""
    losses = []
    for lot in lots:
        prompt, total, loss = model.render(solve_messages(lot.problem.text)), sum(t.tokens for t in lot.traces), 0.0
        for trace, a in zip(lot.traces, lot.advantages.tolist(), strict=True):
            logits = logits_of(torch.tensor([[*prompt, *trace.token_ids]]))[0, len(prompt) - 1 : -1] / temperature
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(trace.token_ids)[:, None])
            loss = loss - a / total * chosen.sum()
        losses.append(loss)
    return losses


def labelled(n):
    """Problems with a truth that the stand-in extractor, which answers 0, 1 or 2, at times meets."""
    return [Problem(p.text, answer="1") for p in problems(n)]


def run(generator):
    """The return value of a generator."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_adapter_is_pefts(family):
    """Logits, loss and gradient of our low-rank adapter against PEFT's LoRA on the transformers model."""
    from peft import LoraConfig, get_peft_model

    hf = tiny_hf(family, seed=3)
    lora = LoraModel(LanguageModel.of(copy.deepcopy(hf), tiny_tokenizer(), name="t", fingerprint="t"), rank=4, alpha=8)
    theirs = get_peft_model(hf, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0))
    torch.manual_seed(0)
    adapter = torch.nn.Parameter(lora.text_prompt("", 0) + 0.1 * torch.randn_like(lora.text_prompt("", 0)))
    named = dict(theirs.named_parameters())
    slots, at = [], 0
    for layer in range(3):
        for matrix in ("q_proj", "v_proj"):
            for part in ("A", "B"):
                name = f"base_model.model.model.layers.{layer}.self_attn.{matrix}.lora_{part}.default.weight"
                slots.append((named[name], at))
                named[name].data = adapter.detach().flatten()[at : at + named[name].numel()].view_as(named[name]).clone()
                at += named[name].numel()
    assert at == lora.numbers
    ids = lora.render(solve_messages("What is 2 + 2?"))
    with torch.no_grad():
        ours = lora.adapted(adapter)
        logits = ours.body.head(ours.prefill([Prompt(ids)]).hidden)
        assert (logits - theirs(torch.tensor([ids])).logits).abs().max() < 1e-4
        with theirs.disable_adapter():
            assert (logits - theirs(torch.tensor([ids])).logits).abs().max() > 1e-2, "an adapter that does something"
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
        a, b = (m.prefill([Prompt(ids)]).hidden for m in (model, lora.adapted(lora.text_prompt("", 0))))
    assert torch.equal(a, b)


@pytest.mark.parametrize("tied", [False, True])
def test_full_gradient_is_transformers_own(tied):
    """Every parameter's gradient, the output matrix and a tied embedding included, against autograd in transformers."""
    # With a pad token, transformers leaves its embedding's gradient out; here that token is read like any other.
    hf = tiny_hf("qwen2", seed=4, tie_word_embeddings=tied, pad_token_id=None)
    base = LanguageModel.of(copy.deepcopy(hf), tiny_tokenizer(), name="t", fingerprint="t")
    learner = FullLearner(base)
    lots = some_lots(base)
    want = plain_loss(lambda x: hf(x).logits, base, lots, 0.7)
    sum(want).backward()
    got = run(learner.gradient(lots, 0.7))
    assert got == pytest.approx([w.item() for w in want], abs=1e-4)
    body, inner = learner.model.body, hf.model
    assert (body.embedding is body.head.weight) == tied
    pairs = [(body.embedding, inner.embed_tokens.weight), (body.head.weight, hf.lm_head.weight), (body.norm, inner.norm.weight)]
    for mine, theirs in zip(body.layers, inner.layers, strict=True):
        a, m = theirs.self_attn, theirs.mlp
        pairs += [(mine.norm1, theirs.input_layernorm.weight), (mine.norm2, theirs.post_attention_layernorm.weight),
                  (mine.out.weight, a.o_proj.weight), (mine.down.weight, m.down_proj.weight)]
        for part, rows in ((a.q_proj, slice(0, 32)), (a.k_proj, slice(32, 48)), (a.v_proj, slice(48, 64))):
            assert torch.allclose(mine.qkv.weight.grad[rows], part.weight.grad, atol=1e-5, rtol=1e-3)
            assert torch.allclose(mine.qkv.bias.grad[rows], part.bias.grad, atol=1e-5, rtol=1e-3)
        assert torch.allclose(mine.gate_up.weight.grad[:48], m.gate_proj.weight.grad, atol=1e-5, rtol=1e-3)
    for mine, theirs in pairs:
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    total = sum(p.numel() for p in learner.parameters)
    assert total == sum(p.numel() for p in hf.parameters()), "every parameter is trained, once"


def test_trained_log_probs_are_the_frozen_ones():
    torch.manual_seed(0)
    hidden, head, ids = torch.randn(300, 8), torch.randn(50, 8, requires_grad=True), torch.randint(0, 50, (300,))
    got = trained_log_probs(hidden, head, ids, 0.7)
    assert torch.allclose(got, token_log_probs(hidden, head.detach(), ids, 0.7), atol=1e-5)


def test_full_learner_of_a_short_type_keeps_long_masters():
    """In bfloat16 a step of 1e-6 would be lost by rounding; the float32 copy takes it down."""
    model = LanguageModel.of(tiny_hf(seed=2), tiny_tokenizer(), name="t", fingerprint="t", dtype=torch.bfloat16)
    learner = FullLearner(model)
    assert all(p.dtype == torch.float32 for p in learner.parameters) and learner.model.body.dtype == torch.bfloat16
    run(learner.gradient(some_lots(model), 1.0))
    before = [p.detach().clone() for p in learner.parameters]
    optimizer = torch.optim.AdamW(learner.parameters, lr=1e-6)
    optimizer.step()
    assert sum(bool((a != b).any()) for a, b in zip(before, learner.parameters, strict=True)) > len(before) / 2
    assert torch.equal(model.body.norm, before[-1].bfloat16()), "the model it was made from stays as it was"


def test_adapters_share_no_batch_and_keep_their_rows(model):
    """Prompts with two adapters and with none: each row is what its own adapter gives alone."""
    lora = LoraModel(model)
    torch.manual_seed(1)
    a, b = (lora.text_prompt("", 0) + 0.3 * torch.randn(lora.text_prompt("", 0).shape) for _ in range(2))
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


# The offline rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_rows_change_what_they_train_and_nothing_else(engine, name):
    shop = workshop(engine, offline_steps=3, offline_batch=2, rates={"full": 1e-3, "lora": 1e-2})
    before = [w.qkv.weight.clone() for w in engine.model.body.layers]
    system = shop.make(name)
    asked = problems(4, start=20)
    untrained = [r.traces for r in system.reply(asked, VOTE6)]
    steps = [r for r in system.fit(labelled(5)) if isinstance(r, Step)]
    assert [s.step for s in steps] == [1, 1, 2, 2, 3, 3] and any(s.grad_norm > 0 for s in steps)
    assert [r.traces for r in system.reply(asked, VOTE6)] != untrained
    assert all(torch.equal(a, w.qkv.weight) for a, w in zip(before, engine.model.body.layers, strict=True))
    assert system.spent.tokens == sum(s.tokens for s in steps) and list(system.learn(asked)) == []


@pytest.mark.parametrize("name", OFFLINE)
def test_a_killed_fit_goes_on(engine, name, tmp_path):
    """Stopped after two of four steps and begun anew in another process' objects: the same parameters in the end."""
    how = {"offline_steps": 4, "offline_batch": 2, "rates": {"full": 1e-3}}
    p = labelled(3)
    whole = workshop(engine, **how).make(name)
    whole.course = replace(whole.course, every=1)
    list(whole.fit(p))
    one, two = (workshop(engine, tmp_path, **how).make(name) for _ in range(2))
    one.course = two.course = whole.course
    stream = one.fit(p)
    while one.done < 2:
        next(stream)
    stream.close()
    seen = [r.step for r in two.fit(p) if isinstance(r, Step)]
    assert min(seen) == one.done + 1 and two.spent.tokens == whole.spent.tokens
    for a, b in zip(whole.learner.parameters, two.learner.parameters, strict=True):
        assert torch.equal(a, b)
    assert len(list((tmp_path / name).glob("*.safetensors"))) == 1
    three = workshop(engine, tmp_path, **how).make(name)
    three.course = whole.course
    assert list(three.fit(p)) == [] and three.spent.tokens == whole.spent.tokens
    assert any(isinstance(r, Step) for r in three.fit(labelled(2))), "another set is another fit"


def test_every_problem_has_its_turn(engine):
    system = workshop(engine, offline_batch=4).make("offline_prompt")
    given = problems(6)
    turns = [p.id for step in (1, 2, 3) for p in system._turn(given, step)]
    assert sorted(turns[:6]) == sorted(turns[6:]) == sorted(p.id for p in given) and turns[:6] != turns[6:]
    other = workshop(engine, offline_batch=4).make("offline_ttrl")
    assert [p.id for step in (1, 2, 3) for p in other._turn(given, step)] == turns


def test_grpo_learns_from_the_truth_and_says_so(engine, monkeypatch):
    """Its rewards are the truth's; the others' are the majority's. Without labels it refuses."""
    system = workshop(engine, offline_steps=2).make("offline_grpo")
    assert system.needs_labels
    given = labelled(4)
    seen = {}
    payoff = Offline._payoff

    def watched(self, problem, group, now):
        out = payoff(self, problem, group, now)
        seen[problem.id, len(seen)] = ([float(t.answer == "1") for t in group], list(out))
        return out

    monkeypatch.setattr(Offline, "_payoff", watched)
    list(system.fit(given))
    assert len(seen) == 8 and all(want == got for want, got in seen.values()) and any(sum(w) for w, _ in seen.values())
    with pytest.raises(LatentmemError, match="has none: give it an answer"):
        list(workshop(engine).make("offline_grpo").fit([Problem("What is 1 + 1?")]))
    with pytest.raises(LatentmemError, match="no problems to learn from"):
        list(workshop(engine).make("offline_prompt").fit([]))


def test_a_batch_of_one_is_a_single_memorys_gradient(engine, model):
    """offline_prompt on one problem takes the step that policy_gradient says."""
    from latentmem.grpo import advantages
    from latentmem.voting import rewards, vote

    shop = workshop(engine)
    for problem in problems(12):
        system = Offline("offline_prompt", shop.sampler, lambda: PromptLearner(model, "Solve it.", 4), shop.recipe,
                         Course(1, 1, 0.01))
        (step,) = (r for r in system.fit([problem]) if isinstance(r, Step))
        if step.note:
            continue
        soft = torch.nn.Parameter(model.text_prompt("Solve it.", 4))
        system.reset()
        (traces,) = system._sample([problem], 1)
        run(policy_gradient(model, [Lot(problem, soft, traces, advantages(rewards(traces, vote(traces))))], 1.2))
        assert step.grad_norm == pytest.approx(float(soft.grad.norm()), rel=1e-4)
        return
    raise AssertionError("no group of twelve had a gradient")


def test_lora_memories_answer_with_their_own_adapter(engine):
    shop = workshop(engine, rates={"lora": 0.03})
    system = shop.make("elm_lora")
    list(system.learn(problems(8)))
    assert len(system.ids) >= 2
    asked = problems(6, start=20)
    used = set()
    for problem, reply in zip(asked, system.reply(asked, VOTE6), strict=True):
        lora = system.teacher.model
        adapted = lora.adapted(torch.from_numpy(system.bank.get(reply.hit.memory_id).soft_prompt.copy()), "x")
        want = shop.sampler.of(adapted).sample([Ask(problem, side="memory")], VOTE6)[0]
        mine = [t.token_ids for t in reply.traces if t.side == "memory"]
        assert mine == [t.token_ids for t in want.traces]
        assert mine != [t.token_ids for t in reply.traces if t.side == "zero_shot"]
        used.add(reply.hit.memory_id)
    assert len(used) > 1, "more than one adapter was in play"


def test_a_learners_model_is_told_apart(engine):
    """After a step its rollouts have other keys in the sampler's memory."""
    for learner in (LoraLearner(engine.model), FullLearner(engine.model)):
        learner.stamp()
        before = learner.model.fingerprint
        with torch.no_grad():
            learner.parameters[0].add_(1e-3)
        learner.changed()
        learner.stamp()
        assert learner.model.fingerprint not in (before, engine.model.fingerprint)
