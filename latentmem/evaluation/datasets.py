"""Problems with their answers, from JSONL files, from the hub, and from seeded generators; and
disjoint parts of them.

A data set is named by a spec: `problems.jsonl`, `gsm8k` or `openai/gsm8k?split=train`,
`rg:chain_sum?size=100&seed=1`, or `examples?source=change,area` (the project's own, here of two
families). Whatever the source, a `DataSet` comes out: problems with unique ids and an answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ..files import example
from ..records import LatentmemError, Problem, digest
from .reader import FORMATS, MOST_BYTES, Found, problem_of, problems_in, stem

EXAMPLES = example("problems.jsonl")
GENERATED = "rg:"
SHOWN = 3  # malformed lines named in one sentence


# name -> repository on the hub, its configuration, and the part that is asked
HUB: dict[str, tuple[str, str | None, str]] = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
    "amc23": ("math-ai/amc23", None, "test"),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
}


@dataclass(frozen=True)
class DataSet:
    """Problems under a short name; `notes` are sentences on what was left out and why."""

    name: str
    spec: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex digits over ids, texts and answers in order: equal only for equal problems."""
        parts = (part for p in self.problems for part in (p.id, p.text, p.answer or ""))
        return digest(*parts)[:16]


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of data: one to learn from, one to be asked."""

    distil: DataSet
    test: DataSet


def load(spec: str, *, most_chars: float = inf) -> DataSet:
    """The data set that `spec` names. What is malformed, or has more than `most_chars` characters,
    is left out and named in `notes`.

    Raises LatentmemError for a name or option that does not exist, a missing package, or an empty
    set.
    """
    head, options = _parsed(spec)
    if head.startswith(GENERATED):
        name = head.removeprefix(GENERATED)
        found = _generated(name, options)
    elif known := [n for n, (repo, *_) in HUB.items() if head.lower() in (n, repo.lower())]:
        name, found = _from_hub(known[0], options)
    else:
        name, found = _file_set(head, options)
    return _data_set(name, spec, found, most_chars, "choose another set")


def _data_set(
    name: str, spec: str, found: Iterable[Found], most_chars: float, remedy: str
) -> DataSet:
    problems, notes = _checked(found, most_chars)
    if not problems:
        why = f" ({notes[0]})" if notes else ""
        raise LatentmemError(f"{spec} has no problem with an answer: {remedy}{why}.")
    return DataSet(name, spec, tuple(problems), tuple(notes))


def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """('rg:chain_sum', {'size': 100}) of 'rg:chain_sum?size=100'. Values are JSON, else text."""
    head, _, query = spec.strip().partition("?")
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise LatentmemError(
            f"The options of {spec!r} cannot be read: write name?option=value&other=value."
        ) from None
    for name, value in pairs:
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return head, options


def _no_more(options: dict[str, Any], where: str, known: str) -> None:
    if options:
        raise LatentmemError(f"{where} has no option {next(iter(options))!r}: use {known}.")


# ------------------------------------------------------------------ files
def _file_set(head: str, options: dict[str, Any]) -> tuple[str, Iterator[Found]]:
    families = [f for f in str(options.pop("source", "")).split(",") if f]
    _no_more(options, head, "source")
    try:
        file = EXAMPLES if head == "examples" else Path(head).expanduser()
        data = file.read_bytes()
    # RuntimeError: no such user; ValueError: no name of a file
    except (OSError, RuntimeError, ValueError) as e:
        why = "" if isinstance(e, FileNotFoundError) else f" ({getattr(e, 'strerror', None) or e})"
        raise LatentmemError(
            f"There is no data set {head!r}{why}: give a file ({FORMATS}), examples, "
            f"{', '.join(HUB)}, or {GENERATED}FAMILY."
        ) from None
    found = _sourced(data, file.name)
    name = head if head == "examples" else stem(file.name)
    if not families:
        return name, found
    return f"{name}/{'+'.join(families)}", (
        (w, p) for w, p in found if isinstance(p, str) or family(p) in families
    )


def family(problem: Problem) -> str:
    """The kind of a problem: 'examples/change' -> 'change'."""
    return problem.source.rsplit("/", 1)[-1]


def from_bytes(data: bytes, name: str, *, most_chars: int, most_bytes: int) -> DataSet:
    """An uploaded file; malformed lines and problems of more than `most_chars` characters are left
    out and named.

    Raises LatentmemError if nothing is left, or it holds more than `most_bytes` when unpacked.
    """
    found = _sourced(data, name, most_bytes)
    remedy = 'write one {"problem": ..., "answer": ...} a line'
    return _data_set(stem(name), name, found, most_chars, remedy)


def _sourced(data: bytes, name: str, most_bytes: int = MOST_BYTES) -> Iterator[Found]:
    """What is in a file, each problem with the file as its source if it names no other."""
    for where, one in problems_in(data, name, most_bytes):
        if isinstance(one, Problem) and not one.source:
            one = replace(one, source=stem(name))
        yield where, one


def _checked(found: Iterable[Found], most_chars: float) -> tuple[list[Problem], list[str]]:
    """Problems that can be asked and scored, and a sentence on the others."""
    kept: dict[str, Problem] = {}
    places: dict[str, str] = {}
    wrong: list[str] = []
    for where, one in found:
        why = one if isinstance(one, str) else _unfit(one, where, most_chars, places)
        if why:
            wrong.append(why)
        else:
            kept[one.id], places[one.id] = one, where
    if not wrong:
        return list(kept.values()), []
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    return list(kept.values()), [f"Left out {len(wrong)}: " + " ".join(wrong[:SHOWN]) + more]


def _unfit(one: Problem, where: str, most: float, places: dict[str, str]) -> str:
    """Why a problem cannot be asked and scored; '' if it can."""
    if (n := len(one.text)) > most:
        return f"{where}: the problem has {n} characters and the limit is {most}: shorten it."
    if not (one.answer or "").strip():
        return f'{where}: the problem has no answer to score by: add "answer".'
    if one.id in places:
        first = f"the id {one.id!r} stands at {places[one.id]} already"
        return f"{where}: {first}: give each problem its own."
    return ""


# ------------------------------------------------------------------ hub
def _from_hub(name: str, options: dict[str, Any]) -> tuple[str, Iterator[Found]]:
    repo, config, usual = HUB[name]
    try:
        from datasets import load_dataset
    except ImportError:
        raise LatentmemError(
            f'The data set {name} needs the package datasets: pip install -e ".[evaluation]".'
        ) from None
    split = str(options.pop("split", usual))
    _no_more(options, name, "split")
    if split != usual:  # other problems, other names
        name = f"{name}/{split}"
    try:
        rows = list(load_dataset(repo, config, split=split))
    except Exception as e:  # the package raises its own, the hub's and the network's
        said = (str(e).splitlines() or [type(e).__name__])[0][:160]
        raise LatentmemError(
            f"{repo} ({split}) cannot be fetched ({said}): give the problems as a file."
        ) from None
    return name, (hub_row(name, i, row) for i, row in enumerate(rows))


def hub_row(name: str, index: int, row: dict[str, Any]) -> Found:
    """A row of a hub data set as a problem."""
    where = f"{name}, row {index}"
    try:
        found = problem_of(row, where)
    except LatentmemError as e:
        return where, str(e)
    return where, replace(found, text=found.text.strip(), id=f"{name}-{index}", source=name)


# ------------------------------------------------------------------ generated
def _generated(family: str, options: dict[str, Any]) -> Iterator[Found]:
    """A family of reasoning-gym; `size`, `seed` and whatever sets the family's difficulty are
    options.

    Its item i of seed s is item i-1 of seed s+1, so neighbouring seeds share problems: `split` and
    `apart` see to it that two parts do not.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise LatentmemError(
            f'{GENERATED}{family} needs the package reasoning-gym: pip install -e ".[evaluation]".'
        ) from None
    if family not in DATASETS:
        raise LatentmemError(
            f"reasoning-gym has no family {family!r}: try chain_sum, basic_arithmetic, "
            "simple_equations or gsm_symbolic."
        )
    given = {"size": 100, "seed": 0} | options
    try:
        entries = list(reasoning_gym.create_dataset(family, **given))
    # each family checks its options in its own way, or not before it makes an item of them
    except Exception as e:
        raise LatentmemError(
            f"{GENERATED}{family} cannot be made with {options} ({str(e)[:120]}): change the "
            "options."
        ) from None
    made = digest(family, json.dumps(given, sort_keys=True, default=str))[:6]
    return (generated_item(family, f"{family}-{made}-{i}", i, e) for i, e in enumerate(entries))


