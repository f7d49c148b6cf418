"""Problems out of files as people have them: JSONL, a JSON array, CSV, TSV, Parquet, each also with
gzip; UTF-8 or UTF-16, with or without a mark at the beginning.

The members of a row have the names of known data sets, whatever their case; the table is in
assets/docs/command-line.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..method.answers import extract_boxed
from ..records import LatentmemError, Problem

TEXTS = ("problem", "question", "prompt", "input", "instruction", "squestion", "query")
BEFORE = {"question": "body", "input": "instruction"}  # what stands in front of the text
ANSWERS = ("answer", "final_answer", "final_ans", "target", "expected_answer", "ground_truth")
ANSWERS += ("gold", "lsolutions")
WORKED = ("solution", "output")  # where the answer stands at the end
IDS = ("id", "unique_id", "_id", "iindex")
FORMATS = "JSONL, a JSON array, CSV or Parquet"
MOST_BYTES = 2**30
_KINDS = {  # first bytes of what is none of them
    b"PK\x03\x04": "a zip archive or an Excel sheet",
    b"SQLite": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}

Found = tuple[str, Problem | str]
"""(where it stood, the problem or the sentence that says what is wrong)"""
Row = tuple[str, dict[str, Any] | str]


def read_problems(file: Path) -> Iterator[Problem]:
    """The problems of a file in its order; empty lines are passed over, other members ignored.

    Raises LatentmemError naming the file and the line for what cannot be read as a problem.
    """
    try:
        data = file.read_bytes()
    except OSError as e:
        raise LatentmemError(
            f"{file} cannot be read ({e.strerror}): give a file of problems, {FORMATS}."
        ) from None
    for _, found in problems_in(data, str(file)):
        if isinstance(found, str):
            raise LatentmemError(found)
        yield found


def problems_in(data: bytes, name: str, most_bytes: int = MOST_BYTES) -> Iterator[Found]:
    """The problems in the bytes of a file, in order. Errors call the file `name`.

    Raises LatentmemError if the whole file cannot be read, or holds more than `most_bytes` when it
    is unpacked.
    """
    for where, row in _rows(data, name, most_bytes):
        if isinstance(row, str):
            yield where, row
            continue
        try:
            yield where, problem_of(row, where)
        except LatentmemError as e:
            yield where, str(e)


def stem(name: str) -> str:
    """'d' of 'folder/d.jsonl.gz'."""
    return Path(name.removesuffix(".gz")).stem


# ------------------------------------------------------------------------------------- layouts
def problem_of(row: dict[str, Any], where: str) -> Problem:
    """A row of a data set as a problem. Raises LatentmemError, beginning with `where`."""
    known = {str(key).strip().lower(): value for key, value in row.items()}
    name = next((n for n in TEXTS if known.get(n) is not None), None)
    if name is None:
        raise LatentmemError(
            f'{where} has no member "problem" (it has {_listed(row)}): name the text "problem" and '
            'the answer "answer".'
        )
    before = known.get(BEFORE.get(name, ""))
    text = f"{before} {known[name]}" if isinstance(before, str) and before else known[name]
    ident = next((known[n] for n in IDS if known.get(n) is not None), "")
    source = known.get("source") or ""
    ident = str(ident) if isinstance(ident, int) else ident
    given = {name: text, "id": ident, "answer": _answer(known), "source": source}
    for member, value in given.items():
        if not isinstance(value, str) and (member, value) != ("answer", None):
            raise LatentmemError(
                f"{where}: {member} is {json.dumps(value, default=str)[:40]}: it must be a string."
            )
        if value and any("\ud800" <= c <= "\udfff" for c in value):
            raise LatentmemError(f"{where}: {member} holds half a character: write it in UTF-8.")
    try:
        return Problem(text, given["id"], given["answer"], source)
    except LatentmemError:
        raise LatentmemError(
            f"{where}: the problem is empty: write its text, or leave the line out."
        ) from None


def _answer(known: dict[str, Any]) -> Any:
    for name in ANSWERS:
        if (said := gold(known.get(name))) is not None:
            return said
    for name in WORKED:
        text = known.get(name)
        text = text[0] if isinstance(text, list) and len(text) == 1 else text
        if not isinstance(text, str):
            continue
        said = gold(text)
        if said != text.strip() or len(text) <= SHORT:  # else the answer is somewhere within
            return said
    return None


SHORT = 30  # characters of a solution that is but an answer


def gold(answer: Any) -> Any:
    r"""What a data set calls an answer as the string to score by.

    18 and 18.0 are "18"; of a worked solution the number behind #### or what stands in the last
    `\boxed{}`; of a list all that it holds. None for what is no answer: NaN, an infinity, a
    solution in the style of GSM8K that was cut off. What is none of these is handed back.
    """
    if isinstance(answer, list) and all(isinstance(a, (str, int, float)) for a in answer):
        found = [said for a in answer if (said := gold(a)) is not None]
        return ", ".join(map(str, found)) or None
    if isinstance(answer, float) and answer.is_integer():  # AMC23 writes 27.0
        return str(int(answer))
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return json.dumps(answer) if math.isfinite(answer) else None
    if not isinstance(answer, str):
        return answer
    _, mark, text = answer.rpartition("####")
    if not mark:
        if _CALCULATED.search(text) and "\\boxed" not in text:
            return None
        text = extract_boxed(text) or text
    return None if text.strip().casefold() in ("", "nan") else text.strip()


# GSM8K's notes to a calculator, as in <<3*4=12>>
_CALCULATED = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")


def _listed(keys: Iterable[Any]) -> str:
    cut = [str(key)[:30] for key in keys]
    names = [name if name.isprintable() else repr(name) for name in cut]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "none"


def _has_text(keys: Iterable[Any]) -> bool:
    return not set(TEXTS).isdisjoint(str(key).strip().lower() for key in keys)


# ------------------------------------------------------------------------------------- formats
def _rows(data: bytes, name: str, most_bytes: int) -> Iterator[Row]:
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, name, most_bytes)
    if data[:4] == b"PAR1":
        return _parquet(data, name)
    text = _text(data, name)
    first = text.lstrip()[:1]
    if first == "[":
        return _items(_loaded(text, name), name)
    if first == "{" or not first:
        return _lines(text, name)
    return _table(text, name)


def _unpacked(data: bytes, name: str, most_bytes: int) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            data = packed.read(most_bytes + 1)
    except (OSError, EOFError, zlib.error):
        raise LatentmemError(f"{name} is a damaged gzip file: copy it again.") from None
    if len(data) > most_bytes:
        raise LatentmemError(
            f"{name} holds more than {most_bytes // 1_000_000} MB when it is unpacked: give a part "
            "of it."
        )
    return data


def _parquet(data: bytes, name: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise LatentmemError(
            f'{name} is Parquet, which needs pyarrow: pip install -e ".[evaluation]", or save it '
            "as JSONL."
        ) from None
    try:
        rows = read_table(io.BytesIO(data)).to_pylist()
    except (ArrowException, OSError, ValueError) as e:
        why = str(e).splitlines()[0][:80]
        raise LatentmemError(f"{name} is damaged Parquet ({why}): copy it again.") from None
    return _items(rows, name, "row")


def _text(data: bytes, name: str) -> str:
    """The text of a file; bytes that are not UTF-8 stay as lone surrogates, to be named by line."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        code = "utf-16"
    elif data[:4:2] == b"\0\0" or data[1:4:2] == b"\0\0":
        code = "utf-16-be" if data[0] == 0 else "utf-16-le"
    else:
        code = "utf-8-sig"
    kind = next((kind for first, kind in _KINDS.items() if data.startswith(first)), "")
    if kind or (code == "utf-8-sig" and b"\0" in data):
        raise LatentmemError(f"{name} is {kind or 'no text'}: save it as {FORMATS}.")
    try:
        return data.decode(code, "surrogateescape" if code == "utf-8-sig" else "strict")
    except UnicodeDecodeError:
        raise LatentmemError(f"{name} is damaged UTF-16: save it as UTF-8.") from None


