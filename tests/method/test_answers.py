from __future__ import annotations

import time

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


@pytest.mark.parametrize("text, answer", BOXES)
def test_boxes(text, answer):
    assert extract_boxed(text) == answer


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


CANONICAL = [
    ("$5$", "5"),
    (r"\(5\)", "5"),
    (" 5 . ", "5"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})"),
    (r"\$32,\!348", "32348"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("1,234", "1234"),
    ("(1,234)", "(1, 234)"),
    ("1, 234", "1, 234"),
    ("12 345", "12345"),
    ("1{,}234.50", "1234.5"),
    (r"\dfrac 34", r"\frac{3}{4}"),
    (r"\frac\pi2", r"\frac{\pi}{2}"),
    (r"\sqrt{\frac12}", r"\sqrt{\frac{1}{2}}"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"5 \text{ m}", "5"),
    ("12 apples", "12"),
    ("2 million", "2million"),
    ("2 sin x", r"2\sin x"),
    ("2 sec x", r"2\sec x"),
    ("2ab", "2ab"),
    ("3 and 4", "3, 4"),
    (r"106^{\circ}", "106"),
    ("25°C", "25"),
    ("x=5", "5"),
    (r"x = 2 \text{ or } x = 3", "2, 3"),
    (r"x \in [-2,7]", "[-2, 7]"),
    ("y = 2x + 3", "y=2x+3"),
    (r"\text{(C)}", "C"),
    (".50", "0.5"),
    ("007", "7"),
    ("-0.0", "0"),
    ("+5", "5"),
    ("−5", "-5"),
    ("3½", r"3\frac{1}{2}"),
    ("x²", "x^2"),
    ("√51", r"\sqrt{51}"),
    ("５", "5"),
    ("5\0", "5"),
    (r"50\%", "50%"),
    ("50 percent", "50%"),
    ("x^{2}", "x^2"),
    (r"\frac\pi 2", r"\frac{\pi}{2}"),
    ("2^-3", "2^{-3}"),
    ("3{,}14", "3.14"),
    ("x^{2}3", "x^{2}3"),
    ("", ""),
    ("$.$", ""),
    ("5~cm", "5"),
    ("25 cm squared", "25"),
    (r"36\text{ feet cubed}", "36"),
    ("9.8 m/s squared", "9.8"),
    ("5 squared", "5squared"),
    ("5\\ ", "5"),
    ("12 quarters", "12"),
    ("3 times", "3"),
]


@pytest.mark.parametrize("text, form", CANONICAL)
def test_canonical(text, form):
    assert canonical(text) == form


