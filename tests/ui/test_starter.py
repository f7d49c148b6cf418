"""The memories that the app starts with: their script, and what it has made."""

from __future__ import annotations

import runpy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank
from latentmem.model.weights.catalog import MODELS
from latentmem.records import Problem, read_problems
from latentmem.settings import Settings
from latentmem.ui import hosting
from tests.fake_engine import FakeEngine

EXAMPLES = Path(__file__).parents[2] / "examples"
DEFAULT = Settings.model_fields["model"].default


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "make_bank.py"))


def test_some_problems_of_every_family_are_chosen(maker: dict[str, Any]) -> None:
    problems = list(read_problems(EXAMPLES / "problems.jsonl"))
    families = len({p.source for p in problems})
    first, second = maker["chosen"](problems, 2), maker["chosen"](problems, 1, skip=2)
    assert len({p.source for p in first[:families]}) == families and len(first) == 2 * families
    assert len(second) == families and not {p.id for p in first} & {p.id for p in second}


def test_a_stop_loses_nothing_and_nothing_is_done_twice(
    maker: dict[str, Any], tmp_path: Path
) -> None:
    problems = [Problem(f"Problem {i}?", f"p-{i}", "7") for i in range(4)] + [
        Problem("A unanimous one", "p-same")
    ]
    engine, log = FakeEngine(), tmp_path / "done.jsonl"
    begun = list(islice(maker["distil"](engine, problems, log, 2), 3))
    assert [d.problem_id for d in begun] == ["p-0", "p-1", "p-2"] and len(engine.bank) == 3
    rest = list(maker["distil"](engine, problems, log, 2))
    assert [d.problem_id for d in rest] == ["p-3", "p-same"] and rest[-1].memory is None
    assert len(engine.bank) == 4 and maker["noted"](log) == {p.id for p in problems}
    assert list(maker["distil"](engine, problems, log, 2)) == []
    assert all(i.problem.answer is None for i in engine.bank.infos()), (
        "no answer is given to the learner"
    )


def test_the_shipped_memories_are_whole_are_the_default_models_and_know_no_answers() -> None:
    known = {p.id: p for p in read_problems(EXAMPLES / "problems.jsonl")}
    with Bank(":memory:") as bank:
        report = bank.import_zip(hosting.STARTER)
        assert report.added >= 5 and not report.refused and bank.verify().problems == []
        for info in bank.infos():
            assert info.problem.text == known[info.problem.id].text and info.problem.answer is None
            assert (info.model_name, info.model) == (DEFAULT, MODELS[DEFAULT].fingerprint), (
                "it would be refused"
            )
    assert hosting.STARTER.stat().st_size < 8e6
