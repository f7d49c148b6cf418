"""The rows that train on a whole set, and elm's loop with adapters: what changes, what resumes,
what is learnt from."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from latentmem.evaluation.baselines.offline import (
    ORDER,
    FullLearner,
    LoraLearner,
    Offline,
    PromptLearner,
)
from latentmem.evaluation.baselines.sampler import Ask
from latentmem.evaluation.results import AnswerMode, TrainingSchedule
from latentmem.method.distillation import Recipe, shift
from latentmem.method.grpo import RolloutGroup, advantages, policy_gradient
from latentmem.method.rollouts import Job, sample, seed_for
from latentmem.method.voting import majority_rewards, vote
from latentmem.records import LatentmemError, Step, Trace
from tests.baseline_samples import (  # noqa: F401
    engine,
    labelled,
    make_factory,
    model,
    one_thread,
    problems,
    run,
)

VOTE6 = AnswerMode("vote", 6, 1.2)
OFFLINE = ("offline_prompt", "offline_lora", "offline_ttrl", "offline_grpo")


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_rows_change_what_they_train_and_nothing_else(engine, name):
    factory = make_factory(
        engine, offline_steps=2, offline_batch=2, rates={"full": 1e-3, "lora": 1e-2}
    )
    before = [w.qkv.weight.clone() for w in engine.model.body.layers]
    system = factory.make(name)
    asked = problems(2, start=20)
    untrained = [r.traces for r in system.reply(asked, VOTE6)]
    steps = [r for r in system.fit(labelled(5)) if isinstance(r, Step)]
    assert [s.step for s in steps] == [1, 1, 2, 2] and any(s.grad_norm > 0 for s in steps)
    assert [r.traces for r in system.reply(asked, VOTE6)] != untrained
    assert all(
        torch.equal(a, w.qkv.weight) for a, w in zip(before, engine.model.body.layers, strict=True)
    )
    assert system.spent.tokens == sum(s.tokens for s in steps) and list(system.learn(asked)) == []


def test_a_fit_that_was_stopped_begins_anew_and_ends_the_same(engine):
    how = {"offline_steps": 2, "offline_batch": 2, "rates": {"full": 1e-3}}
    one, two = (make_factory(engine, **how).make("offline_ttrl") for _ in range(2))
    stream = one.fit(labelled(3))
    while one.done < 1:
        next(stream)
    stream.close()
    for system in (one, two):
        list(system.fit(labelled(3)))
    assert one.spent.tokens == two.spent.tokens and not one.learner.optimizer.state
    for a, b in zip(one.learner.parameters, two.learner.parameters, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_what_was_kept_and_is_damaged_is_one_sentence(engine, tmp_path, harm):
    how = {"offline_steps": 1, "offline_batch": 2}
    system = make_factory(engine, **how).make("offline_prompt")
    list(system.fit(labelled(2)))
    system.save(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(LatentmemError, match=r"cannot be read .*: delete that folder to"):
        system.load(tmp_path)
    (tmp_path / "no" / f"step1.safetensors.{os.getpid()}.part").mkdir(parents=True)
    list(system.fit(labelled(2)))
    with pytest.raises(
        LatentmemError,
        match=r"step1.safetensors cannot be written \(.*\): make room or give another folder",
    ):
        system.save(tmp_path / "no")


def test_every_problem_has_its_turn(engine):
    system = make_factory(engine, offline_batch=4).make("offline_prompt")
    given = problems(6)
    turns = [p.id for step in (1, 2, 3) for p in system._turn(given, step)]
    assert sorted(turns[:6]) == sorted(turns[6:]) == sorted(p.id for p in given)
    assert turns[:6] != turns[6:]
    other = make_factory(engine, offline_batch=4).make("offline_ttrl")
    assert [p.id for step in (1, 2, 3) for p in other._turn(given, step)] == turns


@pytest.mark.parametrize(
    ("n", "batch"), [(6, 4), (5, 2), (7, 3), (3, 4), (1, 4), (8, 4), (12, 4), (4, 1)]
)
def test_no_step_holds_a_problem_twice_and_each_comes_once_in_every_turn(engine, n, batch):
    """Two groups of one problem in a step would have the same rollouts."""
    system = make_factory(engine, offline_batch=batch).make("offline_prompt")
    given, size = problems(n), min(batch, n)
    turns = [[p.id for p in system._turn(given, step)] for step in range(1, 3 * n + 1)]
    assert all(len(turn) == size == len(set(turn)) for turn in turns)
    met = [i for turn in turns for i in turn]
    assert all(len(set(met[start : start + n])) == n for start in range(0, len(met), n))
    if n % size == 0:  # as it always was, so that runs made before can be made again
        orders = [
            np.random.Generator(
                np.random.Philox(seed_for(system.sampler.seed, ORDER, k, 0))
            ).permutation(n)
            for k in range(len(met) // n)
        ]
        assert met == [given[i].id for order in orders for i in order]


def test_grpo_learns_from_the_truth_and_says_so(engine, monkeypatch):
    """Its rewards are the truth's; the others' are the majority's."""
    system = make_factory(engine, offline_steps=2).make("offline_grpo")
    assert system.needs_labels
    given = labelled(4)
    seen = {}
    judge = Offline._judge

    def watched(self, problem, group, now):
        out, note = judge(self, problem, group, now)
        seen[problem.id, len(seen)] = ([float(t.answer == "1") for t in group], list(out))
        return out, note

    monkeypatch.setattr(Offline, "_judge", watched)
    list(system.fit(given))
    assert len(seen) == 8
    assert all(want == got for want, got in seen.values())
    assert any(sum(w) for w, _ in seen.values())