# Pairs that canonical strings and exact numbers settle, without math-verify.
SAME_CHEAP = [
    ("0.5", "1/2"),
    ("0.5", r"\frac12"),
    (r"\frac12", r"\dfrac{1}{2}"),
    (".5", "0.50"),
    ("5", "5.0"),
    ("1/2", "2/4"),
    ("-1/2", r"-\frac{1}{2}"),
    (r"\frac{-1}{2}", r"-\frac12"),
    ("3½", "3.5"),
    (r"3\frac{1}{2}", "7/2"),
    ("3 1/2", "3.5"),
    ("1,234", "1234"),
    (r"\$1,234.00", "1234"),
    ("12 345", "12345"),
    (r"10,\!080", "10080"),
    ("5 dollars", r"\$5"),
    ("5 cm", r"5\text{ cm}"),
    ("12 apples", "12"),
    ("25 miles per hour", "25"),
    ("60 km/h", "60"),
    (r"9\text{ m}^2", "9"),
    (r"90^\circ", "90 degrees"),
    ("50%", r"50\%"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("12.5%", "1/8"),
    ("50 percent", "1/2"),
    ("0.333333", "1/3"),
    ("0.6666667", "2/3"),
    (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", "1/6"),
    ("1e3", "1000"),
    (r"1.5 \times 10^3", "1500"),
    (r"2 \cdot 10^{-3}", "0.002"),
    ("3 x 10^5", "300000"),
    ("2 million", "2,000,000"),
    ("2 dozen", "24"),
    ("x=5", "5"),
    ("x = 5", "5."),
    (r"\text{Evelyn}", "Evelyn"),
    ("evelyn", "Evelyn"),
    ("(C)", r"\text{C}"),
    (r"\mathrm{no\ solution}", "no solution"),
    ("−7", "-7"),
    ("1" * 5000, "0" + "1" * 5000),
    (r"\boxed{5}", "5"),
    (r"\{1, 2\}", r"\left\{1,2\right\}"),
    (r"x \in [0,1)", "[0, 1)"),
    ("10^{10^{10}}", "$10^{10^{10}}$"),
    ("x^{2}", "x²"),
]
SAME_SYMBOLIC = [
    ("(1,2)", "1,2"),
    (r"\infty", "infinity"),
    ("f(x)=2x", "2x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("y=2x+3", "2x+3"),
    ("y=2x+3", "2x-y+3=0"),
    ("1,2", "2,1"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", r"\{2, 1\}"),
    ("(1, 2)", r"\left(1,\frac{4}{2}\right)"),
    ("[0, 0.5)", r"[0,\frac{1}{2})"),
    (r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"12\pi\text{ cm}", r"\pi\cdot 12"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty,2)"),
    ("2^{10}", "1024"),
    ("2:3", "2/3"),
    ("5!", "120"),
    ("x>3", r"(3,\infty)"),
    ("x<y", "y>x"),
    (r"\log_2 8", "3"),
    (r"\sqrt{2}", "1.414214"),
    (r"2\%", r"\frac{1}{50}"),
    ("x=1, y=2", "y=2, x=1"),
    (r"\frac{a+b}{2}", r"\frac{a}{2}+\frac{b}{2}"),
    ("1+2i", "2i+1"),
    ("2pi", r"2\pi"),
    ("5 m", "5"),
]
SAME_NUMBERS = [  # exact values, and decimals that round them
    (r"\frac{364^{10}}{365^{10}}", r"\left(\frac{364}{365}\right)^{10}"),
    (r"\frac{30!}{15!15!}", r"\binom{30}{15}"),
    (r"\frac{30!}{15!15!}", "155117520"),
    (r"1-\frac{1}{2^{65}}", r"\frac{2^{65}-1}{2^{65}}"),
    (r"\frac{25!-1}{25!}", r"1-\frac{1}{25!}"),
    ("0.1x+0.2x", "0.3x"),
    (r"0.5x+1", r"\frac{x}{2}+1"),
    (r"\sqrt{2}\sqrt{3}-\sqrt{6}", "0"),
    (r"\sin^2(x)+\cos^2(x)", "1"),
    ("(0.333333,1)", r"(\frac13,1)"),
    (r"\{0.333333,1\}", r"\{\frac13,1\}"),
    ("x=0.333333", r"x=\frac13"),
    ("0.083333", r"\frac{1}{12}"),
    ("0.0833333333333333", r"\frac{1}{12}"),
    ("0.008333", r"\frac{1}{120}"),
    ("0.0909091", "1/11"),
    ("0.041667", r"\frac1{24}"),
    ("0.0416666", r"\frac{1}{24}"),
    ("-0.041667", r"-\frac{1}{24}"),
    ("3.141593", r"\pi"),
    ("0.0314159265", r"\frac{\pi}{100}"),
    (r"33.333333\%", r"\frac13"),
    ("0.5%", "0.005"),
    (r"\sqrt[3]{8}", "2"),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac{2}{\sqrt5-1}"),
    (r"\sqrt{7+4\sqrt3}", r"2+\sqrt3"),
    (r"\tan(\frac{\pi}{8})", r"\sqrt{2}-1"),
    ("x^2-4=0", "4-x^2=0"),
    ("2x+4y-3=0", r"y=-\frac12 x+\frac34"),
]
_TINY, _NEAR = (
    r"\frac{1}{365^{10}}",
    r"\frac{364^{10}}{365^{10}}",
)  # 2e-26 and 0.97, over one denominator
DIFFERENT_NUMBERS = [
    *(
        (form % _TINY, form % _NEAR)
        for form in (
            "%s",
            "(1,%s)",
            r"\{1,%s\}",
            "[0,%s]",
            "x=%s",
            "x>%s",
            "%sx",
            "x+%s",
            "%si",
            r"\begin{pmatrix}1\\%s\end{pmatrix}",
        )
    ),
    (r"\frac{30!}{15! 15!}", r"\frac{30!}{14! 16!}"),
    (r"\frac{2^{65}-1}{2^{65}}", r"\frac{1}{2^{65}}"),
    (r"\frac{25!-1}{25!}", r"\frac{1}{25!}"),
    (r"\frac{1}{3^{70}}", r"\frac{1}{3^{71}}"),
    (r"\frac{1}{2^{65}}", "0"),
    (r"1-\frac{1}{2^{70}}", "1"),
    (r"\frac{10^{20}+1}{10^{20}}", "1"),
    ("2^{100}", "2^{100}+1"),
    ("2^{-70}", "2^{-71}"),
    ("e^{-50}", "e^{-51}"),
    (r"\frac{\sqrt{2}}{2^{70}}", r"\frac{\sqrt{3}}{2^{70}}"),
    (r"\frac{\pi}{10^{20}}", r"\frac{2\pi}{10^{20}}"),
    (r"\frac{\binom{52}{5}}{2^{70}}", r"\frac{\binom{52}{6}}{2^{70}}"),
    ("0.000000001", "0.000000002"),
    ("1.0000000001", "1"),
    ("0.000833", r"\frac{1}{1201}"),
    ("0.000001", r"\frac{1}{900000}"),
    ("0.083333", "0.083334"),
    ("0.0833", r"\frac{1}{12}"),
    ("x^2+1=0", "x^2+4=0"),
    ("3x-y+13=0", "3x+4y+14=0"),
]
DIFFERENT_CHEAP = [
    ("5", "6"),
    ("50", "0.5"),
    ("0.33", "1/3"),
    ("0.3333", "1/3"),
    ("-5", "5"),
    ("5%", "0.5"),
    ("5%", "50%"),
    ("0.0000671", "0.0000672"),
    ("0.123456", "0.123457"),
    ("1.999999", "2"),
    ("Evelyn", "Navin"),
    ("east", "seat"),
    ("yes", "no"),
    ("no", "on"),
    ("1" * 5000, "1" * 4999 + "2"),
    ("2 million", "2"),
    ("31/2", "3 1/2"),
    ("1 2", "3"),
    ("204_5", "204_6"),
    ("", "0"),
    ("$", "."),
    ("12 apples", "13 apples"),
    ("1000000", "1000001"),
    ("5\0", "6"),
]
DIFFERENT_SYMBOLIC = [
    ("1,234", "(1,234)"),
    ("(2,1)", "1,2"),
    ("x_1", "x_2"),
    (r"10^{-20}\pi", r"10^{-21}\pi"),
    ("1/0", "2/0"),
    (r"\frac{1}{0}", "0"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "[0,1]"),
    ("x+1", "x+2"),
    ("A", "B"),
    (r"\sqrt{2}", "1.41"),
    (r"\pi", "3.14"),
    ("1,2", "1,3"),
    ("1,2", "1,2,3"),
    ("(1,2,3)", "(3,2,1)"),
    ("x>3", "x<3"),
    ("y=2x+3", "y=2x+4"),
    ("2^{10}", "1023"),
    ("3", "x"),
    ("1/0", "0"),
    (r"\emptyset", r"\{0\}"),
    (r"\foo 5", "5"),
    ("5)3", "5"),
    ("the answer 5 (maybe)", "5"),
    (r"\frac{1}{", "1"),
    ("}{", "{}"),
    *(
        (f"{n} {words}", str(n))
        for n, words in (
            (5, "degrees below zero"),
            (5, "negative"),
            (5, "squared"),
            (4, "factorial"),
            (3, "halves"),
            (2, "thirds"),
            (3, "tenths"),
            (7, "hundredths"),
        )
    ),
]


@pytest.fixture
def no_worker(monkeypatch):
    monkeypatch.setattr(
        sympy_worker, "compare", lambda *pair: pytest.fail(f"math-verify was asked about {pair}")
    )


@pytest.mark.parametrize("a, b", SAME_CHEAP)
def test_same_without_math_verify(a, b, no_worker):
    assert same_answer(a, b) and same_answer(b, a)


@pytest.mark.parametrize("a, b", DIFFERENT_CHEAP)
def test_different_without_math_verify(a, b, no_worker):
    assert not same_answer(a, b) and not same_answer(b, a)


@pytest.mark.parametrize("a, b", SAME_SYMBOLIC + SAME_NUMBERS)
def test_same_by_math_verify(a, b):
    assert same_answer(a, b) and same_answer(b, a)


@pytest.mark.parametrize("a, b", DIFFERENT_SYMBOLIC + DIFFERENT_NUMBERS)
def test_different_by_math_verify(a, b):
    assert not same_answer(a, b) and not same_answer(b, a)


def test_the_tables_are_large_enough():
    assert (
        len(SAME_CHEAP) + len(SAME_SYMBOLIC) + len(DIFFERENT_CHEAP) + len(DIFFERENT_SYMBOLIC) >= 80
    )


# Pieces from which every branch of the normal form can be reached, and combined in ways nobody
# would write.
PIECES = st.sampled_from(
    [
        *"0123456789.,;:+-*/^_=()[]{}|%$ \\xyzeiC\0−½²√π°€٣",
        r"\frac",
        r"\dfrac",
        r"\sqrt",
        r"\text{",
        r"\left",
        r"\{",
        r"\}",
        r"\%",
        r"\$",
        r"\,",
        r"\!",
        r"\\",
        r"\pi",
        r"\circ",
        r"\in",
        r"\boxed{",
        r"\mathrm{",
        " and ",
        " or ",
        " cm",
        " apples",
        "percent",
        "infinity",
        "1,234",
        "x=",
        "0.50",
        "million",
        "USD ",
        r"^{\circ}",
        "\ud800",
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
    sympy_worker.compare = (
        lambda left, right: False
    )  # what math-verify says is symmetric by construction
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
    assert (
        same_answer(huge, huge)
        and same_answer(huge, f" {huge}\n")
        and not same_answer(huge, huge[:-1] + "2")
    )


def test_without_a_process_numbers_still_count(monkeypatch, caplog):
    def unavailable(left, right):
        raise sympy_worker.Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(sympy_worker, "compare", unavailable)
        assert same_answer("0.5", "1/2") and not same_answer("3+x+x", "2x+3")
        assert "No process for symbolic comparison" in caplog.text
    assert same_answer("3+x+x", "2x+3")  # the failure was not remembered
