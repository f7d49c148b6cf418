"""What is boxed, the normal form of an answer, and which answers are the same."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmem.method import sympy_worker
from latentmem.method.answers import canonical, extract_boxed, same_answer

BOXES = [
    (r"so it is \boxed{5}.", "5"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\sqrt{1+\frac{a}{b}}} and more", r"\sqrt{1+\frac{a}{b}}"),
    (r"first \boxed{4}, corrected: \boxed{6}", "6"),
    (r"\boxed{4}, then cut off: \boxed{\frac{1}{", "4"),
    (r"cut off: \boxed{\frac{1}{2}", None),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\fbox{7}", "7"),
    (r"\boxed {8}", "8"),
    ("\\boxed\n{8}", "8"),
    (r"$\boxed 5$", "5"),
    (r"$\boxed 56$ apples", "56"),
    (r"\boxed 5 apples", "5"),
    (r"$\boxed 5x+3$", "5x+3"),
    (r"\boxed5", "5"),
    (r"\(\boxed\frac12\)", r"\frac12"),
    (r"The answer is \boxed{5}. I put it in \boxed as asked.", "5"),
    (r"\boxed{\boxed{9}}", r"\boxed{9}"),
    (r"\boxed{\boxed{9}", "9"),
    (r"\boxed{ 12 }", "12"),
    (r"\boxed{}", None),
    (r"\boxed{  }", None),
    (r"\boxed{$$}", None),
    (r"\boxed{\,}", None),
    (r"\boxed{\text{ }}", None),
    (r"\boxed{\ }", None),
    (r"\boxed{\ \ }", None),
    (r"\boxed{~}", None),
    (r"\boxed{\{\}}", r"\{\}"),
    (r"\boxed{5} and then \boxed{}", None),
    (r"\boxedx{5}", None),
    ("no box", None),
    ("", None),
    (r"\boxed", None),
    (r"\boxed{", None),
    ("}{", None),
]


def test_boxes():
    assert [(text, extract_boxed(text)) for text, _ in BOXES] == BOXES


HOSTILE = [
    "{" * 50_000,
    r"\boxed{" * 20_000,
    r"\boxed x" * 5_000,
    r"\boxed{5}" * 20_000,
    " " * 100_000,
    r"\boxed " + " " * 100_000,
    r"\boxed" * 5_000,
    "\\" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_read_in_linear_time(text):
    start = time.process_time()
    extract_boxed(text)
    assert time.process_time() - start < 2


def read_pairs() -> dict[str, list[tuple[str, str, str]]]:
    """Kind -> (a, sign, b): == for one answer, != for two, -> for the normal form."""
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    _, *parts = Path(__file__).with_name("answer_pairs.txt").read_text("utf-8").split("\n## ")
    for part in parts:
        kind, *lines = part.strip().split("\n")
        found = [re.fullmatch("(.+) (==|!=|->) (.+)", line) for line in lines]
        kinds[kind] = [(m[1], m[2], m[3]) for m in found if m]
        assert len(kinds[kind]) == len(lines) > 0, kind
    return kinds


PAIRS = read_pairs()
CHEAP = "without math-verify"
CANONICAL = [(a, form) for a, _, form in PAIRS.pop("normal forms")]
# what a text file cannot show
CANONICAL += [(" 5 . ", "5"), ("5\x00", "5"), ("", ""), ("$.$", ""), ("5\\ ", "5")]
PAIRS[CHEAP] += [
    ("1" * 5000, "==", "0" + "1" * 5000),
    ("1" * 5000, "!=", "1" * 4999 + "2"),
    ("", "!=", "0"),
    ("5\0", "!=", "6"),
    ("1\u202f234\u202f567", "==", "1234567"),
    ("1\xa0000", "==", "1000"),
]


def test_canonical():
    assert len(CANONICAL) > 50
    assert [(text, canonical(text)) for text, _ in CANONICAL] == CANONICAL


def misjudged(kind):
    return [
        (a, sign, b)
        for a, sign, b in PAIRS[kind]
        if not same_answer(a, b) == same_answer(b, a) == (sign == "==")
    ]


def test_pairs_that_canonical_strings_and_exact_numbers_settle(monkeypatch):
    monkeypatch.setattr(
        sympy_worker, "compare", lambda *pair: pytest.fail(f"math-verify was asked about {pair}")
    )
    assert misjudged(CHEAP) == []


@pytest.mark.parametrize("kind", [kind for kind in PAIRS if kind != CHEAP])
def test_pairs(kind):
    assert misjudged(kind) == []


def test_every_normal_form_is_settled():
    forms = {canonical(text) for pairs in PAIRS.values() for a, _, b in pairs for text in (a, b)}
    assert len(forms) > 600 and [form for form in forms if canonical(form) != form] == []


# Pieces from which every branch of the normal form can be reached, and combined in ways nobody
# would write.
PIECES = st.sampled_from(
    [
        *"0123456789.,;:+-*/^_=()[]{}|%$ \\xyzeiC\0−½²√π°€٣",
        *r"\frac \dfrac \sqrt \text{ \left \{ \} \% \$ \, \! \\ \pi \circ".split(),
        *r"\in \boxed{ \mathrm{".split(),
        *(" and ", " or ", " cm", " apples", "percent", "infinity", "1,234", "x=", "0.50"),
        *("million", "USD ", r"^{\circ}", "\ud800"),
    ]
)
NOTATION = st.one_of(st.lists(PIECES, max_size=14).map("".join), st.text(max_size=30))


@settings(max_examples=200, deadline=None)
@given(NOTATION)
def test_canonical_is_idempotent(text):
    assert canonical(canonical(text)) == canonical(text)


@settings(max_examples=150, deadline=None)
@given(NOTATION, NOTATION)
def test_same_answer_is_reflexive_and_symmetric(a, b):
    original = sympy_worker.compare
    # what math-verify says is symmetric by construction
    sympy_worker.compare = lambda left, right: False
    try:
        assert same_answer(a, a) and same_answer(b, b)
        assert same_answer(a, b) == same_answer(b, a)
        assert canonical(a) != canonical(b) or not canonical(a) or same_answer(a, b)
    finally:
        sympy_worker.compare = original


@given(st.fractions(), st.integers(1, 50))
def test_fractions_are_equal_however_they_are_written(value, factor):
    top, bottom = value.numerator, value.denominator
    ways = [
        f"{top}/{bottom}",
        rf"\frac{{{top * factor}}}{{{bottom * factor}}}",
        rf"$\dfrac {{{top}}}{{{bottom}}}$.",
    ]
    assert all(same_answer(ways[0], way) for way in ways)
    assert not same_answer(ways[0], f"{top + 1}/{bottom}")


@given(st.integers(-(10**12), 10**12), st.integers(0, 5))
def test_decimals_are_equal_however_they_are_written(digits, places):
    text = f"{digits / 10**places:.{places}f}"
    assert all(
        same_answer(text, way)
        for way in (text + ".", f"${text}$", f"{digits}/{10**places}", f"{text} cm")
    )
    assert same_answer(text, f"{digits / 10**places:,.{places}f}")


@given(st.text(max_size=50), st.text("0123456789xy+", min_size=1))
def test_the_last_box_is_found_in_any_text(text, answer):
    expected = answer if canonical(answer) else None
    assert extract_boxed(rf"\boxed{{0}} {text.replace('{', '')} \boxed{{{answer}}}") == expected


LONG = [
    r"\frac" * 2000,
    "{" * 9999,
    "1," * 4999,
    "." * 9999 + "x",
    r"\, " * 3300,
    "5 " + "a" * 9990 + "!",
    "9" * 9999,
    r"\text{" * 1600,
    "1 " * 4999,
    "x=" * 4999,
    "⁵" * 9999,
    "5 a/" * 2400,
    "(" * 9999,
    "5 a" + ". " * 4900 + "!",
]


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_hostile_answers_are_put_in_normal_form_quickly(text):
    start = time.process_time()
    form = canonical(text)
    assert time.process_time() - start < 2
    assert not same_answer(text, "5") and canonical(form) == form


def test_an_answer_beyond_all_limits_is_the_same_as_itself_only():
    huge = "x+" * 100_000 + "1"
    assert same_answer(huge, huge)
    assert same_answer(huge, f" {huge}\n")
    assert not same_answer(huge, huge[:-1] + "2")


def test_without_a_process_numbers_still_count(monkeypatch, caplog):
    def unavailable(left, right):
        raise sympy_worker.Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(sympy_worker, "compare", unavailable)
        assert same_answer("0.5", "1/2") and not same_answer("3+x+x", "2x+3")
        assert "No process for symbolic comparison" in caplog.text
    assert same_answer("3+x+x", "2x+3")  # the failure was not remembered