def _loaded(text: str, where: str) -> Any:
    if any("\udc80" <= c <= "\udcff" for c in text):
        raise LatentmemError(f"{where} is not UTF-8: save the file as UTF-8.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # not JSON, or a number of thousands of digits
        raise LatentmemError(f"{where} is not JSON ({e}): write one JSON object a line.") from None


def _items(items: Iterable[Any], name: str, kind: str = "item") -> Iterator[Row]:
    for number, row in enumerate(items, 1):
        where = f"{name}, {kind} {number}"
        wrong = f"{where} is {json.dumps(row)[:40]}: write one JSON object for each problem."
        yield where, row if isinstance(row, dict) else wrong


def _lines(text: str, name: str) -> Iterator[Row]:
    """JSONL; or one JSON object that holds the list of rows, or is the only row."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and not _has_text(whole):
        lists = [v for v in whole.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(lists) == 1:
            yield from _items(lists[0], name)
            return
    if isinstance(whole, dict) and "\n" in text.strip():
        yield f"{name}, line 1", whole
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = _loaded(line, where)
        except LatentmemError as e:
            yield where, str(e)
            continue
        wrong = f'{where} has no member "problem": write {{"problem": "..."}}.'
        yield where, row if isinstance(row, dict) else wrong


def _table(text: str, name: str) -> Iterator[Row]:
    """CSV, with commas, semicolons or tabs, whose first line names the columns."""
    csv.field_size_limit(MOST_BYTES)
    text = text.lstrip("\r\n")
    head = text.partition("\n")[0]

    def fits(sign: str) -> tuple[bool, int]:
        return _has_text(next(csv.reader([head], delimiter=sign))), head.count(sign)

    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=fits))
        columns = next(lines)
        if not _has_text(columns):
            raise LatentmemError(
                f"{name} is not {FORMATS}: as CSV its columns would be {_listed(columns)}; name "
                'the text "problem" and the answer "answer".'
            )
        for cells in lines:
            where = f"{name}, line {lines.line_num}"
            if len(cells) > len(columns):
                wrong = f"{where} has {len(cells)} cells and the head {len(columns)}: quote them."
                yield where, wrong
            elif any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
                yield where, f"{where} is not UTF-8: save the file as UTF-8."
            elif any(cells):
                yield where, {k: v for k, v in zip(columns, cells, strict=False) if v}
    except csv.Error as e:
        raise LatentmemError(f"{name} is not CSV ({e}): save it as {FORMATS}.") from None
