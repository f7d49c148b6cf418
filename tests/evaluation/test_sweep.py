"""The sweep and the single-problem curves on a tiny random model: every line once, whatever happens
in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmem.evaluation import protocols, sweep
from latentmem.evaluation.datasets import DataSet
from latentmem.method import distillation
from latentmem.records import LatentmemError, Step
from tests.baseline_samples import make_factory, problems, tiny_engine

RECIPES = {"as is": {}, "fast": {"learning_rate": 0.05, "steps": 1}}


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    return make_factory(tiny_engine(monkeypatch), tmp_path / "cache", group=2)


def toys(n: int) -> DataSet:
    return DataSet("toys", "toys", tuple(problems(n)))


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def seen(rows: list[dict]) -> list[dict]:
    """Without what differs from run to run: clocks."""
    return [
        {k: v for k, v in r.items() if k not in ("made", "seconds", "train_seconds")} for r in rows
    ]


def test_each_recipe_meets_each_problem_and_the_same_held_out_ones(factory, tmp_path: Path) -> None:
    plan = sweep.Sweep(RECIPES, problems=3, test=4)
    yielded = [r for r in sweep.run(factory, plan, toys(14), tmp_path) if isinstance(r, dict)]
    rows = lines(tmp_path / "sweep.jsonl")
    assert rows == yielded and [r["recipe"] for r in rows] == ["as is"] * 3 + ["fast"] * 3
    held_out = {p.id for p in toys(14).problems[:4]}
    assert (
        not {r["problem_id"] for r in rows} & held_out and len({r["problem_id"] for r in rows}) == 3
    )
    for r in rows:
        assert (
            r["seed"] == 0
            and r["settings"] == RECIPES[r["recipe"]]
            and r["base_settings"]["steps"] == 2
        )
        if r["learned"]:
            assert r["n"] == 4 and r["right"].count("1") == round(4 * r["accuracy"])
            assert r["helped"] - r["hurt"] == round(4 * r["delta"])
    assert any(r["learned"] for r in rows)
    assert {r["steps"] for r in rows if r["recipe"] == "fast"} <= {1, 2}, (
        "one step and the final check"
    )


def test_a_recipe_can_put_the_prompt_into_the_turn(factory, tmp_path: Path) -> None:
    plan = sweep.Sweep({"before": {}, "inside": {"in_turn": True}}, problems=2, test=4)
    rows = [r for r in sweep.run(factory, plan, toys(14), tmp_path) if isinstance(r, dict)]
    assert [r["settings"] for r in rows] == [{}, {}, {"in_turn": True}, {"in_turn": True}]
    assert (
        rows[0]["agreement"] != rows[2]["agreement"] or rows[1]["agreement"] != rows[3]["agreement"]
    )
    inside = [r for r in rows[2:] if r["learned"]]
    assert inside and all(r["n"] == 4 for r in inside)
    assert len({r["base_right"] for r in rows if r["learned"]}) == 1, "the model alone is the same"


def test_a_memory_can_be_trained_on_a_problem_and_its_nearest_others_in_turn(
    factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        p.text: np.array([np.cos(i), np.sin(i)], np.float32) for i, p in enumerate(problems(14))
    }
    monkeypatch.setattr(factory, "key", lambda p, kind: keys[p.text])
    told = {
        one.problem_id: one
        for one in sweep.run(
            factory,
            sweep.Sweep({"three": {"neighbours": 2}}, problems=1, test=4),
            toys(14),
            tmp_path,
        )
        if isinstance(one, Step)
    }
    (line,) = lines(tmp_path / "sweep.jsonl")
    first = next(i for i, p in enumerate(problems(14)) if p.id == line["problem_id"])
    angles = sorted((i for i in range(4, 14) if i != first), key=lambda i: -np.cos(i - first))
    group = {problems(14)[i].id for i in (first, *angles[:2])}
    assert line["settings"] == {"neighbours": 2} and line["steps"] == 2 == len(told)
    assert set(told) < group, (
        "two steps of the recipe, two of the three problems, none of those held out"
    )
    if line["learned"]:
        assert line["n"] == 4 and line["best_step"] == 2 and "in turn on" in line["reason"]
    assert line["learned"] == any(one.grad_norm > 0 for one in told.values())


def test_a_sweep_that_was_cut_off_is_completed_and_no_line_comes_twice(
    factory, tmp_path: Path
) -> None:
    plan = sweep.Sweep(RECIPES, problems=3, test=4)
    list(sweep.run(factory, plan, toys(14), tmp_path / "whole"))
    whole = (tmp_path / "whole" / "sweep.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, 2, 5):
        folder = tmp_path / f"cut{kept}"
        folder.mkdir()
        (folder / "sweep.jsonl").write_bytes(b"".join(whole[:kept]) + whole[kept][:20])
        list(sweep.run(factory, plan, toys(14), folder))
        assert seen(lines(folder / "sweep.jsonl")) == seen([json.loads(line) for line in whole])
    before = (folder / "sweep.jsonl").read_bytes()
    list(sweep.run(factory, plan, toys(14), folder))
    assert (folder / "sweep.jsonl").read_bytes() == before


def test_too_few_teachable_problems_are_said(factory, tmp_path: Path) -> None:
    with pytest.raises(LatentmemError, match="problems pass the gate and 9 are asked for"):
        list(sweep.run(factory, sweep.Sweep(RECIPES, problems=9, test=4), toys(6), tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as a sweep"),
        ("[]", 'has no "recipes"'),
        ('{"recipes": {}}', 'has no "recipes"'),
        ('{"recipes": {"a": {"lr": 1}}}', "recipe 'a' changes 'lr'"),
        ('{"recipes": {"a": 3}}', "recipe 'a' changes 3"),
        ('{"recipes": {"a": {"neighbours": 0}}}', "recipe 'a' has neighbours = 0"),
        (
            '{"recipes": {"a": {"neighbours": 1, "keep": "best"}}}',
            "has neighbours and keep, which says nothing there",
        ),
        (
            '{"recipes": {"a": {"pseudo_label": "first", "neighbours": 1}}}',
            "has neighbours and pseudo_label",
        ),
        ('{"recipes": {"a": {}}, "data": 5}', "data is 5: give the name of a data set"),
        ('{"recipes": {"a": {}}, "seed": true}', "seed is True"),
        ("[" * 10**5, "cannot be read as a sweep"),
        ('{"recipes": {"a": {}}, "tests": 3}', "has a member 'tests'"),
        ('{"recipes": {"a": {}}, "test": 0}', "test is 0"),
    ],
)
def test_a_wrong_sweep_file_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(LatentmemError, match=words):
        sweep.read(tmp_path / "s.json")


def test_a_value_out_of_range_is_refused_by_the_settings(factory, tmp_path: Path) -> None:
    plan = sweep.Sweep({"bad": {"learning_rate": 7}}, problems=1, test=2)
    with pytest.raises(LatentmemError, match="Setting learning_rate = 7 does not fit"):
        list(sweep.run(factory, plan, toys(8), tmp_path))


def test_the_moments_of_a_curve() -> None:
    assert [protocols.moments(n) for n in (1, 2, 5, 8)] == [
        (0, 1),
        (0, 1, 2),
        (0, 1, 2, 4, 5),
        (0, 1, 2, 4, 8),
    ]


@pytest.mark.parametrize("learner", list(protocols.LEARNERS))
def test_a_curve_over_steps_for_each_way_of_training(factory, tmp_path: Path, learner: str) -> None:
    train, test = problems(1), DataSet("toys", "toys", tuple(problems(3, 5)))
    list(protocols.run_single(factory, train, test, tmp_path, steps=3, learners=(learner,)))
    rows = lines(tmp_path / "single.jsonl")
    assert [r["step"] for r in rows] == [0, 1, 2, 3] and {r["learner"] for r in rows} == {learner}
    assert all(
        r["n"] == 3 and r["delta"] == pytest.approx((r["helped"] - r["hurt"]) / 3) for r in rows
    )
    if learner != "soft prompt":
        assert rows[0]["delta"] == 0, "before training an adapter, or a copy, is the model alone"
    assert rows[0]["train_tokens"] == 0 < rows[1]["train_tokens"] < rows[3]["train_tokens"]
    part = tmp_path / "part"
    part.mkdir()
    (part / "single.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    list(protocols.run_single(factory, train, test, part, steps=3, learners=(learner,)))
    assert seen(lines(part / "single.jsonl")) == seen(rows)


def test_an_unknown_way_of_training_is_refused(factory, tmp_path: Path) -> None:
    with pytest.raises(LatentmemError, match="no way of training 'magic'"):
        list(
            protocols.run_single(
                factory, problems(1), toys(2), tmp_path, steps=1, learners=("magic",)
            )
        )


def test_keys_are_measured_once_a_kind(factory, tmp_path: Path) -> None:
    from latentmem.evaluation.datasets import load

    data = load("examples?source=change,area")
    list(protocols.key_quality(factory, data, tmp_path))
    list(protocols.key_quality(factory, data, tmp_path))
    rows = lines(tmp_path / "keys.jsonl")
    assert [(r["kind"], r["n"], r["families"]) for r in rows] == [("input", 16, 2), ("kv", 16, 2)]
    assert all(
        0 <= r["same_family"] <= 1 and r["chance"] == pytest.approx(2 * 8 * 7 / (16 * 15))
        for r in rows
    )


def changed(data: DataSet, at: int, **parts: Any) -> DataSet:
    """The data with one problem changed."""
    those = list(data.problems)
    those[at] = replace(those[at], **parts)
    return replace(data, problems=tuple(those))


def test_a_sweep_does_again_what_other_data_or_another_machine_would_change(
    factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sweep.Sweep({"as is": {}}, problems=1, test=4)

    def rows(data: DataSet) -> int:
        list(sweep.run(factory, plan, data, tmp_path))
        return len(lines(tmp_path / "sweep.jsonl"))

    usual = toys(14)
    assert rows(usual) == rows(usual) == 1
    assert rows(changed(usual, 0, answer="777")) == 2, (
        "another answer of a held-out problem: another score"
    )
    assert rows(changed(usual, 13, text="Another neighbour?")) == 3, (
        "what is not held out is trained on, or beside it"
    )
    monkeypatch.setattr(sweep, "computed", lambda model: ("the same weights", "cuda"))
    assert rows(usual) == 4


def test_a_curve_is_done_again_where_the_problem_or_the_machine_is_another(
    factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = DataSet("toys", "toys", tuple(problems(2, 5)))

    def rows(*train: Any) -> int:
        list(
            protocols.run_single(
                factory, train, test, tmp_path, steps=1, learners=("soft prompt", "soft prompt")
            )
        )
        return len(lines(tmp_path / "single.jsonl"))

    (one,) = problems(1)
    assert rows(one) == rows(one) == 2, "a way of training that is named twice is tried once"
    assert rows(replace(one, text="Another text under the same name?")) == 4
    monkeypatch.setattr(protocols, "computed", lambda model: ("the same weights", "cuda"))
    assert rows(one) == 6


def test_keys_are_measured_again_for_another_embedder_family_or_machine(
    factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(data: DataSet) -> int:
        list(protocols.key_quality(factory, data, tmp_path))
        return len(lines(tmp_path / "keys.jsonl"))

    usual = replace(
        toys(4),
        problems=tuple(replace(p, source=f"toys/{i % 2}") for i, p in enumerate(toys(4).problems)),
    )
    (tmp_path / "keys.jsonl").write_text(
        '{"digest": "of the first versions", "model": "tiny", "kind": "kv"}\n'
    )
    assert rows(usual) == rows(usual) == 3
    assert rows(changed(usual, 0, source="toys/1")) == 5
    factory.settings = factory.settings.changed(embedder="another")
    assert rows(usual) == 7
    monkeypatch.setattr(protocols, "computed", lambda model: ("the same weights", "cuda"))
    assert rows(usual) == 9


def test_neighbours_are_voted_on_as_their_recipe_says(
    factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where no step had a gradient that could be applied, the reason is told."""
    recipe = replace(factory.recipe, rollouts=4)
    *_, told = protocols.learn(factory, factory.sampler, recipe, problems(1), problems(6), 2)
    assert told.distilled.memory is not None and told.distilled.memory.vote.total == 4
    monkeypatch.setattr(distillation, "update", lambda *_: (0.0, distillation.NOT_FINITE))
    *_, told = protocols.learn(factory, factory.sampler, recipe, problems(1), problems(6), 2)
    assert (
        told.distilled.memory is None
        and told.distilled.reason == "Nothing was learnt: the gradient was not finite."
    )
