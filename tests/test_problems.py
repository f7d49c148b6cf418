"""Problems from a file: what is read, and what is said about a wrong line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.problems import parse_problem, read_problems
from latentmem.records import LatentmemError, Problem
from tests.cli_samples import Terminal


def test_members_and_order(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"problem": "1 + 1?", "answer": 2, "extra": []}\n\n'
                    '{"id": "b", "problem": "2 + 2?", "answer": "4", "source": "s"}\n', encoding="utf-8")
    assert list(read_problems(file)) == [Problem("1 + 1?", answer="2"), Problem("2 + 2?", "b", "4", "s")]


@given(st.text())
def test_any_line_is_a_problem_or_one_sentence(line: str) -> None:
    try:
        assert parse_problem(line, "here").text.strip()
    except LatentmemError as e:
        assert str(e).startswith("here")


@pytest.mark.parametrize(("line", "words"), [
    ("{", "line 1 is not JSON"), ("[]", 'no member "problem"'),
    ('{"problem": null}', 'no member "problem"'), ('{"problem": 3}', "problem is 3"),
    ('{"problem": " "}', "the problem is empty"), ('{"problem": "x", "id": ["a"]}', "id is"), ("\n", "has no problems"),
    ('{"problem": "\\ud800"}', "half a character"), (f'{{"problem": "x", "answer": {"9" * 5000}}}', "line 1 is not JSON"),
])
def test_a_wrong_file_is_named_with_its_line(cli: Terminal, tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(line, encoding="utf-8")
    assert words in cli.fails("solve", "--file", str(file))
