"""The normal form of an answer's notation: what is written differently in cheap ways becomes the same string.

Strings only; what the notation means is compared in `answers.py`. Every step takes time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CANONICAL_CHARS = 10_000  # a longer answer is left as it is
_UNICODE = {"−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
            "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi ",
            "θ": r"\theta ", "√": r"\sqrt ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
            "∅": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ", "€": " ", "£": " ",
            "¥": " ", "₹": " ", "′": "'", "’": "'"}
_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_COMMANDS = {  # what a command becomes; the rest stay
    **dict.fromkeys(r"\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle \degree"
                    r" \degrees \quad \qquad \! \, \; \: \( \) \[ \] \$ \euro \pounds \textdollar".split(), " "),
    "\\ ": " ", "\\\n": " ", **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac "), r"\%": "%",
    r"\leq": r"\le ", r"\leqslant": r"\le ", r"\geq": r"\ge ", r"\geqslant": r"\ge ", r"\neq": r"\ne ",
    r"\lt": "<", r"\gt": ">", r"\div": "/", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\varnothing": r"\emptyset ",
    r"\infin": r"\infty ", r"\colon": ":", r"\ldots": r"\dots "}
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|"
                      r"boxed|fbox|operatorname)\s*(?=\{)")
_GROUPED = re.compile(r"(?<=\d)(?:,\\!|\\!,|\{,\}|\\,)\s*(?=\d{3}(?!\d))")
_UNIT_WORDS = set(
    "cm mm km ft in mi lb lbs oz kg mg ml hr hrs min mins sec secs mph kmh kph sq deg rad gm cc pts yd yds usd eur gbp"
    .split())
_NO_UNITS = set(
    "and or to mod million billion trillion thousand hundred dozen am pm pi sin cos tan cot csc log exp sqrt frac "
    "arcsin arccos arctan sinh cosh tanh det gcd lcm max lim base infinity theta alpha beta gamma delta lambda sigma "
    "omega factorial plus minus negative below half halves third thirds fourths fifth "
    "fifths sixths eighths tenth tenths hundredths thousandths".split())
_POWERS = {"squared", "cubed"}  # behind a unit they belong to it, behind a number not
_UNIT = re.compile(r"(?:[A-Za-z][A-Za-z.'-]*+|/|\^\s*(?:\{\s*-?\d\s*\}|-?\d)|\s)+")
_SHORT_UNIT = re.compile(
    r"(?<=[\d}\s])\\(?:text|mbox|mathrm|textrm)\s*\{\s*(?:[A-DF-Za-df-hj-z]|[A-Za-z]+/[A-Za-z]+)\s*\}"
    r"\s*(?:\^\s*(?:\d|\{\s*-?\d\s*\}))?[\s.$]*$")
_DECIMAL = re.compile(r"(?<![\d.\w])(\d*)\.(\d+)(?![\d.])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def closing_braces(text: str) -> dict[int, int]:
    r"""Position of every closed `{` -> position of its `}`. `\{` and `\}` are printed characters, not braces."""
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
    r"""A normal form of the string: equal answers written differently in cheap ways become equal strings.

    White space, `$`, `\left`, `\text{..}`, units, currency, thousands separators, degrees, a leading `x=`, final stops,
    `\dfrac`, `\frac12`, 0.50 against .5, unicode signs. Idempotent. Above 10,000 characters only white space is
    touched. `""` if nothing is left.
    """
    text = " ".join(answer.split())
    return _canonical(text) if len(text) <= CANONICAL_CHARS else text


def _normalise(text: str) -> str:
    text = _GROUPED.sub("", _ascii(text)).replace("~", " ").rstrip("\\ ")  # `~` and `\ ` are blanks
    text = re.sub(r"\\(?:[A-Za-z]+|.)", lambda m: _COMMANDS.get(m[0], m[0]), text, flags=re.DOTALL)
    text = " ".join(_unwrap(_SHORT_UNIT.sub("", text)).replace("$", " ").split())
    text = re.sub(r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z])) ?(?:[CF]\b)?", " ", text)
    text = re.sub(r",? (?:and|or) ", ", ", text)
    text = re.sub(r"(?<![A-Za-z\\])(?:infinity|pi)(?![A-Za-z])", lambda m: {"pi": r"\pi "}.get(m[0], r"\infty "), text)
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
        text = re.sub(f"[{''.join(_SUPERSCRIPT)}]+", lambda m: "^{" + "".join(map(_SUPERSCRIPT.get, m[0])) + "}", text)
        text = unicodedata.normalize("NFKC", "".join(_UNICODE.get(c, c) for c in text))
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    if not text.isprintable():
        text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
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
    r"""The words behind a quantity dropped: '12 apples', '3 cm^2', '5km/h'; but not '2 million', '3x' or '2 sin x'."""
    head = re.match(r"(?:[^A-Za-z\\]|\\[A-Za-z]+|\\.)*", text)[0]  # up to the first bare letter
    tail = text[len(head) :]
    if not tail or not re.search(r"\d|\\pi", head) or re.search(r"[-+*/^_=,<>(:\[{\\]\s*$", head):
        return text
    words = re.findall(r"[A-Za-z]+", tail.lower())
    letters = re.search(r"(?<!/)(?<!/ )(?<!per )\b[A-Za-z]\b(?! ?/)", tail)  # of an expression, except in m/s
    if letters or not _UNIT.fullmatch(tail) or not _NO_UNITS.isdisjoint(words) or words[0] in _POWERS:
        return text
    spaced = head[-1] == " "
    ok = words[0] in _UNIT_WORDS or (spaced and ("/" in tail or (len(words[0]) > 2 and re.search("[aeiou]", words[0]))))
    return head.rstrip() if ok else text


def _brace_arguments(text: str) -> str:
    r"""`\frac12`, `\frac1{2}` and `\sqrt 2` with their braces written out."""
    pairs, inserts = closing_braces(text), []
    for command in re.finditer(r"\\(frac|sqrt)(?![A-Za-z])", text):
        at = command.end()
        for _ in range(2 if command[1] == "frac" else 1):
            argument = re.compile(r"\s*(?:(\{)|([0-9A-Za-z]|\\(?!frac|sqrt)[A-Za-z]+))").match(text, at)
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
    """White space only where it separates two words or two numbers; one space behind the comma of a list."""
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
    return " " if left == "," or (left.isalpha() and right.isalpha()) or (left.isdigit() and right.isdigit()) else ""


def _unassign(text: str) -> str:
    r"""`x=5` and `x\in[1, 2]` without their variable, `x=1, x=2` too, but no equation that has another variable."""
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
    """.50 -> 0.5 wherever it stands; leading zeros and a plus sign gone where the whole is one number."""
    def decimal(match: re.Match[str]) -> str:
        whole, part = match[1] or "0", match[2].rstrip("0")
        return f"{whole}.{part}" if part else whole

    text = _DECIMAL.sub(decimal, text)
    text = re.sub(r"^\+(?=[\d\\])", "", text)
    if number := re.fullmatch(r"(-?)0*(\d+(?:\.\d+)?)(%?)", text):
        sign = number[1] if number[2].strip("0.") else ""
        return sign + number[2] + number[3]
    return text
