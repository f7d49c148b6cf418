"""Makes examples/problems.jsonl: word problems of our own, in families, so that every problem has
neighbours.

    python examples/make_problems.py          writes the file beside this script
    python examples/make_problems.py --check  exits 1 if the file is not what the script makes

A family is one way of thinking; a wording is one story that asks for it, with numbers that are
realistic in that story. Two problems of one wording differ in numbers and names. Every answer is a
whole number, one to three steps away.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wordings import WORDINGS

SEED = 2026
PER_FAMILY = 8
FILE = Path(__file__).with_name("problems.jsonl")
NAMES = {
    "she": "Amara Beatriz Chloe Dilnoza Elif Freya Grace Hana Ingrid Keiko Leila Marta Nadia "
    "Odile Priya Rosa".split(),
    "he": "Adrian Bilal Carlos Dmitri Emeka Felix Goran Hugo Ivan Jonas Kofi Luca Mateo Nikhil "
    "Oskar Tomas".split(),
}
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "his", "him")}  # subject, possessive, object
DRAWS = 20_000  # tries before a wording counts as impossible


@dataclass(frozen=True)
class Made:
    """One problem with the numbers it was made from, so that a test can work the answer out on its
    own."""

    id: str
    family: str
    problem: str
    answer: int
    numbers: dict[str, int]

    def line(self) -> str:
        members = {"id": self.id, "problem": self.problem, "answer": str(self.answer)}
        return json.dumps({**members, "source": f"examples/{self.family}"}, ensure_ascii=False)


def whole(top: int, bottom: int) -> int | None:
    """top / bottom if it is a whole number, else None, and the numbers are drawn again."""
    return top // bottom if bottom > 0 and top % bottom == 0 else None


def positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def change(n: int, price: int, other: int, paid: int) -> int | None:
    """The change is less than half of what was paid: nobody hands over a second note when the first
    is enough."""
    left = paid - n * price - other
    return left if 0 < left < paid / 2 else None


def work(workers: int, made: int, hours: int, crew: int, time: int) -> int | None:
    each = whole(made, workers * hours)
    return None if each is None or crew == workers else each * crew * time


def ages(gap: int, years: int, total: int) -> int | None:
    """The younger one's age now: (total - gap) / 2 - years."""
    young = whole(total - gap, 2)
    return None if young is None or young - years < 4 else young - years


def discount(price: int, percent: int, extra: int) -> int | None:
    off = whole(price * percent, 100)
    return None if off is None else positive(price - off - extra)


FAMILIES: dict[str, Callable[..., int | None]] = {
    "change": change,
    "distance": lambda speed, hours, speed2, hours2: None
    if speed == speed2
    else speed * hours + speed2 * hours2,
    "sharing": lambda things, groups, eaten: positive((things - eaten) % groups)
    if things > 3 * groups
    else None,
    "ages": ages,
    "discount": discount,
    "work": work,
    "mixture": lambda a_kg, cheap, b_kg, dear: whole(a_kg * cheap + b_kg * dear, a_kg + b_kg)
    if a_kg != b_kg
    else None,
    "perimeter": lambda long, short, gap: positive(2 * (long + short) - gap)
    if long > short
    else None,
    "area": lambda long, short, hole: positive(long * short - hole * hole)
    if long > short > hole
    else None,
    "sequence": lambda first, step, n: first + (n - 1) * step,
    "equation": lambda times, plus, result: positive(whole(result - plus, times)),
    "saving": lambda goal, start, week: positive(whole(goal - start, week))
    if goal > start
    else None,
    "average": lambda mean, n, new: positive(whole(mean * n + new, n + 1)) if new != mean else None,
}


def people(rng: random.Random) -> dict[str, str]:
    """Two people of different names, with the pronouns of each: {a} {a_he} {a_his} {a_him} and {b}
    ... ."""
    words: dict[str, str] = {}
    for letter in "ab":
        kind = rng.choice(sorted(NAMES))
        words[letter] = rng.choice([name for name in NAMES[kind] if name != words.get("a")])
        for form, word in zip(("he", "his", "him"), PRONOUNS[kind], strict=True):
            words[f"{letter}_{form}"], words[f"{letter}_{form.title()}"] = word, word.title()
    return words


def draw(
    family: str, wording: int, rng: random.Random, seen: set[str]
) -> tuple[str, int, dict[str, int]]:
    """A new statement, its answer and its numbers. Draws again until the numbers give a sensible
    answer."""
    statement, ranges = WORDINGS[family][wording % len(WORDINGS[family])]
    for _ in range(DRAWS):
        numbers = {name: rng.choice(values) for name, values in ranges.items()}
        answer = FAMILIES[family](**numbers)
        if answer is not None and answer >= 0:
            problem = statement.format(**numbers, **people(rng))
            if problem not in seen:
                seen.add(problem)
                return problem, answer, numbers
    raise AssertionError(f"no more sensible numbers for {family} in {ranges}")


def make(seed: int = SEED, per_family: int = PER_FAMILY) -> list[Made]:
    """All problems, families interleaved, no statement twice."""
    made: list[Made] = []
    seen: set[str] = set()
    for family in FAMILIES:
        rng = random.Random(f"{seed}/{family}")
        for i in range(per_family):
            made.append(Made(f"{family}-{i + 1}", family, *draw(family, i, rng, seen)))
    return sorted(
        made, key=lambda m: int(m.id.rsplit("-", 1)[1])
    )  # stable: keeps the families' order within a round


def text() -> str:
    return "".join(m.line() + "\n" for m in make())


def main() -> int:
    if "--check" in sys.argv[1:]:
        same = FILE.exists() and FILE.read_text(encoding="utf-8") == text()
        print(f"{FILE.name} {'is' if same else 'is NOT'} what this script makes")
        return 0 if same else 1
    FILE.write_text(text(), encoding="utf-8", newline="\n")
    print(f"wrote {len(make())} problems of {len(FAMILIES)} families to {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
