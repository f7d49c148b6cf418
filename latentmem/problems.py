"""Problems from a JSONL file: one JSON object a line with `problem`, and optionally `id`, `answer` and `source`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .records import LatentmemError, Problem

MEMBERS = ("problem", "id", "answer", "source")


def read_problems(file: Path) -> Iterator[Problem]:
    """The problems of a file in its order; empty lines are passed over, other members ignored.

    Raises LatentmemError naming the file and the line for a file that cannot be read, is not UTF-8, or has a line that
    is not such an object.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield parse_problem(line, f"{file}, line {number}")
    except OSError as e:
        raise LatentmemError(f"{file} cannot be read ({e.strerror}): give a JSONL file of problems.") from None
    except UnicodeDecodeError:
        raise LatentmemError(f"{file} is not UTF-8: save it as UTF-8.") from None


def parse_problem(line: str, where: str) -> Problem:
    """One line. `where` names it in the error."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as e:  # ValueError: not JSON, or a number of thousands of digits
        raise LatentmemError(f"{where} is not JSON ({e}): write one JSON object a line.") from None
    if not isinstance(data, dict) or data.get("problem") is None:
        raise LatentmemError(f"{where} has no member \"problem\": write {{\"problem\": \"...\"}}.")
    given = {name: data[name] for name in MEMBERS if data.get(name) is not None}
    given["answer"] = gold(given.get("answer"))
    for name, value in given.items():
        if not isinstance(value, str) and (name, value) != ("answer", None):
            raise LatentmemError(f"{where}: {name} is {json.dumps(value)[:40]}: it must be a string.")
        if value and any("\ud800" <= c <= "\udfff" for c in value):
            raise LatentmemError(f"{where}: {name} holds half a character: write it in UTF-8.")
    try:
        return Problem(given["problem"], given.get("id", ""), given["answer"], given.get("source", ""))
    except LatentmemError:
        raise LatentmemError(f"{where}: the problem is empty: write its text, or leave the line out.") from None


def gold(answer: Any) -> Any:
    """What a data set calls an answer as the string to score by: 18 and 18.0 are "18", of a solution in the style of GSM8K
    the number behind its ####. None for what is no answer: NaN, an infinity, such a solution cut off before its number.

    What is neither a string nor a number is handed back.
    """
    if isinstance(answer, float) and answer.is_integer():  # AMC23 writes 27.0
        return str(int(answer))
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return json.dumps(answer) if math.isfinite(answer) else None
    if not isinstance(answer, str):
        return answer
    _, mark, text = answer.rpartition("####")
    cut_off = not mark and _CALCULATED.search(text)
    return None if cut_off or text.strip().casefold() in ("", "nan") else text.strip()


_CALCULATED = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")  # GSM8K's notes to a calculator, as in <<3*4=12>>
