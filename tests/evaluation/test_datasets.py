"""Data sets from files, the hub and generators; what is malformed is named; parts share no
problem."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.evaluation import datasets
from latentmem.evaluation.datasets import (
    DataSet,
    apart,
    hub_row,
    load,
    plain_text,
    shuffled,
    split,
    unique,
)
from latentmem.method.answers import same_answer
from latentmem.records import LatentmemError, Problem


def line(**members) -> bytes:
    return json.dumps({"problem": "What is 1 + 1?", "answer": "2"} | members).encode()


MIXED = b"\n".join(
    [
        line(id="a"),
        b"{broken",
        b"",
        line(id="b", answer=None),
        line(id="a", problem="Another?"),
        b'{"problem": "\xff"}',
        line(id="c", answer=18, problem="What is 9 + 9?"),
    ]
)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    (tmp_path / "mixed.jsonl").write_bytes(MIXED)
    return tmp_path / "mixed.jsonl"


def test_malformed_lines_are_named_by_number_and_left_out(mixed: Path) -> None:
    found = load(str(mixed))
    assert [(p.id, p.answer, p.source) for p in found.problems] == [
        ("a", "2", "mixed"),
        ("c", "18", "mixed"),
    ]
    (note,) = found.notes
    assert note.startswith("Left out 4: mixed.jsonl, line 2 is not JSON")
    assert "line 4: the problem has no answer" in note
    assert "line 5: the id 'a' stands at mixed.jsonl, line 1 already" in note
    assert note.endswith("(and 1 more)")


def test_a_file_without_a_usable_problem_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"{}\n")
    with pytest.raises(LatentmemError, match=r"has no problem with an answer.*line 1"):
        load(str(tmp_path / "empty.jsonl"))


def test_the_examples_come_by_family() -> None:
    assert len(load("examples").problems) == 104
    two = load("examples?source=change,area")
    assert two.name == "examples/change+area" and {datasets.family(p) for p in two.problems} == {
        "change",
        "area",
    }
    assert two.digest != load("examples").digest == load("examples").digest


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.jsonl", "There is no data set 'nowhere.jsonl'"),
        ("examples?family=x", "examples has no option 'family': use source"),
        ("examples?source", "cannot be read"),
        ("gsm8k?size=3", "gsm8k has no option 'size': use split"),
        ("rg:no_such_family", "reasoning-gym has no family 'no_such_family'"),
        ("rg:chain_sum?colour=red", "rg:chain_sum cannot be made with"),
        ("rg:chain_sum?min_terms=9&max_terms=2", "rg:chain_sum cannot be made with"),
        ("rg:chain_sum?seed=x", "rg:chain_sum cannot be made with"),
        (
            "rg:graph_color?size=2",
            "has no problem with an answer.*item 0: the problem has no answer",
        ),
        (f"{'x' * 300}.jsonl", r"There is no data set 'x+.jsonl' \(File name too long\): give"),
        ("~nosuchuser/x", "There is no data set '~nosuchuser/x'.*: give a file"),
        ("a\0b", "There is no data set"),
        ("/", r"There is no data set '/' \(Is a directory\)"),
    ],
)
def test_a_wrong_spec_is_one_sentence(spec: str, words: str) -> None:
    if spec.startswith("rg:"):
        pytest.importorskip("reasoning_gym")
    if spec.startswith("gsm8k"):
        pytest.importorskip("datasets")
    with pytest.raises(LatentmemError, match=words):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "package"), [("rg:chain_sum", "reasoning_gym"), ("gsm8k", "datasets")]
)
def test_a_missing_package_is_named(
    spec: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LatentmemError, match=r"\.\[evaluation\]"):
        load(spec)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    there = pytest.importorskip("datasets")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(there, "load_dataset", unreachable)
    with pytest.raises(
        LatentmemError, match=r"openai/gsm8k \(train\) cannot be fetched \(Couldn't reach the Hub\)"
    ):
        load("openai/gsm8k?split=train")


def test_hub_rows_become_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is taken out of a worked solution; a row without one is left out and named."""
    there = pytest.importorskip("datasets")
    rows = [
        {"question": " How many? ", "answer": "She has 3*4=<<3*4=12>>12.\n#### 1,234"},
        {"question": "No end?", "answer": "She has 3*4=<<3*4=12>>12."},
    ]
    asked = []
    monkeypatch.setattr(there, "load_dataset", lambda *a, **k: asked.append((a, k)) or rows)
    found = load("gsm8k")
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
    assert found.problems == (Problem("How many?", "gsm8k-0", "1,234", "gsm8k"),)
    assert found.notes == (
        'Left out 1: gsm8k, row 1: the problem has no answer to score by: add "answer".',
    )
    assert hub_row("amc23", 7, {"question": "q", "answer": 27.0})[1] == Problem(
        "q", "amc23-7", "27", "amc23"
    )
    assert 'no member "problem" (it has text)' in hub_row("x", 0, {"text": "q"})[1]


