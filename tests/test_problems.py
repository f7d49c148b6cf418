"""Problems from a file: what is read, and what is said about a wrong line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.evaluation.datasets import load
from latentmem.records import LatentmemError, Problem, gold, parse_problem, read_problems
from tests.cli_samples import Terminal


def test_members_and_order(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"problem": "1 + 1?", "answer": 2, "extra": []}\n\n'
        '{"id": "b", "problem": "2 + 2?", "answer": "4", "source": "s"}\n',
        encoding="utf-8",
    )
    assert list(read_problems(file)) == [
        Problem("1 + 1?", answer="2"),
        Problem("2 + 2?", "b", "4", "s"),
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("She has 3*4=<<3*4=12>>12 eggs.\nThen she sells 9.\n#### 1,234", "1,234"),
        ("Half of 4 is 2.\n####2", "2"),
        ("#### 5 #### 18", "18"),
        ("She has 3*4=<<3*4=12>>12.\n####", None),
        ("She has 3*4=<<3*4=12>>12.", None),
        ("nan", None),
        (" NaN ", None),
        (float("nan"), None),
        (float("inf"), None),
        (float("-inf"), None),
        ("", None),
        (" ", None),
        (None, None),
        (18, "18"),
        (27.0, "27"),
        (-0.5, "-0.5"),
        (" 5 ", "5"),
        ("naan", "naan"),
        ("x<<2", "x<<2"),
        (r"\frac12", r"\frac12"),
    ],
)
def test_a_gold_is_what_an_answer_can_be_compared_with(answer, said, tmp_path: Path) -> None:
    assert gold(answer) == said
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"problem": "How many?", "answer": answer}), encoding="utf-8"
    )
    assert [p.answer for p in read_problems(tmp_path / "d.jsonl")] == [said]
    if said is None:
        with pytest.raises(LatentmemError, match=r"has no problem with an answer.*add \"answer\""):
            load(str(tmp_path / "d.jsonl"))
    else:
        assert [p.answer for p in load(str(tmp_path / "d.jsonl")).problems] == [said]


@given(st.text())
def test_any_line_is_a_problem_or_one_sentence(line: str) -> None:
    try:
        assert parse_problem(line, "here").text.strip()
    except LatentmemError as e:
        assert str(e).startswith("here")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", 'no member "problem"'),
        ('{"problem": null}', 'no member "problem"'),
        ('{"problem": 3}', "problem is 3"),
        ('{"problem": " "}', "the problem is empty"),
        ('{"problem": "x", "id": ["a"]}', "id is"),
        ("\n", "has no problems"),
        ('{"problem": "\\ud800"}', "half a character"),
        (f'{{"problem": "x", "answer": {"9" * 5000}}}', "line 1 is not JSON"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(
    cli: Terminal, tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(line, encoding="utf-8")
    assert words in cli.fails("solve", "--file", str(file))
