"""Families of small word problems, made by templates: each needs something else, and a model of 0.5B
parameters solves a third to two thirds of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from latentmem.records import Problem

NAMES = (
    "Amara Beatriz Chloe Elif Freya Grace Hana Keiko Leila Marta Bilal Carlos Emeka Felix Goran "
    "Hugo Ivan Kofi Luca Tomas"
).split()
Numbers = dict[str, int]


def _groups(r: random.Random) -> Numbers:
    c, groups, b = r.randint(3, 9), r.randint(3, 9), r.randint(3, 15)
    return {"a": c * groups + b, "b": b, "c": c, "answer": groups}


def _boxes(r: random.Random) -> Numbers:
    a, b, c = r.randint(3, 12), r.randint(3, 12), r.randint(3, 9)
    return {"a": a, "b": b, "c": c, "answer": (a + b) * c}


def _skip(r: random.Random) -> Numbers:
    c = r.randint(8, 18)
    b, a = r.randint(2, c - 3), r.randint(3, 9)
    return {"a": a, "b": b, "c": c, "answer": (c - b) * a}


def _more(r: random.Random) -> Numbers:
    a, b = r.randint(8, 40), r.randint(3, 20)
    return {"a": a, "b": b, "answer": 2 * a + b}


def _expression(r: random.Random) -> Numbers:
    left, b, c = r.randint(12, 60), r.randint(3, 9), r.randint(3, 9)
    return {"a": left + b * c, "b": b, "c": c, "answer": left}


def _half(r: random.Random) -> Numbers:
    a, b = 2 * r.randint(6, 40), r.randint(3, 30)
    return {"a": a, "b": b, "answer": a // 2 + b}


def _digits(r: random.Random) -> Numbers:
    a = r.randint(1111, 9999)
    return {"a": a, "answer": sum(map(int, str(a)))}


def _change(r: random.Random) -> Numbers:
    a, b, c = r.randint(2, 6), r.randint(2, 9), r.choice([50, 60, 70, 80, 100])
    return {"a": a, "b": b, "c": c, "answer": c - a * b}


# Family -> how its numbers are drawn, and three wordings; {n} is a name.
FAMILIES: dict[str, tuple[Callable[[random.Random], Numbers], tuple[str, str, str]]] = {
    "groups": (
        _groups,
        (
            "{n} had {a} cards and lost {b} of them. The rest go into albums of {c} cards each. "
            "How many albums does {n} fill?",
            "A cook had {a} eggs and used {b}. The other eggs are packed {c} to a box. How many "
            "boxes are there?",
            "Of {a} pupils {b} are ill. The others form teams of {c}. How many teams are there?",
        ),
    ),
    "boxes": (
        _boxes,
        (
            "Each box holds {a} red and {b} blue pens. How many pens are in {c} boxes?",
            "{n} plants {c} rows. Each row has {a} carrots and {b} onions. How many plants are "
            "there in all?",
            "On each of {c} days {n} eats {a} grapes and {b} cherries. How many pieces of fruit "
            "does {n} eat?",
        ),
    ),
    "skip": (
        _skip,
        (
            "{n} earns ${a} for each lawn. {n} had {c} lawns to mow and forgot {b} of them. How "
            "many dollars does {n} earn?",
            "Each level of a game is worth {a} points. {n} plays {c} levels and fails {b} of them. "
            "How many points does {n} have?",
            "A ticket costs ${a}. Of {c} friends {b} stay at home. How many dollars do the others "
            "pay in all?",
        ),
    ),
    "more": (
        _more,
        (
            "{n} has {a} coins. A friend has {b} more coins than {n}. How many coins do they have "
            "together?",
            "A shop sold {a} cakes on Monday and {b} more than that on Tuesday. How many cakes did "
            "it sell on both days?",
            "The first class has {a} pupils and the second has {b} more than the first. How many "
            "pupils are in both classes?",
        ),
    ),
    "expr": (
        _expression,
        (
            "What is {a} - {b} * {c}?",
            "Compute {a} - {b} × {c}.",
            "Work out the value of {a} minus {b} times {c}, with the usual order of operations.",
        ),
    ),
    "half": (
        _half,
        (
            "{n} has {a} shells, gives half of them to a friend, and then finds {b} more. How many "
            "shells does {n} have now?",
            "A bus has {a} passengers. Half of them get off and {b} get on. How many passengers "
            "are on the bus?",
            "{n} saves {a} dollars, spends half of it and earns {b} dollars. How many dollars does "
            "{n} have?",
        ),
    ),
    "digits": (
        _digits,
        (
            "What is the sum of the digits of {a}?",
            "Add up all the digits of the number {a}.",
            "{n}'s number is {a}. What do its digits add up to?",
        ),
    ),
    "change": (
        _change,
        (
            "{n} buys {a} books at ${b} each and pays with ${c}. How many dollars does {n} get "
            "back?",
            "A pen costs {b} euros. {n} takes {a} of them and gives the seller {c} euros. How much "
            "change is there?",
            "From {c} pounds {n} pays for {a} tickets of {b} pounds. How many pounds are left?",
        ),
    ),
}
# Part -> its seed, and the wordings of a family's problems in it. Nothing is learnt from the third.
PARTS: dict[str, tuple[int, Sequence[Sequence[int]]]] = {
    "learn": (1130, [[0, 1] * 4]),
    "ask": (1130, [[0, 1] * 4, [0, 1] * 2, [2] * 4]),
    "confirm": (20261130, [[0, 1, 2, 2] * 5]),
    "repeat": (20261201, [[0, 1, 2, 2] * 5]),
    "many_learn": (20261202, [[0, 1] * 16]),
    "many_ask": (20261203, [[0, 1, 2, 2] * 20]),
}


def family(problem: Problem) -> str:
    return problem.id.split("-")[0]


def problems(part: str) -> list[Problem]:
    """One part: `learn` 64, `ask` 64 (half in a wording that `learn` has not), `confirm` and `repeat`
    about 160, half in that wording; `many_learn` 256 and `many_ask` about 620, for a GPU. No problem
    is in two parts."""
    if part not in ("learn", "ask"):
        earlier = list(PARTS)[: list(PARTS).index(part)]
        used = {p.text for other in earlier for p in problems(other)}
        return [p for p in _made(part) if p.text not in used]
    return _made(part)


def _made(part: str) -> list[Problem]:
    seed, rounds = PARTS[part]
    names = {1: [part], 3: ["learn", "seen", "unseen"]}[len(rounds)]
    found = []
    for name, (draw, wordings) in FAMILIES.items():
        rng, seen = random.Random(f"{seed}/{name}"), set()
        for kind, chosen in zip(names, rounds, strict=True):
            for i, wording in enumerate(chosen):
                numbers = _fresh(draw, wordings[wording], rng, seen)
                text = wordings[wording].format(**numbers)
                one = Problem(text, f"{name}-{kind}-{i}", numbers["answer"], f"made/{name}")
                found += [one] if kind != "learn" or part == "learn" else []
    return found


def _fresh(
    draw: Callable[[random.Random], Numbers], wording: str, rng: random.Random, seen: set
) -> dict[str, str]:
    """Numbers that the family has not had, and a name, as texts."""
    while True:
        numbers = draw(rng)
        named = {**{k: str(v) for k, v in numbers.items()}, "n": rng.choice(NAMES)}
        key = tuple(sorted(numbers.items()))
        if key not in seen:
            seen.add(key)
            return named
