"""Distillation: the steps, what a recipe changes, which prompt is kept and why none. Tiny random
weights."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.method import distillation
from latentmem.method.distillation import Recipe, _lesson, _Pupil, _pupil, grpo_step, shift, within
from latentmem.method.voting import vote
from latentmem.records import Distilled, LatentmemError, Problem, Step, Vote
from latentmem.settings import WHY, Settings
from tests.engine.test_engine import engine, models  # noqa: F401  (fixtures)
from tests.method.test_grpo import traces
from tests.tiny import tiny_model

STEP = Step(1, 1, "2", 0.5, (0.0, 0.0), 0.0, 0.0, 0.0, 1.0, 5.0, 0.1, 10, 1.0, 1.0)


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


def test_told_that_it_is_enough_training_ends_with_the_best_so_far(engine):
    """At once, in the midst of a step; what was judged by then decides."""

    def learnt(after: int) -> tuple[Distilled, int]:
        seen: list[Step] = []
        stream = engine.changed(steps=6, keep="last").distil(
            Problem("What is 2 + 3?"), keep=False, enough=lambda: len(seen) >= after
        )
        for record in stream:
            seen += [record] if isinstance(record, Step) else []
        return record, len(seen)

    done, steps = learnt(3)
    assert steps == 3 and done.memory is not None and done.memory.best_step == 2
    assert done.reason.endswith("Training ended early: it was told to stop.")
    none, steps = learnt(1)
    assert steps == 1 and none.memory is None and "before a changed prompt was tried" in none.reason


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
