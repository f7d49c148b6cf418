"""The recipe `fast`: layer vectors learn the attempts that won the vote. Tiny random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmem.method import winners
from latentmem.method.distillation import Lesson, Recipe
from latentmem.method.voting import vote
from latentmem.method.winners import Relative, learn
from latentmem.records import Problem, Status, Step, Trace
from tests.method.test_grpo import traces
from tests.tiny import tiny_model

RECIPE = Recipe(
    recipe="fast",
    rollouts=6,
    max_new_tokens=8,
    steps=6,
    gate_votes=3,
    gate_lead=1,
    init_text="Think.",
)
PROBLEM = Problem("What is 2 + 3?", answer="5")


def first(answers: str) -> tuple[list[Trace], object]:
    """A vote with one letter for the answer of each trace; "-" is none."""
    made = [
        replace(t, answer=None if a == "-" else a)
        for t, a in zip(traces(3, [9] * len(answers)), answers, strict=True)
    ]
    return made, vote(made)


def records(answers: str = "aaabb-", recipe: Recipe = RECIPE, **how) -> list:
    return [r for _, r in learn(tiny_model(), [PROBLEM], [first(answers)], recipe, **how)]


def of(kind, found):
    return [r for r in found if isinstance(r, kind)]


def test_the_winners_become_likelier_and_the_check_decides():
    found = records(recipe=replace(RECIPE, keep="last"))
    steps, lesson = of(Step, found), found[-1]
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6, 7] and steps[-1].final
    assert all(b.loss < a.loss for a, b in pairwise(steps[:6]))
    assert [s.agreement for s in steps[:6]] == [0.5] + [None] * 5
    assert len(steps[-1].rewards) == 6 and len(of(Trace, found)) == 6
    assert all(t.side == "memory" for t in of(Trace, found))
    assert lesson.soft.shape == (3, 1, 32) and lesson.soft.dtype == np.float32
    assert lesson.best_step == 6 and np.abs(lesson.soft).max() > 0
    assert steps[5].shift == pytest.approx(
        np.sqrt(np.square(lesson.soft / tiny_model().layer_scale().numpy()).mean()), rel=1e-4
    )
    assert of(Status, found)[-1].text.startswith("Final check")


def test_a_memory_that_agrees_less_than_the_vote_is_not_kept():
    lesson = records()[-1]  # a random model boxes nothing
    assert lesson.soft is None
    assert lesson.reason == "Nothing was learnt: agreement fell from 50% to 0%."


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ("aabb--", "The vote is too weak"),
        ("aaaaaa", "Nothing to learn: all 6 attempts already agree."),
        ("------", "Nothing to learn: no attempt of 6 finished with a boxed answer."),
    ],
)
def test_a_vote_that_teaches_nothing_trains_nothing(answers, why):
    (lesson,) = records(answers)
    assert isinstance(lesson, Lesson) and lesson.soft is None and lesson.reason.startswith(why)


def test_told_that_it_is_enough_the_present_memory_is_checked_and_kept():
    seen: list[int] = []

    def enough() -> bool:
        seen.append(1)
        return len(seen) == 2

    found = records(recipe=replace(RECIPE, keep="last"), enough=enough)
    assert [s.step for s in of(Step, found)] == [1, 2, 7]
    assert found[-1].best_step == 2
    assert found[-1].reason.endswith("Training ended early: it was told to stop.")


def test_the_same_seed_gives_the_same_memory_and_no_label_is_read():
    recipe = replace(RECIPE, keep="last")
    model, one = tiny_model(), first("aaabb-")
    many = [Problem("What is 9 + 9?"), PROBLEM, replace(PROBLEM, answer=None)]
    softs = [
        r.soft for _, r in learn(model, many, [one, one, one], recipe) if isinstance(r, Lesson)
    ]
    assert np.array_equal(softs[1], softs[2]) and not np.array_equal(softs[0], softs[1])


def test_a_gradient_that_is_not_finite_ends_it(monkeypatch):
    def broken(model, groups, temperature):
        groups[0].soft.grad = torch.full_like(groups[0].soft, torch.nan)
        yield 1, 1
        return [torch.nan]

    monkeypatch.setattr(winners, "policy_gradient", broken)
    pupil = winners._Pupil(tiny_model(), 0, PROBLEM, *reversed(first("aaabb-")), RECIPE)
    assert [r.note for _, r in pupil.train(bool) if isinstance(r, Step)] == [
        "the gradient was not finite"
    ]
    assert not list(pupil.check())
    assert pupil.lesson().reason == "Nothing was learnt: the gradient was not finite."
    assert not pupil.soft.any()


def test_the_papers_recipe_and_the_controls_are_grpo():
    for how in ({"recipe": replace(RECIPE, recipe="paper")}, {"reward": "boxed"}):
        lessons = of(Lesson, records(**how))
        steps = [s for one in lessons for s in one.steps]
        assert steps and all(len(s.rewards) == 6 for s in steps)


@given(st.integers(0, 10**6))
def test_relative_steps_are_those_of_relative_numbers(seed):
    """Training x in steps of a scale is training x / scale."""
    g = torch.Generator().manual_seed(seed)
    scale, target = torch.rand(3, 1, 1, generator=g) + 0.1, torch.randn(3, 1, 4, generator=g)
    mine, numbers = (torch.nn.Parameter(torch.zeros(3, 1, 4)) for _ in range(2))
    relative = Relative(mine, scale)
    usual = torch.optim.AdamW([numbers], betas=(0.9, 0.95), weight_decay=0.0, eps=1e-12)
    relative.param_groups[0]["eps"] = 1e-12
    for _ in range(5):
        for optimizer, made in (
            (relative, lambda: mine),
            (usual, partial(torch.mul, numbers, scale)),
        ):
            optimizer.param_groups[0]["lr"] = 0.05
            optimizer.zero_grad()
            (made() - target).square().sum().backward()
            optimizer.step()
    assert torch.allclose(mine, numbers * scale, atol=1e-5, rtol=1e-3)
