r"""Numbers that are written out, as exact fractions: `3e5`, `1 1/4`, `58{,}500`, `20\%`, `\$18`, `5 cm`, `3 million`.

math-verify compares numbers by six digits behind the point, so that all small ones are equal, and drops units.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from envs.math.writing import TEXT, TEXTS

_LONGEST = 200  # characters; Python turns no text of thousands of digits into a number
_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_BRACED = rf"\{{?\s*(-?{_DIGITS})\s*\}}?"
_NAME = re.compile(r"\s*(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*(?:=|\\approx)\s*")
_HEAD = re.compile(r"\s*([+-]?)\s*(\\\$|\u20ac|\u00a3)?\s*([+-]?)\s*")
_FACTORS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNITS = {
    "cm": ("cm", "centimeter", "centimetre"),
    "mm": ("mm", "millimeter", "millimetre"),
    "km": ("km", "kilometer", "kilometre"),
    "m": ("m", "meter", "metre"),
    "inch": ("in", "inch", "inches"),
    "ft": ("ft", "foot", "feet"),
    "mile": ("mile", "mi"),
    "kg": ("kg", "kilogram"),
    "g": ("g", "gram"),
    "lb": ("lb",),
    "s": ("s", "sec", "second"),
    "min": ("min", "minute"),
    "h": ("h", "hr", "hour"),
    "day": ("day",),
    "week": ("week",),
    "month": ("month",),
    "year": ("year",),
    "degree": (r"^\circ", "degree"),
    "cent": ("cent",),
    "dollar": (r"\$", "dollar", "usd"),
    "euro": ("\u20ac", "euro"),
    "pound": ("\u00a3", "pound"),
}
_NAMES = {name + plural: unit for unit, names in _UNITS.items() for name in names for plural in ("", "s")}
_WORDS = {*(name for name in _NAMES if name.isalpha()), *_FACTORS, "percent", "square", "cubic"}
# In text, too, these say another number.
_CHANGING = {
    *("dozen", "half", "halves", "third", "thirds", "quarter", "quarters", "squared", "cubed", "factorial"),
    *("plus", "minus", "times", "over", "or", "and", "to", "per", "not"),
}
_IN_TEXT = rf"\\(?:{TEXTS})\s*\{{[^{{}}]*\}}"
_UNIT = re.compile(
    rf"(?:\s*(?:\^\\circ|\\?%|\\\$|\u20ac|\u00a3|{_IN_TEXT}|(?<=\s)[A-Za-z]+\b|(?<![A-Za-z])[A-Za-z]{{2,}}\b|"
    rf"\\frac\s*\{{{_IN_TEXT}\}}\s*\{{{_IN_TEXT}\}})(?:\s*\^\s*\{{?-?\d\}}?)?(?:\\cdot|/|\(|\)|\s)*)*\s*"
)


class Number(NamedTuple):
    """A number that is written out. `unit` is empty where there is none or none that is known."""

    value: Fraction
    percent: bool
    unit: str

    def equals(self, answer: "Number") -> bool:
        """Is `answer` the same, in the same unit if both have one? `20%` is as good as 20 and as 0.2."""
        value, other = self.value, answer.value
        cents = {"dollar": 100, "cent": 1}
        if self.unit in cents and answer.unit in cents:
            return value * cents[self.unit] == other * cents[answer.unit]
        if self.unit and answer.unit and self.unit != answer.unit:
            return False
        if self.percent and not answer.percent:
            return _close(value, other) or _close(value / 100, other)
        if answer.percent and not self.percent:
            return _close(value, other) or _close(value, other / 100)
        return _close(value, other)


def _close(value: Fraction, answer: Fraction) -> bool:
    """The same; between a fraction that no decimal ends and a decimal, up to 1e-6 of it."""
    fraction, decimal = (answer, value) if _ends(value) else (value, answer)
    if _ends(fraction) or not _ends(decimal) or decimal.denominator == 1:
        return value == answer
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


def _decimal(digits: str, *exponents: str | None) -> Fraction:
    exponent = next(filter(None, exponents), "0").replace(" ", "")
    return Fraction(_plain(digits)) * Fraction(10) ** int(exponent)


def _plain(digits: str) -> str:
    return re.sub(r"[, ]", "", digits).removesuffix(".")


_EXPONENT = r"\^\s*(?:\{\s*([+-]?\s*\d{1,4})\s*\}|([+-]?\d{1,4}))"
_TIMES_TEN = rf"({_DIGITS})\s*(?:\\times|\\cdot|\*|x)\s*\{{?10\}}?"
_FORMS: list[tuple[re.Pattern[str], Callable[..., Fraction | None]]] = [
    (re.compile(rf"(?:(\d+)\s*)?\\frac\s*{_BRACED}\s*{_BRACED}"), _ratio),
    (re.compile(rf"(?:(\d+)\s+)?{_BRACED}\s*/\s*{_BRACED}"), _ratio),
    (re.compile(rf"10\s*{_EXPONENT}"), lambda *exponents: _decimal("1", *exponents)),
    (re.compile(rf"{_TIMES_TEN}\s*{_EXPONENT}"), _decimal),
    (re.compile(rf"{_TIMES_TEN}(?![\d.^])"), lambda digits: _decimal(digits, "1")),
    (re.compile(rf"\{{?({_DIGITS})\}}?"), _decimal),
]
"""How a number is written, the longest form first, and its value from the groups; None where it has none."""


def number(latex: str) -> Number | None:
    """The number that tidy LaTeX is, alone or with a name before it and a unit behind it; None where it is none."""
    if len(latex) > _LONGEST:
        return None
    name = _NAME.match(latex)
    text = re.sub(r"^\((-[\d.]+)\)$", r"\1", latex[name.end() :] if name else latex)
    head = _HEAD.match(text)
    assert head is not None, "every part of it may be missing"
    sign, currency, sign_behind = head.groups()
    for form, value_of in _FORMS:
        found = form.match(text, head.end())
        rest = _UNIT.fullmatch(text, found.end()) if found else None
        if found is None or rest is None:
            continue
        words = TEXT.sub(r" \1 ", f"{currency or ''} {rest.group()}").lower()
        bare = re.sub(r"\\[a-z]+", "", TEXT.sub("", rest.group())).lower()
        named = re.findall(r"[a-z]+", words)
        value = value_of(*found.groups())
        if value is None or not {*re.findall(r"[a-z]+", bare)} <= _WORDS or not _CHANGING.isdisjoint(named):
            return None
        value *= Fraction(10) ** sum(_FACTORS.get(word, 0) for word in named)
        negative = (sign + sign_behind).count("-") % 2
        return Number(-value if negative else value, "%" in words or "percent" in words, _unit(words))
    return None


def _unit(words: str) -> str:
    """The unit, in one writing; empty where one of the words is not known."""
    parts = re.sub(r"[\s.{}()]+", " ", words).split()
    exponent = "".join({"square": "2", "cubic": "3"}.get(part, "") for part in parts)
    names = dict.fromkeys(
        _NAMES.get(part, part) for part in parts if part not in {*_FACTORS, "square", "cubic"}
    )
    found = re.fullmatch(r"(\S+?)(?: ?\^ ?([23]))?", " ".join(names))
    if found is None or (name := _NAMES.get(found[1])) is None:
        return ""
    return name + (exponent or found[2] or "")
