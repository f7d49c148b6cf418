r"""The one place where answers are compared: extract, canonicalise, `same_answer`.

Conventions, chosen to follow math-verify and the graders of the MATH benchmark:

- Units, currencies and degree signs are dropped: `5 \text{ cm}`, `\$5`, `5 (cm)` and `5` are one
  answer (nothing is converted: 500 cm is not 5 m, and 5 cm is the same as 5 m). Two quantities
  that belong together keep theirs: 3 hours 20 minutes. Inside a function degrees are degrees.
- `50\%` is the same as 50 (the sign read as a unit) and as 0.5 (its value), yet 50 is not 0.5.
- A bare list is unordered (`1,2` is `2,1`), a tuple or interval is ordered, and a list beside a
  tuple is read in its order; `1,234` is a number, `(1,234)` a pair.
- The variable of a solution is dropped: `x=5` is `5` (and so `y=5`); `y=2x+3` stays an equation.
- Conditions on one variable are the set that they describe: `x<2 \text{ or } x>5`, `\{x : x<2\}`.
- A choice with its text is its letter, and where the text is a number, that: `E: 12` is `E`.
  Where algebra looks alike, `E - 12`, it is a choice only beside the letter alone.
- `3:10` is a ratio, 6:20 and 3/10; with "PM", "o'clock" or minutes as in 3:05 it is a time of day.
- Residues are the same where value and modulus are: `8 (mod 11)`, `8 \bmod 11`; 19 is another.
- Numbers are compared exactly. Only a decimal with six digits behind the point may stand for what
  it rounds: 0.333333 is 1/3, 0.33 is not.

So sameness is reflexive and symmetric, but a percentage, a list without parentheses, a choice with
its text or a rounded decimal can be the same as two answers that differ from each other.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from . import sympy_worker

CANONICAL_CHARS = 10_000  # a longer answer is left as it is
SYMBOLIC_CHARS = 300  # a longer answer is not given to math-verify; those of MATH stay below 120
NUMBER_CHARS = 400  # a longer number is compared as a string, which is exact for integers anyway

__all__ = ["canonical", "extract_boxed", "same_answer", "warm_up"]
warm_up = sympy_worker.warm_up
_log = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------- extraction

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_UNBRACED = re.compile(  # a number, or what stands before the end of the formula on the same line
    r"[-+]?\d(?:[\d,.]*\d)?%?(?![\w^+*/\\=(-])|(?:[^$\n\\]|\\[^)\]\n]){1,300}+(?=\$|\\\)|\\\])"
)


def extract_boxed(text: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}` or `\fbox{...}` of `text`; also `\boxed 5`.

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


def closing_braces(text: str) -> dict[int, int]:
    r"""Position of every closed `{` -> position of its `}`. `\{` and `\}` are no braces."""
    return _closing(text, "{", "}")


def _closing(text: str, opens: str, closes: str) -> dict[int, int]:
    pairs, opened = {}, []
    if opens not in text:
        return pairs
    for token in re.finditer(rf"\\.|\{opens}|\{closes}", text, re.DOTALL):
        if token[0] == opens:
            opened.append(token.start())
        elif token[0] == closes and opened:
            pairs[opened.pop()] = token.start()
    return pairs


# ------------------------------------------------------------------------------------ notation

_UNICODE = {
    **dict.fromkeys("−–‐‑", "-"),
    **dict.fromkeys("⋅·∙", r"\cdot "),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("°º", r"^\circ "),
    **dict.fromkeys("€£¥₹", " "),
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("′’‘", "'"),
    **{"×": r"\times ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi "},
    **{"θ": r"\theta ", "√": r"\sqrt ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"∅": r"\emptyset ", "≈": r"\approx ", "ℝ": r"\mathbb{R}", "∣": "|"},
    "≡": r"\equiv ",
}
_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_BLANK = (
    r"\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle \quad "
    r"\qquad \! \, \; \: \( \) \[ \] \$ \euro \pounds \textdollar \small \large \Large \LARGE "
    r"\huge \Huge \bf \rm \it \middle \checkmark \mathopen \mathclose"
).split()
_COMMANDS = {  # what a command becomes; the rest stay
    **dict.fromkeys([*_BLANK, "\\ ", "\\\n"], " "),
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac "),
    **dict.fromkeys((r"\leq", r"\leqslant"), r"\le "),
    **dict.fromkeys((r"\geq", r"\geqslant"), r"\ge "),
    **dict.fromkeys((r"\lvert", r"\rvert", r"\vert", r"\mid"), "|"),
    **dict.fromkeys((r"\approxeq", r"\simeq"), r"\approx "),
    **dict.fromkeys((r"\degree", r"\degrees"), r"^\circ "),
    **{r"\%": "%", r"\neq": r"\ne ", r"\lt": "<", r"\gt": ">", r"\div": "/", r"\colon": ":"},
    **{r"\lbrace": r"\{", r"\rbrace": r"\}", r"\varnothing": r"\emptyset ", r"\infin": r"\infty "},
    **{r"\ldots": r"\dots ", r"\R": r"\mathbb{R}", r"\vee": r"\lor ", r"\wedge": r"\land "},
    **{r"\imath": "i ", r"\backslash": r"\setminus ", r"\lbrack": "[", r"\rbrack": "]"},
}
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal)?|math(?:rm|bf|it|sf)|[mh]box|boxed|fbox|operatorname"
    r"|emph|underline|boldsymbol|bm|ensuremath"
    r"|(?:textcolor|colorbox|fcolorbox\s*\{[^{}]*\})\s*\{[^{}]*\})\s*(?=\{)"
)
_DECORATION = re.compile(r"\\(?:color|tag|label|[hv]space)\*?\s*\{[^{}]*\}")
_EMPHASIS = re.compile(r"^(\*{1,3}|__?|`+)(?=[^\s*_])([^*`_]{1,300}?)(?<=\S)\1(?![\w({*])")
_TAG = re.compile(
    r"<(/?)(?:(su[bp])|(?:b|i|u|em|strong|span|code|tt|var|mark|small|big|font)"
    r"|(p|div|center|br|h[1-6]))(?: [^<>]{0,200})?/?>"
)
_LEAD = re.compile(
    r"^(?:(?:the )?(?:final )?answer(?: is:?|:) ?|(?:option|choice) (?=\(?[A-J]\b)"
    r"|(?:about|around|approximately|approx\.?|roughly) (?=[-\d.\\$])"
    r"|\\(?:approx|therefore|Rightarrow|implies)(?![a-z]) ?|= ?)(?=.)",
    re.IGNORECASE,
)
_TRIG = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z])) ?(?:[CF]\b)?")
_NAMED = re.compile(  # a function by its plain name, with its argument behind it
    r"(?<![A-Za-z\\])(?:(exp|ln|log|(?:sin|cos|tan|cot|sec|csc)h?|arc(?:sin|cos|tan))"
    r"|a(sin|cos|tan))"
    r"(?= ?(?:[(^_{\\|]|[A-Za-z](?![A-Za-z])|\d))|(?<![A-Za-z\\])(max|min|gcd|lcm)(?= ?\()"
)
_CALL = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt|abs) ?(?=\()")
_CALLED = {"sqrt": (r"\sqrt{", "}"), "cbrt": (r"\sqrt[3]{", "}"), "abs": ("|", "|")}
_TIME = re.compile(
    r"(?:at )?(?:0?(\d{1,2})(?::([0-5]\d))? ?)?(?:([ap])\.? ?m\b\.?"
    r"|in the (morning|afternoon|evening)"
    r"|(noon|midnight)|(o'clock))?",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"(?:\(([A-J])\)(?:[.:](?= ))?|([A-Ja-j]\)|[A-J][.:](?= ))) ?(?=[^ ])")
_OPTION = re.compile(  # a choice beside its letter; not A - B or A - 2x
    r"(?=\([A-Ja-j]\) |[A-J] [-–—] |[A-Ja-j][.:] |[A-J]\.\d)\(?([A-Ja-j])"
    r"(?!.*[^A-Za-z\\](?:[A-Za-z]|[A-Z]{2,})(?![A-Za-z]))"
)
_OPEN = re.compile(  # an interval that is open to one side or both, in the French notation
    r"(?:(?<=\\in)|(?<=\\cup)|(?<=\\cap)|(?<=\\setminus)|(?<![^ =])) ?"
    r"(?!\[[^\[\]]*\])([\[\]])([^\[\],;]+[,;][^\[\]]+)([\[\]])"
    r"(?= ?(?:$|[.,;]$|\\(?:cup|cap|setminus)))"
)
_MODULO = r"(?:\\[pb]?mod|\\pod|(?<![A-Za-z\\])mod(?:ulo)?)(?![A-Za-z]) ?"
_RESIDUE = re.compile(
    rf" ?(?:\( ?{_MODULO}([^()\\]+?) ?\)|{_MODULO}(?:\{{([^{{}}\\]+)\}}|(\w+(?:\^\w+)?)))"
)


_BARE_FRACTION = re.compile(r"\\frac ?(\\(?!frac|sqrt)[a-z]+|\w) ?(\\(?!frac|sqrt)[a-z]+|\w)")


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    first = text
    for _ in range(8):
        before, text = text, _normalise(text)
        if text == before:
            return text
    return " ".join(first.split())  # only nonsense does not settle


def canonical(answer: str) -> str:
    r"""A normal form of the string: answers written differently in cheap ways become equal strings.

    White space, `$`, `\left`, `\text{..}`, units, currency, thousands separators, degrees, a
    leading `x=`, final stops, `\dfrac`, `\frac12`, 0.50 against .5, unicode signs. Idempotent.
    Above 10,000 characters only white space is touched. `""` if nothing is left.
    """
    text = " ".join(answer.split())
    return _canonical(text) if len(text) <= CANONICAL_CHARS else text


def _normalise(text: str) -> str:
    text = _plain(_grouped(_ascii(text)).replace("~", " ").rstrip("\\ "))  # `~` is a blank
    if choice := _CHOICE.match(text):
        return f"({(choice[1] or choice[2][0]).upper()}){_normalise(text[choice.end() :])}"
    if "[" in text or "]" in text:
        text = _OPEN.sub(_interval, re.sub(r"\{([\[\]])\}", r"\1", text))
    if "mod" in text or r"\pod" in text:
        text = _RESIDUE.sub(_residue, text)
    text = _words(text)
    text = re.sub(r"^(?:US|USD|EUR|Rs\.?) ?(?=[\d.])", "", text)
    text = re.sub(r" ?(?:percent|per cent|pct)$", "%", text)
    text = _without_unit(text.rstrip(" .,;:")).rstrip(" .,;:")
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text.replace("**", "^"))
    text = re.sub(r"\^ ?(-\d+)", r"^{\1}", text)
    text = re.sub(r"([\^_])\s*\{\s*(\w)\s*\}(?![\w.])", r"\1\2", text)
    text = _unassign(_separate(text))
    if re.fullmatch(r"\([A-Za-z]\)", text):  # (C), as in multiple choice
        text = text[1]
    return _numbers(text)


def _ascii(text: str) -> str:
    if not text.isascii():

        def vulgar(match: re.Match[str]) -> str:  # NFKC would make 3½ of 31/2
            top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
            return rf"\frac{{{top}}}{{{bottom}}}" if top and bottom else match[0]

        def raised(match: re.Match[str]) -> str:
            return "^{" + "".join(map(_SUPERSCRIPT.get, match[0])) + "}"

        text = re.sub("[¼-¾⅐-⅞]", vulgar, text)
        text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
        text = re.sub(f"[{''.join(_SUPERSCRIPT)}]+", raised, text)
        text = unicodedata.normalize("NFKC", "".join(_UNICODE.get(c, c) for c in text))
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    if not text.isprintable():
        text = "".join(
            c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")
        )
    return text


def _plain(text: str) -> str:
    r"""Without what is there for the eye: `\left`, `\text{..}`, `**5**`, `<b>5</b>`, "about"."""
    if "</" in text or text[-1:] == ">":
        text = _untagged(text)
    text = _EMPHASIS.sub(r"\2", _DECORATION.sub(" ", text).strip(), count=1)
    text = re.sub(r"\\(?:[A-Za-z]+|.)", lambda m: _COMMANDS.get(m[0], m[0]), text, flags=re.DOTALL)
    text = " ".join(_unwrap(_SHORT_UNIT.sub("", text)).replace("$", " ").split())
    text = _LEAD.sub("", text, count=1)
    name, sign, value = text.partition(r"\approx ")
    if sign:  # the exact side of the two, unless it is but a name
        text = value if re.fullmatch(r"[A-Za-z] ?|", name) else name
    return text.strip('" ')


def _untagged(text: str) -> str:
    """Without HTML tags; `a<b>c`, where no tag is closed, is a comparison."""

    def plain(tag: re.Match[str]) -> str:
        if tag[2]:
            return "}" if tag[1] else {"sub": "_{", "sup": "^{"}[tag[2]]
        return " " if tag[3] else ""

    return _TAG.sub(plain, text) if "</" in text else re.sub(r"<br ?/?>$", "", text)


def _interval(match: re.Match[str]) -> str:
    """(2,5) for ]2,5[; beside a semicolon a comma is a decimal point."""
    left, ends, right = match.groups()
    if ";" in ends:
        ends = ends.replace(",", ".").replace(";", ",")
    return ("(" if left == "]" else left) + ends + (")" if right == "[" else right)


def _residue(match: re.Match[str]) -> str:
    return rf"\pmod{{{(match[1] or match[2] or match[3]).strip('{} ')}}}"


def _unwrap(text: str) -> str:
    r"""`\text{..}` and its like replaced by what they hold, with spaces around it."""
    pairs, cut = closing_braces(text), {}
    for wrapper in _WRAPPER.finditer(text):
        if (close := pairs.get(wrapper.end())) is not None:
            cut[wrapper.start()], cut[close] = (wrapper.end() + 1, " "), (close + 1, " ")
    return _replaced(text, cut)


def _replaced(text: str, parts: dict[int, tuple[int, str]]) -> str:
    """`text` with each part, start -> (end, what to write), written anew; no two overlap."""
    out, at = [], 0
    for start, (end, new) in sorted(parts.items()):
        out += [text[at:start], new]
        at = end
    return "".join(out) + text[at:]


def _clock(text: str) -> str:
    """A time of day on the clock of 24 hours, 15:30 o'clock for 3:30 p.m.; "" for other text.

    7:05 without a word, which may be a ratio, stays 7:05.
    """
    time = _TIME.fullmatch(text)
    if not time or not any(time.groups()[1:]):
        return ""
    hour, minute = int(time[1] or 12), time[2] or "00"
    half = (time[3] or time[4] or time[5] or "").lower()
    if half and 1 <= hour <= 12:
        hour = hour % 12 + 12 * (half in ("p", "afternoon", "evening", "noon"))
    return f"{hour}:{minute}" + " o'clock" * (any(time.groups()[2:]) or text[:1] in "aA")


def _words(text: str) -> str:
    """English and the plain names of functions and constants as what math-verify reads."""
    if time := _clock(text):
        return time
    text = re.sub(r"\ball real(?:s| numbers)\b", r"\\mathbb{R} ", text)
    text = re.sub(r"(?<![A-Za-z\\])(?:infinity|inf)(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(r"(?<![A-Za-z\\])log(2|10) ?(?=\()", r"\\log_{\1}", text)
    text = re.sub(r"(?<=[\d}]) ?degrees?\b", r"^\\circ ", text)
    text = re.sub(r"(\\mathbb\{R\}) ?- ?(?=\\\{)", r"\1\\setminus ", text)
    text = _NAMED.sub(lambda m: "\\" + (m[1] or m[3] or f"arc{m[2]}"), text)
    pairs, cut = _closing(text, "(", ")"), {}
    for call in _CALL.finditer(text):
        if (close := pairs.get(call.end())) is not None:
            opens, closes = _CALLED[call[1]]
            cut[call.start()], cut[close] = (call.end() + 1, opens), (close + 1, closes)
    text = _replaced(text, cut)
    if not _TRIG.search(text):
        text = _DEGREES.sub(" ", text)
    text = _quantities(text)
    if sympy_worker.RELATION.search(text):
        text = re.sub(r",? or ", r"\\lor ", text)
        return re.sub(r",? and ", r"\\land ", text)
    return re.sub(r",? (?:and|or) ", ", ", text)


_QUANTITY = re.compile(r"(\d[\d,]*(?:\.\d+)?) ?([A-Za-z]{2,}|[hms](?![A-Za-z]))\.?")
_APART = re.compile(r"(?:,? and |, | |)(?=\d)")
_ONE = {"hr": "hour", "h": "hour", "min": "minute", "m": "minute", "sec": "second", "s": "second"}
_ONE |= {"feet": "foot", "ft": "foot", "inches": "inch", "in": "inch", "lb": "pound"}


def _quantities(text: str) -> str:
    """Two or more quantities that are one, as 3hour20minute; any other text as it is."""
    found, at = [], 0
    while quantity := _QUANTITY.match(text, at):
        number, unit = quantity[1].replace(",", ""), quantity[2].lower()
        unit = _ONE.get(unit) or unit.removesuffix("s")
        found.append(number + _ONE.get(unit, unit))
        at = quantity.end()
        if at == len(text) or not (apart := _APART.match(text, at)):
            break
        at = apart.end()
    whole = len(found) > 1 and at == len(text)
    return "".join(found) if whole and _NO_UNITS.isdisjoint(re.findall("[a-z]+", text)) else text


_UNIT_WORDS = set(
    "cm mm km ft in mi lb lbs oz kg mg ml hr hrs min mins sec secs mph kmh kph sq deg rad gm "
    "cc pts yd yds usd eur gbp kwh hz".split()
)
_NO_UNITS = set(
    "and or to mod million billion trillion thousand hundred dozen am pm pi sin cos tan cot "
    "csc log exp sqrt frac arcsin arccos arctan sinh cosh tanh det gcd lcm max lim base "
    "infinity theta alpha beta gamma delta lambda sigma omega factorial plus minus negative "
    "below half halves third thirds fourths fifth fifths sixths eighths tenth tenths hundredths "
    "thousandths".split()
)
_POWERS = {"squared", "cubed"}  # behind a unit they belong to it, behind a number not
_UNIT = re.compile(r"(?:[A-Za-z][A-Za-z.'-]*+|/|\^\s*(?:\{\s*-?\d\s*\}|-?\d)|\s)+")
_SHORT_UNIT = re.compile(
    r"(?<=[\d}\s])\\(?:text|mbox|mathrm|textrm)\s*\{\s*"
    r"(?:[A-DF-Za-df-hj-z]|[A-Za-z]+/[A-Za-z]+)\s*\}\s*(?:\^\s*(?:\d|\{\s*-?\d\s*\}))?[\s.$]*$"
)
_IN_BRACKETS = re.compile(r"(?<=[\w}%]) ?[(\[] ?([A-Za-z][A-Za-z\d^ .'/-]+?) ?[)\]]$")


def _without_unit(text: str) -> str:
    r"""The words behind a quantity dropped: '12 apples', '3 cm^2', '5km/h', '9 (apples)'.

    Not those of '2 million', '3x' or '2 sin x'.
    """
    bare = _IN_BRACKETS.sub(r" \1", text)
    head = re.match(r"(?:[^A-Za-z\\]|\\[A-Za-z]+|\\.)*", bare)[0]  # up to the first bare letter
    tail = bare[len(head) :]
    if not tail or not re.search(r"\d|\\pi", head) or re.search(r"[-+*/^_=,<>(:\[{\\]\s*$", head):
        return text
    words = re.findall(r"[A-Za-z]+", tail.lower())
    # single letters are of an expression, except in m/s
    letters = re.search(r"(?<!/)(?<!/ )(?<!per )\b[A-Za-z]\b(?! ?/)", tail)
    if (
        letters
        or not _UNIT.fullmatch(tail)
        or not _NO_UNITS.isdisjoint(words)
        or words[0] in _POWERS
    ):
        return text
    long = len(words[0]) > 2 and re.search("[aeiou]", words[0])
    ok = words[0] in _UNIT_WORDS or (head[-1] == " " and ("/" in tail or long))
    return head.rstrip() if ok else text


_GROUPS = re.compile(  # one number whose digits stand in groups, as it is written in some country
    r"([-+]?\d{1,3}(?: \d{3})+)(?:[.,](\d+))?|([-+]?\d{1,3}(?:\.\d{3})+),(\d+)"
    r"|([-+]?\d{1,3}(?:\.\d{3}){2,})|([-+]?\d{1,3}(?:['_]\d{3})+)(?:\.(\d+))?"
    r"|([-+]?\d{1,2}(?:,\d{2})+,\d{3})(?:\.(\d+))?"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def _grouped(text: str) -> str:
    r"""Thousands without what LaTeX sets between them: `10,\!080`, `10{,}080`, `10\,080`; `3{,}14`
    with a point."""
    text = re.sub(r"(?<=\d)(?:,\\!|\\!,|\{,\}|\\,)\s*(?=\d{3}(?!\d)|\d\d\{,\})", "", text)
    return re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)


def _separate(text: str) -> str:
    """White space only where it separates two words or numbers; one behind the comma of a list."""
    text = re.sub(r"\s+", " ", text).strip()
    if groups := _GROUPS.fullmatch(text.rstrip("%")):
        whole, *part = filter(None, groups.groups())
        digits = ".".join([re.sub(r"[ .,'_]", "", whole), *part])
        return digits + "%" * text.endswith("%")
    if ", " in text or re.search(r"[(\[;]|\\\{", text) or "," in _THOUSANDS.sub("", text):
        text = re.sub(r" ?, ?", ", ", text)
    else:
        text = text.replace(",", "")  # every comma groups thousands
    return re.sub(" ", lambda m: _kept(text, m.start()), text.strip())


def _kept(text: str, at: int) -> str:
    left, right = text[at - 1], text[at + 1]
    words, numbers = left.isalpha() and right.isalpha(), left.isdigit() and right.isdigit()
    return " " if left == "," or words or numbers else ""


def _unassign(text: str) -> str:
    r"""`x=5` and `x\in[1, 2]` without their variable, but no equation that has another variable."""
    name = re.match(r"([A-Za-z]|\\[A-Za-z]+)(?:=|\\(?:in|equiv)(?![A-Za-z]))", text)
    if not name:
        return text
    for values in ([text], text.split(", ")):  # x=1, x=2, too
        rest = [v[name.end() :].strip() for v in values if v.startswith(name[0])]
        if len(rest) == len(values) and all(rest) and not any(map(_has_variable, rest)):
            return ", ".join(rest)
    return text


def _has_variable(text: str) -> bool:
    bare = re.sub(r"\\(?!theta|alpha|beta|phi)[A-Za-z]+", " ", text)
    return bool(re.search(r"[=<>]|\\[A-Za-z]|[A-DF-Za-df-hj-z]", bare))


def _numbers(text: str) -> str:
    """.50 -> 0.5; leading zeros and a plus sign gone where the whole is one number."""
    text = re.sub(r"^\+(?=[\d\\.])", "", text)
    if number := re.fullmatch(r"(-?)0*(\d*)(?:\.(\d*?)0*)?(%?)", text):
        sign, whole, part, percent = (g or "" for g in number.groups())
        if whole or "0" in text or part:
            digits = (whole or "0") + ("." + part if part else "")
            return ("" if digits == "0" else sign) + digits + percent
    return text


# ------------------------------------------------------------------------------------ sameness

_PLAIN = r"\d+(?:\.\d+)?"
_SCALE = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_SCALE |= {"billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    r"(?P<minus>-?)(?:(?P<whole>\d+)(?: (?=\d+/)|(?=\\frac)))?"
    rf"(?:\\frac\{{(?P<top>-?{_PLAIN})\}}\{{(?P<bottom>-?{_PLAIN})\}}"
    rf"|(?!0+:)(?P<over>{_PLAIN})(?:/|:(?!0\d))(?P<under>{_PLAIN})"
    rf"|(?P<fixed>\d+\.\d*)\\overline\{{(?P<period>\d+)\}}|(?P<plain>{_PLAIN}))"
    r"(?:[eE](?P<e>[-+]?\d{1,3})"
    r"|(?:\\times|\\cdot|\*|x)10\^(?:\{(?P<ten>-?\d{1,3})\}|(?P<digit>\d)))?"
    rf"(?:(?P<scale>{'|'.join(_SCALE)})(?: [a-z]+)*)?(?P<percent>%?)"
)
_FUNCTIONS = {"sqrt", "frac", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan"}
_PAIR = re.compile(r"\([^()\[\]]+,[^()\[\]]+\)")  # or a triple, ...
_LIST = re.compile(r"(?!\\\{)[^()\[\]]+,[^()\[\]]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z' -]*")
# what math-verify would read as something else: the base of a number, quantities as products
_LITERAL = re.compile(r"-?\w+_(?:\{\d+\}|\d)|(?:[\d.]+[a-z]{3,}){2,}")
_OCLOCK = "o'clock"
_MINUTES = re.compile(r"\d{1,2}:0\d|0:\d\d")  # of a time of day; a ratio has no such zero

Number = tuple[Fraction, bool, int]


@lru_cache(maxsize=4096)
def _number(text: str) -> Number | None:
    """(value before the percent sign, is it a percentage, decimal places) of a canonical string."""
    m = _NUMBER.fullmatch(text) if len(text) <= NUMBER_CHARS else None
    if m is None:
        return None
    try:
        if m["period"]:
            places = len(m["fixed"].partition(".")[2])
            nines = 10**places * (10 ** len(m["period"]) - 1)
            value = Fraction(m["fixed"] + "0") + Fraction(int(m["period"]), nines)
        else:
            top = Fraction(m["top"] or m["over"] or m["plain"])
            value = top / Fraction(m["bottom"] or m["under"] or 1)
    except ZeroDivisionError:
        return None
    value += int(m["whole"] or 0)
    value *= Fraction(10) ** int(m["e"] or m["ten"] or m["digit"] or 0)
    value *= (-1 if m["minus"] else 1) * _SCALE.get(m["scale"], 1)
    return value, bool(m["percent"]), len((m["plain"] or "").partition(".")[2])


def _same_number(left: Number, right: Number) -> bool:
    (a, a_percent, a_places), (b, b_percent, b_places) = left, right
    if a_percent and not b_percent and _same_number((a / 100, False, a_places + 2), right):
        return True
    if b_percent and not a_percent and _same_number(left, (b / 100, False, b_places + 2)):
        return True
    size = max(abs(a), abs(b))
    return a == b or sympy_worker.stands_for(abs(a - b), size, (a_places, b_places))


def _is_word(text: str) -> bool:
    """A name or a word, which math-verify would read as a product of letters."""
    words = text.lower().split()
    return (
        bool(_NAME.fullmatch(text))
        and words[0] not in _FUNCTIONS
        and (
            any(len(w) > 3 and re.search("[aeiouy]", w) for w in words)
            or text.lower() in {"yes", "no", "odd", "all"}
        )
    )


def _same_choice(choice: re.Match[str], other: str) -> bool:
    """Of a choice with its text, (E)12, and another answer: a letter, such a choice, a number."""
    text, another = choice.string[choice.end() :], _CHOICE.match(other)
    if another:
        if choice[1] != another[1]:
            return False
        other = other[another.end() :]
    elif len(other) == 1 and other.isalpha():
        return other.upper() == choice[1]
    elif not _number(text):
        return False
    return _same_canonical(text, other)


def _same_residue(left: str, right: str) -> bool:
    """Of two canonical strings of which one has a modulus at least."""
    sides = [text.removesuffix("}").split(r"\pmod{") for text in (left, right)]
    if any(len(side) != 2 or "}" in side[1] for side in sides):
        return False
    return all(map(_same_canonical, *sides))


def _same_canonical(left: str, right: str) -> bool:
    return left == right or _equivalent(*sorted((left, right)))


def _is_option(answer: str, letter: str) -> bool:
    """Is the answer the choice of this letter with its text, and not algebra?"""
    if len(letter) != 1 or letter not in "ABCDEFGHIJabcdefghij":
        return False
    option = _OPTION.match(" ".join(_unwrap(answer).split()))
    return bool(option) and option[1].upper() == letter.upper()


@lru_cache(maxsize=16384)
def _equivalent(left: str, right: str) -> bool:
    """Of two different canonical strings. Raises sympy_worker.Unavailable: not remembered."""
    numbers = _number(left), _number(right)
    if all(numbers):
        return _same_number(*numbers)
    if choice := _CHOICE.match(left) or _CHOICE.match(right):
        return _same_choice(choice, left if choice.string == right else right)
    if r"\pmod{" in left + right:
        return _same_residue(left, right)
    if left.endswith(_OCLOCK) or right.endswith(_OCLOCK):
        return left.removesuffix(_OCLOCK) == right.removesuffix(_OCLOCK)
    if _MINUTES.fullmatch(left) or _MINUTES.fullmatch(right):
        return False
    if _is_word(left) or _is_word(right):
        return left.casefold() == right.casefold()
    if all(map(_LITERAL.fullmatch, (left, right))):
        return False
    texts = [text for text in (left, right) if not _number(text)]
    if any(len(t) > SYMBOLIC_CHARS or re.search(r"(?<![_^])\d \d", t) for t in texts):
        return False  # 1 2 is no number; math-verify would add the two
    if any(map(sympy_worker.RELATION.search, (left, right))):
        pass
    elif _PAIR.fullmatch(left) and _LIST.fullmatch(right):  # else {2, 1} would be the pair (1, 2)
        right = f"({right})"
    elif _PAIR.fullmatch(right) and _LIST.fullmatch(left):
        left = f"({left})"
    return sympy_worker.compare(left.replace("%", r"\%"), right.replace("%", r"\%"))


def same_answer(a: str, b: str) -> bool:
    """Are the two answers equivalent? Never raises; symmetric; from any thread; remembers.

    Equal canonical strings are. Numbers and simple fractions are compared exactly, everything else
    by math-verify in a process of its own. What is too long, hangs or breaks the parser is simply
    not the same.
    """
    if a == b:
        return True
    left, right = canonical(a), canonical(b)
    if _is_option(a, right) or _is_option(b, left):
        return True
    left, right = sorted((left, right))
    if left == right or not left:  # sorted: only the left one can be empty
        return left == right != ""
    try:
        return _equivalent(left, right)
    except sympy_worker.Unavailable:
        _log.warning(
            "No process for symbolic comparison could be started: "
            "only equal numbers and strings count."
        )
        return False