def generated_item(family: str, ident: str, index: int, entry: dict[str, Any]) -> Found:
    """An item of reasoning-gym as a problem. Some families have no answer to compare with."""
    where, answer = f"{GENERATED}{family}, item {index}", entry["answer"]
    if not (text := str(entry["question"]).strip()):
        return where, f"{where} has no text: choose another family."
    return where, Problem(text, ident, None if answer is None else str(answer), f"rg/{family}")


# ------------------------------------------------------------------ parts
def plain_text(problem: Problem) -> str:
    """What two problems are compared by: their words, without case and spacing."""
    return " ".join(problem.text.split()).casefold()


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """The first of each text, in order."""
    kept: dict[str, Problem] = {}
    for problem in problems:
        kept.setdefault(plain_text(problem), problem)
    return list(kept.values())


def shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """A seeded order that depends on nothing but the problems' ids."""
    ordered = sorted(problems, key=lambda p: p.id)
    return random.Random(digest("order", str(seed))).sample(ordered, len(ordered))


def split(data: DataSet, distil: int, test: int, seed: int) -> Split:
    """Two disjoint parts in a seeded order. Raises LatentmemError if there are not that many."""
    there = unique(data.problems)
    if distil + test > len(there):
        raise LatentmemError(
            f"{data.name} has {len(there)} different problems and {distil} + {test} are asked for: "
            "ask for fewer."
        )
    order = shuffled(there, seed)
    parts = order[:distil], order[distil : distil + test]
    return Split(*(replace(data, problems=tuple(part)) for part in parts))


def apart(learn: DataSet, test: DataSet) -> DataSet:
    """`test` without the texts that stand in `learn`: for parts that come from two data sets."""
    known = {plain_text(p) for p in learn.problems}
    return replace(test, problems=tuple(p for p in test.problems if plain_text(p) not in known))
