"""The rows with real weights, `pytest -m real`: smollm2-135m, whose code paths are a larger
model's.

It is too weak to box an answer, so answers come from the stand-in extractor of the quick tests; the
embedder is its too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentmem.evaluation.baselines.elm import Elm
from latentmem.evaluation.baselines.offline import FullLearner, LoraLearner, PromptLearner
from latentmem.evaluation.baselines.registry import SYSTEMS
from latentmem.evaluation.baselines.sampler import Ask, Sampler
from latentmem.evaluation.results import ONE, AnswerMode
from latentmem.method.distillation import Recipe
from latentmem.method.grpo import RolloutGroup
from latentmem.records import Step
from tests.baseline_samples import labelled, make_factory, problems, run, tiny_engine

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model():
    from latentmem.model.language_model import LanguageModel
    from latentmem.model.weights import ensure

    return LanguageModel.load(ensure("smollm2-135m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def factory(model):
    """One for all rows, as in a run: what they share is sampled and distilled once."""
    with pytest.MonkeyPatch.context() as patch:
        engine = tiny_engine(patch, model, rollouts=4, steps=1, max_new_tokens=10)
        yield make_factory(
            engine, rows=16, offline_steps=1, offline_batch=2, votes=6, rates={"full": 1e-5}
        )


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_row_learns_and_answers(factory, name):
    """A step and some replies with the real forward and backward passes."""
    system, row = factory.make(name), SYSTEMS[name]
    records = list(
        system.fit(labelled(3)) if row.learns == "offline" else system.learn(problems(3))
    )
    asked = problems(2, start=20)
    for mode in (ONE, AnswerMode("vote", 4, 1.2)):
        replies = list(system.reply(asked, mode))
        assert [r.problem_id for r in replies] == [p.id for p in asked]
        assert all(r.cost.tokens > 0 and t.text for r in replies for t in r.traces)
        assert row.learns != "online" or any(r.used for r in replies)
    if isinstance(system, Elm):
        assert all(np.isfinite(system.bank.get(i).soft_prompt).all() for i in system.ids)
    if name.startswith("offline"):
        steps = [r for r in records if isinstance(r, Step)]
        assert len(steps) == 2 and all(s.grad_norm > 0 or s.note for s in steps)


@pytest.mark.parametrize(
    "kind, rate", [(PromptLearner, 1e-3), (LoraLearner, 1e-3), (FullLearner, 1e-5)]
)
def test_a_step_makes_the_rewarded_trace_likelier(model, kind, rate):
    """One AdamW step on two real traces, one rewarded and one not: the same loss is lower
    afterwards."""
    problem = problems(1)[0]
    learner = kind(model, Recipe(init_text="Solve the problem step by step."))
    traces = (
        Sampler(model, max_new_tokens=24)
        .sample([Ask(problem)], AnswerMode("vote", 2, 0.8))[0]
        .traces
    )
    assert traces[0].token_ids != traces[1].token_ids
    optimizer = torch.optim.AdamW(learner.parameters, lr=rate, weight_decay=0.0)

    def loss():
        return run(
            learner.gradient(
                learner.model,
                [RolloutGroup(problem, learner.soft, traces, torch.tensor([1.0, -1.0]))],
                1.0,
            )
        )[0]

    before = loss()
    optimizer.step()
    optimizer.zero_grad()
    learner.changed()
    after = loss()
    print(f"{kind.__name__}: loss {before:.4f} before the step, {after:.4f} after")
    assert after < before - 1e-3
