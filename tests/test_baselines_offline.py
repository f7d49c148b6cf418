"""The rows that train on a whole set, and elm's loop with adapters: what changes, what resumes, what is learnt from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latentmem.baselines.base import Course, Form
from latentmem.baselines.learners import FullLearner, LoraLearner, PromptLearner
from latentmem.baselines.offline import Offline
from latentmem.baselines.sampler import Ask
from latentmem.grpo import advantages
from latentmem.records import LatentmemError, Problem, Step
from latentmem.training import Lot, policy_gradient
from latentmem.voting import rewards, vote
from tests.baseline_samples import labelled, one_thread, problems, run, shared_model, tiny_engine, workshop  # noqa: F401

VOTE6 = Form("vote", 6, 1.2)
OFFLINE = ("offline_prompt", "offline_lora", "offline_ttrl", "offline_grpo")


@pytest.fixture(scope="module")
def model():
    return shared_model()


@pytest.fixture
def engine(model, monkeypatch):
    return tiny_engine(monkeypatch, model)


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