def test_generated_families_are_seeded_and_their_answers_can_be_compared() -> None:
    pytest.importorskip("reasoning_gym")
    one, same = load("rg:chain_sum?size=5&seed=1"), load("rg:chain_sum?seed=1&size=5")
    assert one.problems == same.problems and len(one.problems) == 5
    assert not {p.text for p in one.problems} & {
        p.text for p in load("rg:chain_sum?size=5&seed=1001").problems
    }
    # four of its five are those of seed 1, under other ids
    near = load("rg:chain_sum?size=5&seed=2")
    assert len(apart(one, near).problems) == 1 and not {p.id for p in one.problems} & {
        p.id for p in near.problems
    }
    hard = load("rg:chain_sum?size=5&seed=1&min_terms=9&max_terms=9")
    assert min(len(p.text) for p in hard.problems) > max(len(p.text) for p in one.problems) - 40
    assert all(p.text.count("+") + p.text.count("-") >= 8 for p in hard.problems)
    assert not {p.id for p in one.problems} & {p.id for p in hard.problems}
    for family in ("basic_arithmetic", "simple_equations", "gsm_symbolic"):
        assert all(
            same_answer(p.answer, p.answer) and p.source == f"rg/{family}"
            for p in load(f"rg:{family}?size=3").problems
        )


texts = st.lists(
    st.sampled_from(["What is 1?", "what  is 1? ", "What is 2?", "What is 3?", "What is 4?"]),
    min_size=1,
)


@given(texts, st.integers(0, 5), st.data())
def test_parts_share_no_text_and_lose_none(
    those: list[str], seed: int, data: st.DataObject
) -> None:
    full = DataSet("d", "d", tuple(Problem(t, f"p{i}", "1") for i, t in enumerate(those)))
    there = len({plain_text(p) for p in full.problems})
    distil = data.draw(st.integers(0, there))
    test = data.draw(st.integers(0, there - distil))
    parts = split(full, distil, test, seed)
    learnt, asked = ([plain_text(p) for p in x.problems] for x in (parts.distil, parts.test))
    assert (len(learnt), len(asked)) == (distil, test) and len({*learnt, *asked}) == distil + test
    assert parts == split(full, distil, test, seed)
    assert apart(parts.distil, replace(full, name="x")).problems == tuple(
        p for p in full.problems if plain_text(p) not in learnt
    )


def test_too_large_parts_are_refused() -> None:
    with pytest.raises(
        LatentmemError, match="d has 1 different problems and 1 \\+ 1 are asked for"
    ):
        split(DataSet("d", "d", (Problem("a", answer="1"), Problem("A ", answer="1"))), 1, 1, 0)


def test_the_order_is_of_the_seed_and_not_of_the_file() -> None:
    problems = [Problem(f"q{i}", f"id{i}", "1") for i in range(20)]
    assert shuffled(problems, 3) == shuffled(problems[::-1], 3) != shuffled(problems, 4)
    assert unique([*problems, Problem("Q3 ", "late", "1")]) == problems


def test_a_generated_item_without_a_reference_answer_has_none() -> None:
    """Some families of reasoning-gym have only a program that scores: "None" is no answer of
    theirs."""
    where, item = datasets.generated_item(
        "f", "f-1", 0, {"question": " Colour it. ", "answer": None}
    )
    assert item == Problem("Colour it.", "f-1", None, "rg/f") and where == "rg:f, item 0"
    assert datasets.generated_item("f", "f-1", 0, {"question": "q", "answer": 0})[1].answer == "0"
    assert "has no text" in datasets.generated_item("f", "f-1", 0, {"question": "", "answer": 0})[1]


def test_rows_that_cannot_be_fetched_in_the_middle_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = pytest.importorskip("datasets")

    def torn(*args, **kwargs):
        yield {"question": "q", "answer": "#### 1"}
        raise OSError("the connection was lost")

    monkeypatch.setattr(there, "load_dataset", torn)
    with pytest.raises(
        LatentmemError, match=r"openai/gsm8k \(test\) cannot be fetched \(the connection was lost\)"
    ):
        load("gsm8k")


def test_a_problem_that_is_too_long_is_named_when_the_data_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_bytes(line(id="a") + b"\n" + line(id="b", problem="x" * 41))
    found = load(str(tmp_path / "long.jsonl"), most_chars=40)
    assert [p.id for p in found.problems] == ["a"]
    assert found.notes == (
        "Left out 1: long.jsonl, line 2: the problem has 41 characters and the limit is 40: "
        "shorten it.",
    )
    assert len(load(str(tmp_path / "long.jsonl")).problems) == 2
