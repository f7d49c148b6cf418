r"""The one place where answers are compared: extract, canonicalise, `same_answer`.

Conventions, chosen to follow math-verify and the graders of the MATH benchmark:

- Units, currencies and degree signs are dropped: `5 \text{ cm}`, `\$5` and `5` are one answer
(nothing is converted:
  500 cm is not 5 m, and 5 cm is the same as 5 m).
- `50\%` is the same as 50 (the sign read as a unit) and as 0.5 (its value), yet 50 is not 0.5.
- A bare list is unordered (`1,2` is `2,1`), a tuple or interval is ordered, and a list beside a
tuple is read in its
  order; `1,234` is a number, `(1,234)` a pair.
- The variable of a solution is dropped: `x=5` is `5` (and so `y=5`); `y=2x+3` stays an equation.
- Numbers are compared exactly. Only a decimal with six digits behind the point may stand for what
it rounds:
  0.333333 is 1/3, 0.33 is not.

So sameness is reflexive and symmetric, but a percentage, a list without parentheses or a rounded
decimal can be the same as two answers that differ from each other.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from . import sympy_worker

# ---------- The normal form of an answer's notation: what is written differently in cheap ways becomes the same string.

CANONICAL_CHARS = 10_000  # a longer answer is left as it is
_UNICODE = {
    "−": "-",
    "–": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "⋅": r"\cdot ",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∞": r"\infty ",
    "π": r"\pi ",
    "θ": r"\theta ",
    "√": r"\sqrt ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "€": " ",
    "£": " ",
    "¥": " ",
    "₹": " ",
    "′": "'",
    "’": "'",
}
_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_COMMANDS = {  # what a command becomes; the rest stay
    **dict.fromkeys(
        r"\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle "
        r"\degree"
        r" \degrees \quad \qquad \! \, \; \: \( \) \[ \] \$ \euro \pounds \textdollar".split(),
        " ",
    ),
    "\\ ": " ",
    "\\\n": " ",
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac "),
    r"\%": "%",
    r"\leq": r"\le ",
    r"\leqslant": r"\le ",
    r"\geq": r"\ge ",
    r"\geqslant": r"\ge ",
    r"\neq": r"\ne ",
    r"\lt": "<",
    r"\gt": ">",
    r"\div": "/",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\varnothing": r"\emptyset ",
    r"\infin": r"\infty ",
    r"\colon": ":",
    r"\ldots": r"\dots ",
}
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|"
    r"boxed|fbox|operatorname)\s*(?=\{)"
)
_GROUPED = re.compile(r"(?<=\d)(?:,\\!|\\!,|\{,\}|\\,)\s*(?=\d{3}(?!\d))")
_UNIT_WORDS = set(
    "cm mm km ft in mi lb lbs oz kg mg ml hr hrs min mins sec secs mph kmh kph sq deg rad gm cc "
    "pts yd yds usd eur gbp".split()
)
_NO_UNITS = set(
    "and or to mod million billion trillion thousand hundred dozen am pm pi sin cos tan cot csc "
    "log exp sqrt frac arcsin arccos arctan sinh cosh tanh det gcd lcm max lim base infinity "
    "theta alpha beta gamma delta lambda sigma omega factorial plus minus negative below half "
    "halves third thirds fourths fifth fifths sixths eighths tenth tenths hundredths "
    "thousandths".split()
)
_POWERS = {"squared", "cubed"}  # behind a unit they belong to it, behind a number not
_UNIT = re.compile(r"(?:[A-Za-z][A-Za-z.'-]*+|/|\^\s*(?:\{\s*-?\d\s*\}|-?\d)|\s)+")
_SHORT_UNIT = re.compile(
    r"(?<=[\d}\s])\\(?:text|mbox|mathrm|textrm)\s*\{\s*(?:[A-DF-Za-df-hj-z]|[A-Za-z]+/[A-Za-z]+)\s*\}"
    r"\s*(?:\^\s*(?:\d|\{\s*-?\d\s*\}))?[\s.$]*$"
)
_DECIMAL = re.compile(r"(?<![\d.\w])(\d*)\.(\d+)(?![\d.])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def closing_braces(text: str) -> dict[int, int]:
    r"""Position of every closed `{` -> position of its `}`. `\{` and `\}` are printed characters,
    not braces."""
    pairs, opened = {}, []
    for token in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if token[0] == "{":
            opened.append(token.start())
        elif token[0] == "}" and opened:
            pairs[opened.pop()] = token.start()
    return pairs


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    first = text
    for _ in range(8):
        before, text = text, _normalise(text)
        if text == before:
            return text
    return " ".join(first.split())  # only nonsense does not settle


def canonical(answer: str) -> str:
    r"""A normal form of the string: equal answers written differently in cheap ways become equal
    strings.

    White space, `$`, `\left`, `\text{..}`, units, currency, thousands separators, degrees, a
    leading `x=`, final stops, `\dfrac`, `\frac12`, 0.50 against .5, unicode signs. Idempotent.
    Above 10,000 characters only white space is touched. `""` if nothing is left.
    """
    text = " ".join(answer.split())
    return _canonical(text) if len(text) <= CANONICAL_CHARS else text


def _normalise(text: str) -> str:
    text = _GROUPED.sub("", _ascii(text)).replace("~", " ").rstrip("\\ ")  # `~` and `\ ` are blanks
    text = re.sub(r"\\(?:[A-Za-z]+|.)", lambda m: _COMMANDS.get(m[0], m[0]), text, flags=re.DOTALL)
    text = " ".join(_unwrap(_SHORT_UNIT.sub("", text)).replace("$", " ").split())
    text = re.sub(r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z])) ?(?:[CF]\b)?", " ", text)
    text = re.sub(r",? (?:and|or) ", ", ", text)
    text = re.sub(
        r"(?<![A-Za-z\\])(?:infinity|pi)(?![A-Za-z])",
        lambda m: {"pi": r"\pi "}.get(m[0], r"\infty "),
        text,
    )
    text = re.sub(r"^(?:US|USD|EUR|Rs\.?) ?(?=[\d.])", "", text)
    text = re.sub(r" ?(?:percent|per cent|pct)$", "%", text)
    text = _without_unit(text.rstrip(" .,;:")).rstrip(" .,;:")
    text = _brace_arguments(text.replace("**", "^"))
    text = re.sub(r"([\^_])\s*\{\s*(\w)\s*\}(?![\w.])", r"\1\2", text)
    text = re.sub(r"\^(\d{2,})", r"^{\1}", text)
    text = _separate(text)
    text = _unassign(text)
    if re.fullmatch(r"\([A-Za-z]\)", text):  # (C), as in multiple choice
        text = text[1]
    return _numbers(text)


def _ascii(text: str) -> str:
    if not text.isascii():

        def vulgar(match: re.Match[str]) -> str:  # NFKC would make 3½ of 31/2
            top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
            return rf"\frac{{{top}}}{{{bottom}}}" if top and bottom else match[0]

        text = re.sub("[¼-¾⅐-⅞]", vulgar, text)
        text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
        text = re.sub(
            f"[{''.join(_SUPERSCRIPT)}]+",
            lambda m: "^{" + "".join(map(_SUPERSCRIPT.get, m[0])) + "}",
            text,
        )
        text = unicodedata.normalize("NFKC", "".join(_UNICODE.get(c, c) for c in text))
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    if not text.isprintable():
        text = "".join(
            c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")
        )
    return text


def _unwrap(text: str) -> str:
    r"""`\text{..}` and its like replaced by what they hold, with spaces around it."""
    pairs, cut = closing_braces(text), {}
    for wrapper in _WRAPPER.finditer(text):
        if (close := pairs.get(wrapper.end())) is not None:
            cut[wrapper.start()], cut[close] = wrapper.end() + 1, close + 1
    parts, at = [], 0
    for start, end in sorted(cut.items()):
        parts += [text[at:start], " "]
        at = end
    return "".join(parts) + text[at:]


def _without_unit(text: str) -> str:
    r"""The words behind a quantity dropped: '12 apples', '3 cm^2', '5km/h'; but not '2 million',
    '3x' or '2 sin x'."""
    head = re.match(r"(?:[^A-Za-z\\]|\\[A-Za-z]+|\\.)*", text)[0]  # up to the first bare letter
    tail = text[len(head) :]
    if not tail or not re.search(r"\d|\\pi", head) or re.search(r"[-+*/^_=,<>(:\[{\\]\s*$", head):
        return text
    words = re.findall(r"[A-Za-z]+", tail.lower())
    letters = re.search(
        r"(?<!/)(?<!/ )(?<!per )\b[A-Za-z]\b(?! ?/)", tail
    )  # of an expression, except in m/s
    if (
        letters
        or not _UNIT.fullmatch(tail)
        or not _NO_UNITS.isdisjoint(words)
        or words[0] in _POWERS
    ):
        return text
    spaced = head[-1] == " "
    ok = words[0] in _UNIT_WORDS or (
        spaced and ("/" in tail or (len(words[0]) > 2 and re.search("[aeiou]", words[0])))
    )
    return head.rstrip() if ok else text


def _brace_arguments(text: str) -> str:
    r"""`\frac12`, `\frac1{2}` and `\sqrt 2` with their braces written out."""
    pairs, inserts = closing_braces(text), []
    for command in re.finditer(r"\\(frac|sqrt)(?![A-Za-z])", text):
        at = command.end()
        for _ in range(2 if command[1] == "frac" else 1):
            argument = re.compile(r"\s*(?:(\{)|([0-9A-Za-z]|\\(?!frac|sqrt)[A-Za-z]+))").match(
                text, at
            )
            if not argument:
                break
            if argument[1]:
                at = pairs.get(argument.start(1), len(text)) + 1
            else:
                at = argument.end()
                inserts += [(argument.start(2), "{"), (at, "}")]
    parts, at = [], 0
    for position, brace in inserts:  # ascending, since no argument inserted here holds another
        parts += [text[at:position], brace]
        at = position
    return "".join(parts) + text[at:]


def _separate(text: str) -> str:
    """White space only where it separates two words or two numbers; one space behind the comma of a
    list."""
    text = re.sub(r"\s+", " ", text).strip()
    if re.fullmatch(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?", text):  # 12 345 is one number
        return text.replace(" ", "")
    if ", " in text or re.search(r"[(\[;]|\\\{", text) or "," in _THOUSANDS.sub("", text):
        text = re.sub(r" ?, ?", ", ", text)
    else:
        text = text.replace(",", "")  # every comma groups thousands
    return re.sub(" ", lambda m: _kept(text, m.start()), text.strip())


def _kept(text: str, at: int) -> str:
    left, right = text[at - 1], text[at + 1]
    return (
        " "
        if left == ","
        or (left.isalpha() and right.isalpha())
        or (left.isdigit() and right.isdigit())
        else ""
    )


def _unassign(text: str) -> str:
    r"""`x=5` and `x\in[1, 2]` without their variable, `x=1, x=2` too, but no equation that has
    another variable."""
    name = re.match(r"([A-Za-z]|\\[A-Za-z]+)(?:=|\\in(?![A-Za-z]))", text)
    if not name:
        return text
    for values in ([text], text.split(", ")):
        rest = [v[name.end() :].strip() for v in values if v.startswith(name[0])]
        if len(rest) == len(values) and all(rest) and not any(_has_variable(v) for v in rest):
            return ", ".join(rest)
    return text


def _has_variable(text: str) -> bool:
    bare = re.sub(r"\\(?!theta|alpha|beta|phi)[A-Za-z]+", " ", text)
    return bool(re.search(r"[=<>]|\\[A-Za-z]|[A-DF-Za-df-hj-z]", bare))


def _numbers(text: str) -> str:
    """.50 -> 0.5 wherever it stands; leading zeros and a plus sign gone where the whole is one
    number."""

    def decimal(match: re.Match[str]) -> str:
        whole, part = match[1] or "0", match[2].rstrip("0")
        return f"{whole}.{part}" if part else whole

    text = _DECIMAL.sub(decimal, text)
    text = re.sub(r"^\+(?=[\d\\])", "", text)
    if number := re.fullmatch(r"(-?)0*(\d+(?:\.\d+)?)(%?)", text):
        sign = number[1] if number[2].strip("0.") else ""
        return sign + number[2] + number[3]
    return text


SYMBOLIC_CHARS = (
    300  # a longer answer is not given to math-verify; answers of the MATH benchmark stay below 120
)
NUMBER_CHARS = (
    400  # a longer number is compared as a string, which is exact for integers and decimals anyway
)

__all__ = ["canonical", "extract_boxed", "same_answer", "warm_up"]
warm_up = sympy_worker.warm_up
_log = logging.getLogger(__name__)

# --- extraction -----------------------------------------------------------------------------------

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_UNBRACED = re.compile(  # a number, or what stands before the end of the formula on the same line
    r"[-+]?\d(?:[\d,.]*\d)?%?(?![\w^+*/\\=(-])|(?:[^$\n\\]|\\[^)\]\n]){1,300}+(?=\$|\\\)|\\\])"
)


def extract_boxed(text: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}` or `\fbox{...}` of `text`, as written; also
    `\boxed 5`.

    None if there is no box, none was closed, or the last one holds nothing (`\boxed{}`,
    `\boxed{\,}`, `\boxed{~}`). A box within a box belongs to the outer one. Takes time linear in
    the length of any text.
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


# --- sameness -------------------------------------------------------------------------------------

_PLAIN = r"\d+(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?P<minus>-?)(?:(?P<whole>\d+)(?: (?=\d+/)|(?=\\frac)))?"
    rf"(?:\\frac\{{(?P<top>-?{_PLAIN})\}}\{{(?P<bottom>-?{_PLAIN})\}}"
    rf"|(?P<over>{_PLAIN})/(?P<under>{_PLAIN})|(?P<fixed>\d+\.\d*)\\overline\{{(?P<period>\d+)\}}|(?P<plain>{_PLAIN}))"
    r"(?:[eE](?P<e>[-+]?\d{1,3})|(?:\\times|\\cdot|\*|x)10\^(?:\{(?P<ten>-?\d{1,3})\}|(?P<digit>\d)))?"
    r"(?:(?P<scale>dozen|hundred|thousand|million|billion|trillion)(?: [a-z]+)*)?(?P<percent>%?)"
)
_SCALE = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_FUNCTIONS = {"sqrt", "frac", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan"}
_PAIR = re.compile(r"\([^()\[\]]+,[^()\[\]]+\)")  # or a triple, ...
_LIST = re.compile(r"(?!\\\{)[^()\[\]]+,[^()\[\]]+")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")


@lru_cache(maxsize=4096)
def _number(text: str) -> tuple[Fraction, bool, int] | None:
    """(value of what stands before the percent sign, is it a percentage, decimal places) of a
    canonical string."""
    m = _NUMBER.fullmatch(text) if len(text) <= NUMBER_CHARS else None
    if m is None:
        return None
    try:
        if m["period"]:
            places = len(m["fixed"].partition(".")[2])
            value = Fraction(m["fixed"] + "0") + Fraction(
                int(m["period"]), 10**places * (10 ** len(m["period"]) - 1)
            )
        else:
            value = Fraction(m["top"] or m["over"] or m["plain"]) / Fraction(
                m["bottom"] or m["under"] or 1
            )
    except ZeroDivisionError:
        return None
    value = (value + int(m["whole"] or 0)) * Fraction(10) ** int(
        m["e"] or m["ten"] or m["digit"] or 0
    )
    value *= (-1 if m["minus"] else 1) * _SCALE.get(m["scale"], 1)
    return value, bool(m["percent"]), len((m["plain"] or "").partition(".")[2])


def _same_number(left: tuple[Fraction, bool, int], right: tuple[Fraction, bool, int]) -> bool:
    (a, a_percent, a_places), (b, b_percent, b_places) = left, right
    if a_percent and not b_percent and _same_number((a / 100, False, a_places + 2), right):
        return True
    if b_percent and not a_percent and _same_number(left, (b / 100, False, b_places + 2)):
        return True
    return a == b or sympy_worker.stands_for(abs(a - b), max(abs(a), abs(b)), (a_places, b_places))


def _is_word(text: str) -> bool:
    """A name or a word, which math-verify would read as a product of letters, equal to all its
    anagrams."""
    words = text.lower().split()
    return (
        bool(_WORDS.fullmatch(text))
        and words[0] not in _FUNCTIONS
        and (
            any(len(w) > 3 and re.search("[aeiouy]", w) for w in words)
            or text.lower() in {"yes", "no", "odd", "all"}
        )
    )


@lru_cache(maxsize=16384)
def _equivalent(left: str, right: str) -> bool:
    """Of two different canonical strings. Raises math_worker.Unavailable, so that this is not
    remembered."""
    numbers = _number(left), _number(right)
    if all(numbers):
        return _same_number(*numbers)
    if _is_word(left) or _is_word(right):
        return left.casefold() == right.casefold()
    if all(
        re.fullmatch(r"-?\w+_(?:\{\d+\}|\d)", text) for text in (left, right)
    ):  # math-verify forgets the base
        return False
    if any(
        len(t) > SYMBOLIC_CHARS or re.search(r"(?<![_^])\d \d", t)
        for t in (left, right)
        if not _number(t)
    ):
        return False  # 1 2 is no number; math-verify would add the two
    if _PAIR.fullmatch(left) and _LIST.fullmatch(
        right
    ):  # else the set {2, 1} would be the pair (1, 2)
        right = f"({right})"
    elif _PAIR.fullmatch(right) and _LIST.fullmatch(left):
        left = f"({left})"
    return sympy_worker.compare(left.replace("%", r"\%"), right.replace("%", r"\%"))


def same_answer(a: str, b: str) -> bool:
    """Are the two answers equivalent? Never raises; symmetric; from any thread; remembers what it
    compared.

    Equal canonical strings are. Numbers and simple fractions are compared exactly, everything else
    by math-verify in a process of its own. What is too long, hangs or breaks the parser is simply
    not the same.
    """
    if a == b:
        return True
    left, right = sorted((canonical(a), canonical(b)))
    if left == right or not left:  # sorted: only the left one can be empty
        return left == right != ""
    try:
        return _equivalent(left, right)
    except sympy_worker.Unavailable:
        _log.warning(
            "No process for symbolic comparison could be started: only equal numbers and strings "
            "count."
        )
        return False
