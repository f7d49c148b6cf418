r"""The one place where answers are compared: extract, canonicalise, `same_answer`.

Conventions, chosen to follow math-verify and the graders of the MATH benchmark:

- Units, currencies and degree signs are dropped: `5 \text{ cm}`, `\$5` and `5` are one answer (nothing is converted:
  500 cm is not 5 m, and 5 cm is the same as 5 m).
- `50\%` is the same as 50 (the sign read as a unit) and as 0.5 (its value), yet 50 is not 0.5.
- A bare list is unordered (`1,2` is `2,1`), a tuple or interval is ordered, and a list beside a tuple is read in its
  order; `1,234` is a number, `(1,234)` a pair.
- The variable of a solution is dropped: `x=5` is `5` (and so `y=5`); `y=2x+3` stays an equation.
- Numbers are compared exactly. Only a decimal with six digits behind the point may stand for what it rounds:
  0.333333 is 1/3, 0.33 is not.

So sameness is reflexive and symmetric, but a percentage, a list without parentheses or a rounded decimal can be the
same as two answers that differ from each other.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache

from . import math_worker
from .notation import canonical, closing_braces

SYMBOLIC_CHARS = 300  # a longer answer is not given to math-verify; answers of the MATH benchmark stay below 120
NUMBER_CHARS = 400  # a longer number is compared as a string, which is exact for integers and decimals anyway

__all__ = ["canonical", "extract_boxed", "same_answer", "warm_up"]
warm_up = math_worker.warm_up
_log = logging.getLogger(__name__)

# --- extraction ---------------------------------------------------------------------------------------------------

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_UNBRACED = re.compile(  # a number, or what stands before the end of the formula on the same line
    r"[-+]?\d(?:[\d,.]*\d)?%?(?![\w^+*/\\=(-])|(?:[^$\n\\]|\\[^)\]\n]){1,300}+(?=\$|\\\)|\\\])")


def extract_boxed(text: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}` or `\fbox{...}` of `text`, as written; also `\boxed 5`.

    None if there is no box, none was closed, or the last one holds nothing (`\boxed{}`, `\boxed{\,}`, `\boxed{~}`). A box within
    a box belongs to the outer one. Takes time linear in the length of any text.
    """
    pairs, found, end = closing_braces(text), None, 0
    for box in _BOX.finditer(text):
        start = box.end()
        if box.start() < end:  # inside the previous box
            continue
        if start < len(text) and text[start] == "{":
            if start in pairs:
                end = pairs[start]
                found = text[start + 1 : end]
        elif bare := _UNBRACED.match(text, start):
            found, end = bare[0], bare.end()
    found = (found or "").strip()
    return found if canonical(found) else None


# --- sameness -----------------------------------------------------------------------------------------------------

_PLAIN = r"\d+(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?P<minus>-?)(?:(?P<whole>\d+)(?: (?=\d+/)|(?=\\frac)))?"
    rf"(?:\\frac\{{(?P<top>-?{_PLAIN})\}}\{{(?P<bottom>-?{_PLAIN})\}}"
    rf"|(?P<over>{_PLAIN})/(?P<under>{_PLAIN})|(?P<fixed>\d+\.\d*)\\overline\{{(?P<period>\d+)\}}|(?P<plain>{_PLAIN}))"
    r"(?:[eE](?P<e>[-+]?\d{1,3})|(?:\\times|\\cdot|\*|x)10\^(?:\{(?P<ten>-?\d{1,3})\}|(?P<digit>\d)))?"
    r"(?:(?P<scale>dozen|hundred|thousand|million|billion|trillion)(?: [a-z]+)*)?(?P<percent>%?)")
_SCALE = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_FUNCTIONS = {"sqrt", "frac", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan"}
_PAIR = re.compile(r"\([^()\[\]]+,[^()\[\]]+\)")  # or a triple, ...
_LIST = re.compile(r"(?!\\\{)[^()\[\]]+,[^()\[\]]+")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")


@lru_cache(maxsize=4096)
def _number(text: str) -> tuple[Fraction, bool, int] | None:
    """(value of what stands before the percent sign, is it a percentage, decimal places) of a canonical string."""
    m = _NUMBER.fullmatch(text) if len(text) <= NUMBER_CHARS else None
    if m is None:
        return None
    try:
        if m["period"]:
            places = len(m["fixed"].partition(".")[2])
            value = Fraction(m["fixed"] + "0") + Fraction(int(m["period"]), 10**places * (10 ** len(m["period"]) - 1))
        else:
            value = Fraction(m["top"] or m["over"] or m["plain"]) / Fraction(m["bottom"] or m["under"] or 1)
    except ZeroDivisionError:
        return None
    value = (value + int(m["whole"] or 0)) * Fraction(10) ** int(m["e"] or m["ten"] or m["digit"] or 0)
    value *= (-1 if m["minus"] else 1) * _SCALE.get(m["scale"], 1)
    return value, bool(m["percent"]), len((m["plain"] or "").partition(".")[2])


def _same_number(left: tuple[Fraction, bool, int], right: tuple[Fraction, bool, int]) -> bool:
    (a, a_percent, a_places), (b, b_percent, b_places) = left, right
    if a_percent and not b_percent and _same_number((a / 100, False, a_places + 2), right):
        return True
    if b_percent and not a_percent and _same_number(left, (b / 100, False, b_places + 2)):
        return True
    return a == b or math_worker.stands_for(abs(a - b), max(abs(a), abs(b)), (a_places, b_places))


def _is_word(text: str) -> bool:
    """A name or a word, which math-verify would read as a product of letters, equal to all its anagrams."""
    words = text.lower().split()
    return bool(_WORDS.fullmatch(text)) and words[0] not in _FUNCTIONS and (
        any(len(w) > 3 and re.search("[aeiouy]", w) for w in words) or text.lower() in {"yes", "no", "odd", "all"})


@lru_cache(maxsize=16384)
def _equivalent(left: str, right: str) -> bool:
    """Of two different canonical strings. Raises math_worker.Unavailable, so that this is not remembered."""
    numbers = _number(left), _number(right)
    if all(numbers):
        return _same_number(*numbers)
    if _is_word(left) or _is_word(right):
        return left.casefold() == right.casefold()
    if all(re.fullmatch(r"-?\w+_(?:\{\d+\}|\d)", text) for text in (left, right)):  # math-verify forgets the base
        return False
    if any(len(t) > SYMBOLIC_CHARS or re.search(r"(?<![_^])\d \d", t) for t in (left, right) if not _number(t)):
        return False  # 1 2 is no number; math-verify would add the two
    if _PAIR.fullmatch(left) and _LIST.fullmatch(right):  # else the set {2, 1} would be the pair (1, 2)
        right = f"({right})"
    elif _PAIR.fullmatch(right) and _LIST.fullmatch(left):
        left = f"({left})"
    return math_worker.compare(left.replace("%", r"\%"), right.replace("%", r"\%"))


def same_answer(a: str, b: str) -> bool:
    """Are the two answers equivalent? Never raises; symmetric; from any thread; remembers what it compared.

    Equal canonical strings are. Numbers and simple fractions are compared exactly, everything else by math-verify in a
    process of its own. What is too long, hangs or breaks the parser is simply not the same.
    """
    if a == b:
        return True
    left, right = sorted((canonical(a), canonical(b)))
    if left == right or not left:  # sorted: only the left one can be empty
        return left == right != ""
    try:
        return _equivalent(left, right)
    except math_worker.Unavailable:
        _log.warning("No process for symbolic comparison could be started: only equal numbers and strings count.")
        return False