def test_a_batch_of_one_is_a_single_memorys_gradient(engine, model):
    """offline_prompt on one problem takes the step that policy_gradient says."""
    factory = make_factory(engine)
    for problem in problems(12):
        system = Offline(
            "offline_prompt",
            factory.sampler,
            lambda: PromptLearner(model, factory.recipe),
            factory.recipe,
            TrainingSchedule(1, 1, 0.01),
        )
        (step,) = (r for r in system.fit([problem]) if isinstance(r, Step))
        if step.note:
            continue
        soft = torch.nn.Parameter(model.text_prompt("Solve it.", 4))
        recipe = factory.recipe
        job = Job(problem.unlabelled(), recipe.rollouts, soft.detach(), "memory", 1)
        stream = sample(
            model,
            [job],
            seed=factory.sampler.seed,
            temperature=recipe.temperature,
            max_new_tokens=recipe.max_new_tokens,
        )
        traces = sorted((r for _, r in stream if isinstance(r, Trace)), key=lambda t: t.row)
        run(
            policy_gradient(
                model,
                [
                    RolloutGroup(
                        problem, soft, traces, advantages(majority_rewards(traces, vote(traces)))
                    )
                ],
                1.2,
            )
        )
        assert step.grad_norm == pytest.approx(float(soft.grad.norm()), rel=1e-4)
        return
    raise AssertionError("no group of twelve had a gradient")


def test_lora_memories_answer_with_their_own_adapter(engine):
    factory = make_factory(engine, rates={"lora": 0.03})
    system = factory.make("elm_lora")
    list(system.learn(problems(8)))
    assert len(system.ids) >= 2
    asked = problems(6, start=20)
    used = set()
    for problem, reply in zip(asked, system.reply(asked, VOTE6), strict=True):
        lora = system.teacher.model
        adapted = lora.adapted(
            torch.from_numpy(system.bank.get(reply.hit.memory_id).soft_prompt.copy()), "x"
        )
        want = factory.sampler.of(adapted).sample([Ask(problem, side="memory")], VOTE6)[0]
        mine = [t.token_ids for t in reply.traces if t.side == "memory"]
        assert mine == [t.token_ids for t in want.traces]
        assert mine != [t.token_ids for t in reply.traces if t.side == "zero_shot"]
        used.add(reply.hit.memory_id)
    assert len(used) > 1, "more than one adapter was in play"


def test_a_learners_model_is_told_apart(engine):
    """After a step its rollouts have other keys in the sampler's memory."""
    for kind in (LoraLearner, FullLearner):
        learner = kind(engine.model, Recipe())
        learner.stamp()
        before = learner.model.fingerprint
        with torch.no_grad():
            learner.parameters[0].add_(1e-3)
        learner.changed()
        learner.stamp()
        assert learner.model.fingerprint not in (before, engine.model.fingerprint)


def test_a_soft_prompt_stays_within_its_trust_region_and_tells_how_far_it_is(engine):
    def shifts(name, **settings):
        how = {"offline_steps": 3, "offline_batch": 2, "rates": {"lora": 1e-2}}
        system = make_factory(engine.changed(**settings), **how).make(name)
        return system, [s.shift for s in system.fit(problems(4)) if isinstance(s, Step)]

    free, far = shifts("offline_prompt")
    assert far[-1] == shift(free.learner.soft.detach(), free.learner.start) and max(far) > 0.01
    assert max(shifts("offline_prompt", max_shift=0.01)[1]) == pytest.approx(0.01, rel=1e-4)
    assert set(shifts("offline_lora", max_shift=0.01)[1]) == {0.0}, (
        "weights have no start to be near to"
    )


def test_a_gradient_that_is_not_finite_is_refused_and_said(engine, monkeypatch):
    def broken(self, _, lots, temperature):
        self.soft.grad = torch.full_like(self.soft, float("nan"))
        yield 1, 1
        return [float("nan")] * len(lots)

    monkeypatch.setattr(PromptLearner, "gradient", broken)
    system = make_factory(engine, offline_steps=3).make("offline_prompt")
    steps = [s for s in system.fit(problems(4)) if isinstance(s, Step)]
    refused = [s for s in steps if s.note == "the gradient was not finite"]
    assert refused
    assert all(s.note for s in steps)
    assert {(s.loss, s.grad_norm, s.shift) for s in steps} == {(0.0, 0.0, 0.0)}
    assert torch.equal(system.learner.soft, system.learner.start)


def test_lessons_of_another_device_or_arithmetic_are_other_lessons(engine, model, monkeypatch):
    teacher, (problem,) = make_factory(engine).teacher, problems(1)
    usual = teacher._name(problem)
    for part, other in (("device", torch.device("meta")), ("arithmetic", "int8")):
        with monkeypatch.context() as m:
            m.setattr(type(model.body), part, property(lambda body, other=other: other))
            assert teacher._name(problem) != usual, part
    assert teacher._name(problem) == usual
