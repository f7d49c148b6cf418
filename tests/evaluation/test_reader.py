"""Problems from a file: every layout and format that people have, and what is said of others."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.evaluation.datasets import from_bytes, load
from latentmem.evaluation.reader import gold, problems_in, read_problems
from latentmem.records import LatentmemError, Problem
from tests.cli_samples import Terminal
from tests.fuzz_samples import damaged, is_sentence, twisted

N = range(12)
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "ours": [{"id": f"p{i}", "problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in N],
    "gsm8k": [
        {
            "question": f"What is {i} + 1?",
            "answer": f"Add 1 to {i}.\n{i}+1=<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}",
        }
        for i in N
    ],
    "math": [
        {
            "problem": f"What is {i} + 1?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": f"Not $\\boxed{{0}}$, since ${i}+1=\\boxed{{{i + 1}}}.$",
        }
        for i in N
    ],
    "math500": [
        {
            "problem": f"What is {i} + 1?",
            "solution": "Long, $\\boxed{0}$.",
            "answer": f"{i + 1}",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/algebra/{i}.json",
        }
        for i in N
    ],
    "svamp": [
        {
            "ID": f"chal-{i}",
            "Body": f"What is {i}",
            "Question": "+ 1?",
            "Equation": f"( {i} + 1 )",
            "Answer": float(i + 1),
            "Type": "Addition",
        }
        for i in N
    ],
    "asdiv": [
        {
            "body": f"What is {i}",
            "question": "+ 1?",
            "answer": f"{i + 1} (apples)",
            "solution_type": "Addition",
            "formula": f"{i}+1={i + 1}",
        }
        for i in N
    ],
    "multiarith": [{"question": f"What is {i} + 1?", "final_ans": str(i + 1)} for i in N],
    "aime": [
        {
            "id": i,
            "problem": f"What is {i} + 1?",
            "solution": "Long.",
            "answer": f"{i + 1:03}",
            "url": "https://example.org",
            "year": 2024,
        }
        for i in N
    ],
    "amc": [{"id": i, "question": f"What is {i} + 1?", "answer": float(i + 1)} for i in N],
    "olympiadbench": [
        {
            "id": 1600 + i,
            "question": f"What is {i} + 1?",
            "solution": ["Long."],
            "final_answer": [f"${i + 1}$"],
            "is_multiple_answer": False,
            "unit": None,
            "answer_type": "Numerical",
        }
        for i in N
    ],
    "prompt": [{"prompt": f"What is {i} + 1?", "answer": i + 1} for i in N],
    "input": [{"input": f"What is {i} + 1?", "target": f"{i + 1}"} for i in N],
    "instruction": [
        {"instruction": "What is", "input": f"{i} + 1?", "output": f"It is \\boxed{{{i + 1}}}."}
        for i in N
    ],
}


def as_csv(rows: list[dict[str, Any]], sign: str = ",") -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=sign)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMATS = {
    "d.jsonl": lambda rows: as_jsonl(rows).encode(),
    "bom.jsonl": lambda rows: as_jsonl(rows).encode("utf-8-sig"),
    "crlf.jsonl": lambda rows: as_jsonl(rows).replace("\n", "\r\n").encode(),
    "wide.jsonl": lambda rows: as_jsonl(rows).encode("utf-16"),
    "little.jsonl": lambda rows: as_jsonl(rows).encode("utf-16-le"),
    "big.jsonl": lambda rows: as_jsonl(rows).encode("utf-16-be"),
    "d.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows).encode()),
    "d.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "held.json": lambda rows: json.dumps({"version": 1, "data": rows}, indent=2).encode(),
    "d.parquet": as_parquet,
    "d.parquet.gz": lambda rows: gzip.compress(as_parquet(rows)),
}
TABLES = {  # of rows whose values are no lists
    "d.csv": lambda rows: as_csv(rows).encode(),
    "bom.csv": lambda rows: as_csv(rows).encode("utf-8-sig"),
    "wide.csv": lambda rows: as_csv(rows).encode("utf-16"),
    "semicolons.csv": lambda rows: as_csv(rows, ";").encode(),
    "d.tsv": lambda rows: as_csv(rows, "\t").encode(),
    "d.csv.gz": lambda rows: gzip.compress(as_csv(rows).encode()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_in_every_format(layout: str, tmp_path: Path) -> None:
    rows = LAYOUTS[layout]
    for format, written in (FORMATS if layout == "olympiadbench" else FORMATS | TABLES).items():
        (tmp_path / format).write_bytes(written(rows))
        found = list(read_problems(tmp_path / format))
        assert [p.text for p in found] == [f"What is {i} + 1?" for i in N], format
        said = [(p.answer or "").removesuffix(" (apples)").strip("$") for p in found]
        assert [float(answer) for answer in said] == [i + 1 for i in N], format
        assert len({p.id for p in found}) == len(N)
        assert load(str(tmp_path / format)).problems == tuple(
            Problem(p.text, p.id, p.answer, format.split(".")[0]) for p in found
        )


def test_ids_that_are_numbers_and_sources_are_kept() -> None:
    rows = [
        {"id": 7, "problem": "a", "answer": 1, "source": "s"},
        {"problem": "b", "answer": [2, 3]},
    ]
    found = [p for _, p in problems_in(as_jsonl(rows).encode(), "d.jsonl")]
    assert found == [Problem("a", "7", "1", "s"), Problem("b", answer="2, 3")]


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


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "So it is $\\boxed{\\frac12}$, done."}, r"\frac12"),
        ({"solution": "First \\boxed{1}, then \\boxed{2}."}, "2"),
        ({"solution": "7"}, "7"),
        ({"solution": "A long text that gives no answer to compare with."}, None),
        ({"answer": "NaN", "solution": "It is \\boxed{5}."}, "5"),
        ({"answer": None, "final_answer": []}, None),
        ({"final_answer": ["1", "2"]}, "1, 2"),
        ({"lSolutions": [39.0]}, "39"),
    ],
)
def test_where_the_answer_stands(row: dict[str, Any], said: str | None) -> None:
    ((_, found),) = problems_in(json.dumps({"question": "q"} | row).encode(), "d.jsonl")
    assert isinstance(found, Problem) and found.answer == said


@given(st.one_of(st.text().map(str.encode), st.binary()))
def test_any_bytes_are_problems_or_sentences(data: bytes) -> None:
    try:
        for where, found in problems_in(data, "here"):
            assert where.startswith("here")
            assert isinstance(found, Problem) or found.startswith(where)
    except LatentmemError as e:
        assert str(e).startswith("here")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "line 1 is not JSON"),
        (b"[1]", "item 1 is 1: write one JSON object"),
        (b"[]", "has no problems"),
        (b'[{"problem": "x"}', "d is not JSON"),
        (b'{"problem": null}', 'no member "problem" (it has problem)'),
        (b'{"a\\n\\u001b[2J": 1}', r"(it has 'a\n\x1b[2J')"),
        (b'{"text": "x", "label": 1}', 'no member "problem" (it has text, label): name the text'),
        (b'{"problem": 3}', "problem is 3"),
        (b'{"question": {"a": 1}}', "question is {"),
        (b'{"problem": " "}', "the problem is empty"),
        (b'{"problem": "x", "id": ["a"]}', "id is"),
        (b'{"problem": "x", "answer": true}', "answer is true"),
        (b"\n", "has no problems"),
        (b'{"problem": "\\ud800"}', "half a character"),
        (b'{"problem": "x", "answer": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        (b'{"problem": "\xff"}', "line 1 is not UTF-8"),
        (b"problem,answer\nx\xff,1\n", "line 2 is not UTF-8"),
        (b"problem,answer\nx,1,2\n", "line 2 has 3 cells and the head 2"),
        (b"text,label\nx,1\n", "as CSV its columns would be text, label; name"),
        (b"Just some words.", "is not JSONL, a JSON array, CSV or Parquet"),
        (b"PK\x03\x04...", "is a zip archive or an Excel sheet: save it as JSONL"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"a\0b", "is no text"),
        (b"\xff\xfea", "is damaged UTF-16"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-20], "is a damaged gzip file"),
    ],
)
def test_what_is_wrong_is_named(cli: Terminal, tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "d"
    file.write_bytes(data)
    assert words in cli.fails("solve", "--file", str(file))


def test_damaged_parquet_is_named() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(LatentmemError, match=r"^d is damaged Parquet \("):
        list(problems_in(b"PAR1nonsense", "d"))


def test_parquet_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LatentmemError, match="d is Parquet, which needs pyarrow: pip install"):
        list(problems_in(b"PAR1", "d"))


def test_what_is_too_large_when_unpacked_is_named() -> None:
    packed = gzip.compress(b"\n" * 3_000_000)
    with pytest.raises(LatentmemError, match="d holds more than 2 MB when it is unpacked"):
        from_bytes(packed, "d", most_chars=10, most_bytes=2_000_000)


ROWS = b"".join(json.dumps(rows[0]).encode() + b"\n" for rows in LAYOUTS.values())


@given(st.data())
def test_fuzz_a_file_of_problems(data: st.DataObject) -> None:
    """Each row is a problem or one sentence, and so is what is wrong with the whole file."""
    if data.draw(st.booleans()):
        rows = [json.loads(line) for line in ROWS.splitlines()]
        text = json.dumps(data.draw(twisted(data.draw(st.sampled_from(rows))))).encode()
    else:
        text = data.draw(damaged(ROWS))
    name = data.draw(st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.jsonl.gz", "x.parquet"]))
    try:
        for _, found in problems_in(text, name):
            assert isinstance(found, Problem) or is_sentence(found), found
    except LatentmemError as e:
        assert is_sentence(str(e)), str(e)
