"""Problems from a JSONL file: one JSON object a line with `problem`, and optionally `id`, `answer` and `source`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
    if isinstance(given.get("answer"), (int, float)) and not isinstance(given["answer"], bool):
        given["answer"] = json.dumps(given["answer"])  # data sets write 18 as often as "18"
    for name, value in given.items():
        if not isinstance(value, str):
            raise LatentmemError(f"{where}: {name} is {json.dumps(value)[:40]}: it must be a string.")
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise LatentmemError(f"{where}: {name} holds half a character: write it in UTF-8.")
    try:
        return Problem(given["problem"], given.get("id", ""), given.get("answer"), given.get("source", ""))
    except LatentmemError:
        raise LatentmemError(f"{where}: the problem is empty: write its text, or leave the line out.") from None
