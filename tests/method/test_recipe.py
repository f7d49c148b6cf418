"""What a recipe can change beside rate and steps: entropy bonus, trust region, which step is kept.
Tiny random weights."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.method.distillation import Recipe, _lesson, _Pupil, shift, within
from latentmem.method.grpo import RolloutGroup, advantages, entropy_weights, policy_gradient
from latentmem.records import Distilled, LatentmemError, Problem, Step, Vote
from latentmem.settings import WHY, Settings
from tests.engine.test_engine import engine, models  # noqa: F401  (fixtures)
from tests.method.test_training import plain, traces
from tests.tiny import tiny_model

STEP = Step(1, 1, "2", 0.5, (0.0, 0.0), 0.0, 0.0, 0.0, 1.0, 5.0, 0.1, 10, 1.0, 1.0)


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


@given(st.integers(0, 10**6), st.floats(0.01, 3.0), st.floats(0.0, 5.0))
def test_a_trust_region_holds_and_keeps_the_direction(seed, most, size):
    g = torch.Generator().manual_seed(seed)
    start, move = torch.randn(3, 8, generator=g), torch.randn(3, 8, generator=g) * size
    held = within(start + move, start, most)
    assert shift(held, start) <= most * (1 + 1e-4)
    if shift(start + move, start) <= most:
        assert torch.equal(held, start + move)
    elif size > 0.05:
        assert torch.cosine_similarity((held - start).flatten(), move.flatten(), dim=0) > 0.999


def test_no_step_of_a_distillation_leaves_the_trust_region(engine):
    def shifts(**changes):
        done = [
            r
            for r in engine.changed(steps=4, **changes).distil(
                Problem("What is 2 + 3?"), keep=False
            )
            if isinstance(r, Distilled)
        ]
        return [s.shift for s in done[-1].steps]

    free, held = shifts(), shifts(max_shift=0.05)
    assert max(free) > 0.1 and 0 < max(held) <= 0.05 * (1 + 1e-4)


def test_the_last_step_is_kept_however_it_did(engine):
    """A distillation whose best step was not its last keeps another prompt under `keep="last"`,
    after the same steps."""
    for n in range(2, 12):
        problem = Problem(f"What is {n} + 3?")
        best, last = (
            [
                r
                for r in engine.changed(steps=4, keep=keep).distil(problem, keep=False)
                if isinstance(r, Distilled)
            ][-1]
            for keep in ("best", "last")
        )
        assert [s.rewards for s in best.steps] == [s.rewards for s in last.steps]
        if best.memory and last.memory and best.memory.best_step != last.memory.best_step:
            assert last.memory.best_step > best.memory.best_step
            assert not np.array_equal(last.memory.soft_prompt, best.memory.soft_prompt)
            return
    pytest.fail("in no problem did the best step differ from the last: other problems are needed")


def test_a_lesson_says_why_nothing_was_learnt():
    """The final check takes no gradient anyway, so its note is no reason."""
    recipe, start = Recipe(steps=1), torch.ones(2, 4)
    soft = torch.nn.Parameter(start.clone())
    pupil = _Pupil(Problem("1+1?"), Vote((), 0, 2), (1.0, 5.0), soft, None, start, [start])
    for step, note in ((1, "vote too weak"), (2, "final check, no gradient")):
        pupil.scores.append(0.5)
        pupil.took(replace(STEP, step=step, note=note))
    assert _lesson(pupil, recipe).reason == "Nothing was learnt: vote too weak."
    pupil.steps[0] = replace(pupil.steps[0], note="")
    assert _lesson(pupil, recipe).reason.startswith(
        "Nothing was learnt: the steps were too small to change the prompt"
    )


def test_every_default_that_decides_a_result_has_its_reason_and_its_value():
    """The recipe's and the engine's default are one, and each has one line that says why."""
    recipe, settings = Recipe(), Settings()
    names = {f.name for f in fields(Recipe)} - {"seed"}
    assert set(WHY) == names | {"key", "k", "min_similarity", "verifier"}
    assert all(why.endswith(".") and len(why) < 125 and "\n" not in why for why in WHY.values())
    assert all(getattr(recipe, n) == getattr(settings, n) for n in names - {"init_text"})


@pytest.mark.parametrize("name", ["colour", "self", "_env_file", "_cli_parse_args"])
def test_what_is_no_setting_is_one_sentence(name):
    """Also where pydantic takes the name for one of its own."""
    with pytest.raises(
        LatentmemError, match=f"There is no setting '{name}': `latentmem doctor` lists them"
    ):
        Settings(**{name: 1})
