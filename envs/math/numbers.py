r"""Numbers that are written out, as exact fractions: `3e5`, `1 1/4`, `58{,}500`, `20\%`, `\$18`, `5 cm`, `3 million`.

math-verify compares numbers by six digits behind the point, so that all small ones are equal, and drops units.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from envs.math.units import Unit, is_unit, unit_of
from envs.math.writing import IN_TEXT, TEXT

_LONGEST = 200  # characters; Python turns no text of thousands of digits into a number
_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_BRACED = rf"\{{?\s*(-?{_DIGITS})\s*\}}?"
# What is equal to the number: letters, commands and what they take, but no sum, no power and no other number.
_NAME = re.compile(
    r"\s*(?:[A-Za-z]|\\(?:[a-z]++|\|)|[|{} ']|_\w|_\{[^{}=]*\}|\^\*|\([^()=+*/^]*\))+"
    r"(?:=|\\approx|\\mapsto|\\leftarrow)\s*"
)
_NAME_BEHIND = re.compile(r"\s*=\s*[A-Za-z](?:_\w)?\s*$")
_HEAD = re.compile(r"\s*([+-]?)\s*(\\\$|[€£¥₹])?\s*([+-]?)\s*")
_FACTORS = {
    **{
        "dozen": 12,
        "hundred": 100,
        "thousand": 10**3,
        "lakh": 10**5,
        "million": 10**6,
        "crore": 10**7,
        "billion": 10**9,
    },
    **{"trillion": 10**12, "quadrillion": 10**15},
    **{
        name + plural: Fraction(1, below)
        for name, below in (("tenth", 10), ("hundredth", 100), ("thousandth", 1000))
        for plural in ("", "s")
    },
}
# In text, too, these say another number.
CHANGING = {
    *(
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "fourths",
        "fifths",
        "sixths",
        "sevenths",
        "eighths",
    ),
    *(
        "ninths",
        "squared",
        "cubed",
        "factorial",
        "choose",
        "plus",
        "minus",
        "times",
        "over",
        "or",
        "and",
        "to",
        "not",
    ),
}
WORDS = {
    *(
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "mod",
        "max",
        "min",
        "gcd",
        "lcm",
        "det",
        "lim",
        "sqrt",
    ),
    *("and", "or", "in"),
}
"""In mathematics these are neither units nor products of letters."""
_IN_TEXT = IN_TEXT.replace("((", "(?:(", 1)
_OVER = re.compile(rf"\\frac\s*\{{\s*({_IN_TEXT})\s*\}}\s*\{{\s*({_IN_TEXT})\s*\}}")
_PART = re.compile(rf"\s*({_DIGITS})\s*([A-Za-z]+)\.?\s*(?:,|\band\b)?")
_UNIT = re.compile(
    rf"[\s(]*(?:(?:\^\\circ|\\?%|\\\$|[€£¥₹]|{_IN_TEXT}|\\(?:Omega|mu)(?![a-z])|(?<=[\s/])[A-Za-z]\b|"
    rf"(?<![A-Za-z])[A-Za-z]{{2,}}\b)(?:\s*\^\s*\{{?-?\d\}}?)?(?:\\cdot|[/()\s])*)*"
)


class Number(NamedTuple):
    """A number that is written out. `unit` is None where there is none or none that is known."""

    value: Fraction
    percent: bool
    unit: Unit | None

    def equals(self, answer: "Number") -> bool:
        """Is `answer` the same, in the same unit if both have one? `20%` is as good as 20 and as 0.2."""
        value, other = self.value, answer.value
        if self.percent != answer.percent and (self.unit or answer.unit):
            return False
        if self.unit and answer.unit:
            if self.unit.powers != answer.unit.powers:
                return False
            value, other = value * self.unit.factor, other * answer.unit.factor
        if self.percent and not answer.percent:
            return _close(value, other) or _close(value / 100, other)
        if answer.percent and not self.percent:
            return _close(value, other) or _close(value, other / 100)
        return _close(value, other)


def _close(value: Fraction, answer: Fraction) -> bool:
    """The same; between a fraction that no decimal ends and a decimal, up to 1e-6 of it. Two decimals may differ as
    floats do: 0.1+0.2 is 0.30000000000000004."""
    fraction, decimal = (answer, value) if _ends(value) else (value, answer)
    if _ends(fraction) or not _ends(decimal) or decimal.denominator == 1:
        whole = value.denominator == answer.denominator == 1
        return value == answer or (not whole and abs(value - answer) <= abs(value) / 10**15)
    return abs(value - answer) <= abs(value) / 10**6


def _ends(value: Fraction) -> bool:
    """Does its decimal writing end?"""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _ratio(whole: str | None, above: str, below: str) -> Fraction | None:
    if not Fraction(_plain(below)):
        return None
    return Fraction(whole or 0) + Fraction(_plain(above)) / Fraction(_plain(below))


def _repeating(before: str, once: str, again: str) -> Fraction:
    start = int(f"0{before}{once}")
    return Fraction(int(f"0{before}{once}{again}") - start, 10 ** len(once) * (10 ** len(again) - 1))


def _decimal(digits: str, *exponents: str | None) -> Fraction:
    exponent = next(filter(None, exponents), "0").replace(" ", "")
    return Fraction(_plain(digits)) * Fraction(10) ** int(exponent)


def _plain(digits: str) -> str:
    return re.sub(r"[, ]", "", digits).removesuffix(".")


_EXPONENT = r"\^\s*(?:\{\s*([+-]?\s*\d{1,4})\s*\}|([+-]?\d{1,4}))"
_TIMES_TEN = rf"({_DIGITS})\s*(?:\\times|\\cdot|\*|x)\s*\{{?10\}}?"
_FORMS: list[tuple[re.Pattern[str], Callable[..., Fraction | None]]] = [
    (re.compile(r"(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{?(\d+)\}?"), _repeating),
    (re.compile(rf"(?:(\d+)\s*)?\\frac\s*{_BRACED}\s*{_BRACED}"), _ratio),
    (re.compile(rf"(?:(\d+)\s+)?{_BRACED}\s*/\s*{_BRACED}"), _ratio),
    (re.compile(rf"10\s*{_EXPONENT}"), lambda *exponents: _decimal("1", *exponents)),
    (re.compile(rf"{_TIMES_TEN}\s*{_EXPONENT}"), _decimal),
    (re.compile(rf"{_TIMES_TEN}(?![\d.^])"), lambda digits: _decimal(digits, "1")),
    (re.compile(rf"\{{?({_DIGITS})\}}?"), _decimal),
]
_BEHIND = re.compile(rf"(?:\s*(?:{_IN_TEXT}|(?<=[\s}}\d])[A-Za-z]{{2,}}\b)(?:\s*\^\s*\{{?-?\d\}}?)?)+\s*$")
"""How a number is written, the longest form first, and its value from the groups; None where it has none."""


def number(latex: str) -> Number | None:
    """The number that tidy LaTeX is, alone or with a name before it and a unit behind it; None where it is none."""
    if len(latex) > _LONGEST:
        return None
    text = latex
    if name := _NAME.match(latex):
        text = latex[name.end() :]
    elif name := _NAME_BEHIND.search(latex):
        text = latex[: name.start()]
    if total := _sum_of_parts(TEXT.sub(r" \1 ", text)):
        return total
    text = _OVER.sub(r" \1 / \2 ", re.sub(r"^\s*\(([^(),]*)\)\s*$", r"\1", text))
    head = _HEAD.match(text)
    assert head is not None, "every part of it may be missing"
    sign, currency, sign_behind = head.groups()
    for form, value_of in _FORMS:
        found = form.match(text, head.end())
        rest = _UNIT.fullmatch(text, found.end()) if found else None
        if found is None or rest is None:
            continue
        bare = re.findall(r"(?<!\\)\b[A-Za-z]+", TEXT.sub("", rest.group()))
        words = TEXT.sub(r" \1 ", f"{currency or ''} {rest.group()}")
        named = re.findall(r"[a-z]+", words.lower())
        value = value_of(*found.groups())
        if value is None or not all(map(_may_be_unit, bare)) or not CHANGING.isdisjoint(named):
            return None
        value *= math.prod(_FACTORS.get(word, 1) for word in named)
        negative = (sign + sign_behind).count("-") % 2
        unit = unit_of(re.sub(rf"[.(){{}}%]|\b(?:{'|'.join(_FACTORS)})\b", " ", words))
        return Number(-value if negative else value, "%" in words or "percent" in words.lower(), unit)
    return None


def _sum_of_parts(text: str) -> Number | None:
    """`2 hours 30 minutes`, in the first unit: every part is in a smaller unit of the same kind."""
    parts = [(_decimal(part[1]), unit_of(part[2])) for part in _PART.finditer(text)]
    units = [unit for _, unit in parts if unit]
    if len(units) < 2 or len(units) != len(parts) or _PART.sub("", text).strip():
        return None
    if any(small.powers != big.powers or small.factor >= big.factor for big, small in pairwise(units)):
        return None
    total = sum((value * unit.factor for value, unit in parts if unit), Fraction(0))
    return Number(total / units[0].factor, False, units[0])


def _may_be_unit(word: str) -> bool:
    """Can a word behind a number say what is counted?"""
    return is_unit(word) or word.lower() in _FACTORS or (len(word) > 2 and word.lower() not in WORDS)


def split_unit(latex: str) -> tuple[str, Unit | None]:
    r"""An expression without the text behind it, and the unit that this says: `12\pi \text{ cm}^2`."""
    found = _BEHIND.search(latex)
    if found is None or not latex[: found.start()].strip():
        return latex, None
    bare = re.findall(r"(?<!\\)\b[A-Za-z]+", TEXT.sub("", found.group()))
    words = TEXT.sub(r" \1 ", found.group())
    if not all(map(is_unit, bare)) or not CHANGING.isdisjoint(words.split()):
        return latex, None
    return latex[: found.start()].strip(), unit_of(words)


def exact(value: Fraction) -> str:
    """LaTeX of a value: a decimal where it ends, else a fraction."""
    if not _ends(value):
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    places = next(places for places in range(_LONGEST) if 10**places % value.denominator == 0)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    point = len(digits) - places
    return ("-" if value < 0 else "") + digits[:point] + (f".{digits[point:]}" if places else "")
