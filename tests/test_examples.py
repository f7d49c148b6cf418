"""The example problems are what their script makes, their answers are right, the quickstart runs,
and the starter memories are whole."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank
from latentmem.evaluation.reader import read_problems
from latentmem.files import Log
from latentmem.model.weights.catalog import MODELS
from latentmem.records import Distilled, Problem, Status, Vote
from latentmem.settings import Settings
from latentmem.ui import hosting
from tests import fake_engine

EXAMPLES = Path(__file__).parent.parent / "examples"
FILE = EXAMPLES / "problems.jsonl"
DEFAULT = Settings.model_fields["model"].default


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    """The names of make_problems.py."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return runpy.run_path(str(EXAMPLES / "make_problems.py"))
    finally:
        sys.path.remove(str(EXAMPLES))


def only(found: list[int]) -> int:
    assert len(found) == 1, found
    return found[0]


# Answers worked out in another way than the script does: by counting, or by trying all whole
# numbers.
CHECKS: dict[str, Callable[..., int]] = {
    "change": lambda n, price, other, paid: only(
        [c for c in range(paid) if sum([price] * n) + other + c == paid]
    ),
    "distance": lambda speed, hours, speed2, hours2: sum([speed] * hours + [speed2] * hours2),
    "sharing": lambda things, groups, eaten: len(range(eaten, things))
    - groups * (len(range(eaten, things)) // groups),
    "ages": lambda gap, years, total: only(
        [b for b in range(200) if (b + years) + (b + gap + years) == total]
    ),
    "discount": lambda price, percent, extra: only(
        [pay for pay in range(price) if 100 * (pay + extra) == price * (100 - percent)]
    ),
    "work": lambda workers, made, hours, crew, time: only(
        [x for x in range(20_000) if x * workers * hours == made * crew * time]
    ),
    "mixture": lambda a_kg, cheap, b_kg, dear: only(
        [x for x in range(500) if a_kg * (x - cheap) == b_kg * (dear - x)]
    ),
    "perimeter": lambda long, short, gap: sum([long, short, long, short]) - gap,
    "area": lambda long, short, hole: sum(
        not (r < hole and c < hole) for r in range(long) for c in range(short)
    ),
    "sequence": lambda first, step, n: list(range(first, first + step * n, step))[-1],
    "equation": lambda times, plus, result: only(
        [x for x in range(result) if times * x + plus == result]
    ),
    "saving": lambda goal, start, week: len(range(start, goal, week)),
    "average": lambda mean, n, new: only(
        [x for x in range(1000) if x * (n + 1) == sum([mean] * n) + new]
    ),
}


def test_the_file_is_what_the_script_makes(maker: dict[str, Any]) -> None:
    assert FILE.read_text(encoding="utf-8") == maker["text"]()


def test_every_answer_is_right(maker: dict[str, Any]) -> None:
    made = maker["make"]()
    assert {m.family for m in made} == set(CHECKS)
    wrong = [(m.id, m.answer) for m in made if CHECKS[m.family](**m.numbers) != m.answer]
    assert not wrong


def test_every_number_stands_in_the_statement(maker: dict[str, Any]) -> None:
    """So that the problem that is checked is the problem that is told."""
    for m in maker["make"]():
        told = Counter(map(int, re.findall(r"\d+", m.problem)))
        assert not Counter(m.numbers.values()) - told, m.id


def test_statements_are_clean_english(maker: dict[str, Any]) -> None:
    for m in maker["make"]():
        assert m.problem[0].isupper() or m.problem[0].isdigit(), m.id
        assert (
            m.problem.endswith(("?", "."))
            and "  " not in m.problem
            and not re.search(r"[{}]", m.problem)
        ), m.id
        assert not re.search(r"\b1 [a-z]+s\b", m.problem.replace("1 of", "")), (
            f"{m.id}: a plural after 1"
        )


def test_there_are_enough_and_each_has_neighbours() -> None:
    problems = list(read_problems(FILE))
    families = Counter(p.source for p in problems)
    assert len(problems) >= 72 and len(families) >= 9 and min(families.values()) >= 6
    assert len({p.id for p in problems}) == len({p.text for p in problems}) == len(problems)
    assert all(p.answer and p.answer.isdigit() for p in problems)


def test_another_seed_makes_other_right_problems(maker: dict[str, Any]) -> None:
    made = maker["make"](seed=7)
    assert [m.problem for m in made] != [m.problem for m in maker["make"]()]
    assert all(CHECKS[m.family](**m.numbers) == m.answer for m in made)


def test_members_are_as_documented() -> None:
    for line in FILE.read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == ["id", "problem", "answer", "source"]


class FakeEngine:
    """Says what it was asked to do."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def think(self, problem: Problem) -> Any:
        yield Status("sampling")
        yield Vote((), 8, 0)

    def distil(self, problem: Problem) -> Any:
        yield Distilled(problem.id, None, "Nothing was learnt here.")

    def answer(self, problem: Problem) -> Any:
        yield type("R", (), {"sentence": lambda self: f"A receipt for: {problem.text}"})()


def test_the_quickstart_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import latentmem

    monkeypatch.setitem(vars(latentmem), "Engine", FakeEngine)
    runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "0% of 8 traces" in said
    assert "Nothing was learnt here." in said
    assert "A receipt for: A plumber" in said


# ------------------------------------------------------------------ the starter memories
@pytest.fixture(scope="module")
def bank_maker() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "make_bank.py"))


def test_some_problems_of_every_family_are_chosen(bank_maker: dict[str, Any]) -> None:
    problems = list(read_problems(EXAMPLES / "problems.jsonl"))
    families = len({p.source for p in problems})
    first, second = bank_maker["chosen"](problems, 2), bank_maker["chosen"](problems, 1, skip=2)
    assert len({p.source for p in first[:families]}) == families and len(first) == 2 * families
    assert len(second) == families and not {p.id for p in first} & {p.id for p in second}


def test_a_stop_loses_nothing_and_nothing_is_done_twice(
    bank_maker: dict[str, Any], tmp_path: Path
) -> None:
    problems = [Problem(f"Problem {i}?", f"p-{i}", "7") for i in range(4)] + [
        Problem("A unanimous one", "p-same")
    ]
    engine, log = fake_engine.FakeEngine(), tmp_path / "done.jsonl"
    begun = list(islice(bank_maker["distil"](engine, problems, log, 2), 3))
    assert [d.problem_id for d in begun] == ["p-0", "p-1", "p-2"] and len(engine.bank) == 3
    rest = list(bank_maker["distil"](engine, problems, log, 2))
    assert [d.problem_id for d in rest] == ["p-3", "p-same"] and rest[-1].memory is None
    assert len(engine.bank) == 4 and {note["problem"] for note in Log(log).read()} == {
        p.id for p in problems
    }
    assert list(bank_maker["distil"](engine, problems, log, 2)) == []
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
