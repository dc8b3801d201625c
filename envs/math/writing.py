r"""One writing for the many ways in which an answer is written: `tidy` for LaTeX, `plain` for text, `number` for numbers.

math-verify reads mathematics. It does not read colours and bold letters, `3e5`, `1 1/4` or `58\,500`, and it compares
numbers by six digits behind the point, so that all small ones are equal. So what is a number, with or without a unit,
is read here, as an exact fraction, and everything else is tidied before math-verify reads it.
"""

import re
from fractions import Fraction
from typing import NamedTuple

_SYMBOLS = {
    **dict.fromkeys("\u2212\u2013", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007~", " "),
    "\u00d7": r"\times ",
    "\u00b7": r"\cdot ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u221e": r"\infty ",
    "\u00b0": r"^\circ ",
    "\u03c0": r"\pi ",
    "\u20ac": r"\$",
    "\u00a3": r"\$",
}
_REWRITTEN = [
    (r"\\[()]|(?<!\\)\$", ""),
    (r"\\(?:displaystyle|textstyle|large|Large|small|bf|it|rm)\b", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"\\(?:neq|not\s*=)", r"\\ne "),
    (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le "),
    (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\degree\b", r"^\\circ"),
    (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
    (r":=|\{:\}", lambda found: found.group().strip("{}").replace(":=", "=")),
    (r"(?<=\d)\s*\\?(?:\{,\}|,)?(?<!\\)\\[,! :;](?=\d{3}(?!\d))", ""),  # thousands: 58\,500 and 58,\!500
    (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])", " "),
    (r"(?<=\d)\s*(?:[eE]|\\mathrm\{e\})([+-]?)0*(\d+)(?![\d.])", r"\\times 10^{\1\2}"),
]
_STYLES = "mathbf|boldsymbol|mathsf|mathit|bm|underline|boxed|fbox"
_TEXTS = "text|textbf|textit|textrm|textsf|mbox|hbox|mathrm|operatorname|emph"
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_WRAPPER = re.compile(rf"\\(?:(?P<style>{_STYLES})|{_TEXTS})\s*\{{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace belongs to the answer
_TEXT = re.compile(rf"\\(?:{_TEXTS})\s*\{{([^{{}}]*)\}}")
_LABEL = re.compile(rf"^\s*\\(?:{_TEXTS})\s*\{{[^{{}}]*\}}\s*(?:=|:)|^\s*\\(?:{_TEXTS})\s*\{{[^{{}}]*:\s*\}}")


def tidy(latex: str) -> str:
    """LaTeX without colours, bold letters, sizes, thin spaces and thousands, with `3e5` as a power of ten."""
    for symbol, command in _SYMBOLS.items():
        latex = latex.replace(symbol, command)
    latex = _COLOUR.sub("", latex)
    for pattern, replacement in _REWRITTEN:
        latex = re.sub(pattern, replacement, latex)
    latex = _LABEL.sub("", _unwrap(latex)).strip().removesuffix(".").strip()
    while latex.startswith("{") and until_closed(latex, 1) == latex[1:-1]:
        latex = latex[1:-1].strip()
    return latex


def _unwrap(latex: str) -> str:
    r"""LaTeX without the commands around bold letters and boxes, and without those of text around mathematics."""
    for wrapper in reversed(list(_WRAPPER.finditer(latex))):
        content = until_closed(latex, wrapper.end())
        if content is not None and (wrapper["style"] or re.search(r"^[\d(]|[\\$=+]", content)):
            end = wrapper.end() + len(content) + 1
            latex = f"{latex[: wrapper.start()]}{{{content}}}{latex[end:]}"
    return latex


def until_closed(text: str, start: int) -> str | None:
    """Text from `start` to the brace that closes what is open there; None where nothing does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def plain(latex: str) -> str:
    """The text of tidy LaTeX without spaces. The case of letters stays, except in words."""
    text = _TEXT.sub(r"\1", latex)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "_", text.strip().removesuffix("."))  # 1 1/4 is not 11/4
    text = re.sub(r"[\s{}]", "", text.replace(r"\%", "%"))
    if re.fullmatch(r"\(?[A-Za-z]\)?\.?", text):
        return text.strip("().").upper()
    return text.lower() if re.fullmatch(r"[^\W\d][^\W\d.,'-]+(?:[.,'-]?[^\W\d]+)*\.?", text) else text


class Number(NamedTuple):
    """A number that is written out. `unit` is empty where there is none or none that is known."""

    value: Fraction
    percent: bool
    unit: str

    def equals(self, other: "Number") -> bool:
        """Is `other`, an answer, the same? Between a fraction that no decimal ends and a decimal, up to 1e-6 of it."""
        if self.unit and other.unit and self.unit != other.unit:
            return False
        scales = (
            {Fraction(1)} if self.percent == other.percent else {Fraction(1), Fraction(1, 100), Fraction(100)}
        )
        if other.percent or self.percent:
            scales.discard(Fraction(100) if other.percent else Fraction(1, 100))
        return any(_close(self.value, other.value * scale) for scale in scales)


def _close(value: Fraction, other: Fraction) -> bool:
    if value == other or _ends(value) == _ends(other):
        return value == other
    return abs(value - other) <= abs(value) / 10**6


def _ends(value: Fraction) -> bool:
    """Does its decimal writing end?"""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)"
_POWER = r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^\s*(?:\{\s*([+-]?\s*\d{1,4})\s*\}|([+-]?\d{1,4})))?)"
_NAME = r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*(?:=|\\approx)"
_WORD = r"(?:[A-Za-z]{3,}|cm|mm|km|kg|mg|ml|ft|lb|oz|hr|in)\b\.?"
_IN_TEXT = rf"\\(?:{_TEXTS})\s*\{{[^{{}}]*\}}"
_UNIT = (
    rf"(?:(?:\^\\circ|\\?%|\\\$|{_IN_TEXT}|{_WORD}|\\frac\s*\{{{_IN_TEXT}\}}\s*\{{{_IN_TEXT}\}})"
    r"(?:\s*\^\s*\{?-?\d\}?)?(?:\s|\\cdot|/|\(|\))*)*"
)
_NUMBER = re.compile(
    rf"\s*(?:{_NAME})?\s*(?P<sign>[+-]?)\s*(?:\\\$)?\s*(?P<sign2>[+-]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<above>-?{_DIGITS})\s*\}}\s*\{{\s*(?P<below>-?{_DIGITS})\s*\}}"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<above2>{_DIGITS})\s*/\s*(?P<below2>{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS})(?P<power>{_POWER})?|10\s*\^\s*\{{?(?P<ten>[+-]?\d{{1,4}})\}}?"
    rf")\s*(?P<unit>(?![A-Za-z](?![A-Za-z])){_UNIT})\s*"
)


def number(latex: str) -> Number | None:
    """The number that tidy LaTeX is, alone or with a name before it and a unit behind it; None where it is none."""
    text = re.sub(r"(?<=[\d.}/^])\s*\{([+-]?[\d.]+)\}|^\{([+-]?[\d.,]+)\}", _unbraced, latex)
    found = _NUMBER.fullmatch(re.sub(r"^\((-[\d.]+)\)$", r"\1", text))
    if found is None:
        return None
    part = {name: re.sub(r"[, ]", "", text or "") for name, text in found.groupdict().items()}
    above, below = part["above"] or part["above2"], part["below"] or part["below2"]
    if below:
        if not Fraction(below):
            return None
        value = Fraction(part["whole"] or part["whole2"] or 0) + Fraction(above) / Fraction(below)
    elif part["ten"]:
        value = Fraction(10) ** int(part["ten"])
    else:
        value = Fraction(part["decimal"].removesuffix(".")) * _power(part["power"])
    negative = (part["sign"] + part["sign2"]).count("-") % 2
    words = _TEXT.sub(r" \1 ", found["unit"]).lower()
    return Number(-value if negative else value, "%" in words or "percent" in words, _unit(words))


def _unbraced(found: re.Match[str]) -> str:
    # Braces of exponents and of \\frac stay.
    before = found.string[found.start() - 1] if found.start() else ""
    return found.group() if before in "^}" else found.group(1) or found.group(2) or ""


def _power(text: str) -> Fraction:
    if not text:
        return Fraction(1)
    exponent = re.search(r"\^\{?([+-]?\d+)", text)
    return Fraction(10) ** (int(exponent.group(1)) if exponent else 1)


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
    "lb": ("lb", "pound"),
    "s": ("s", "sec", "second"),
    "min": ("min", "minute"),
    "h": ("h", "hr", "hour"),
    "day": ("day",),
    "deg": (r"^\circ", "degree"),
    "cent": ("cent",),
    "dollar": (r"\$", "dollar", "usd"),
}
_NAMES = {name + plural: unit for unit, names in _UNITS.items() for name in names for plural in ("", "s")}
_EXPONENTS = {"square": "2", "cubic": "3"}


def _unit(words: str) -> str:
    """The unit, in one writing; empty where one of the words is not known."""
    words = re.sub(r"[\s.{}()]+", " ", words).strip()
    exponent = "".join(_EXPONENTS.get(word, "") for word in words.split())
    found = re.fullmatch(r"(?:square |cubic )?(\S+?)(?: ?\^ ?([23]))?", words)
    name = _NAMES.get(found.group(1), "") if found else ""
    return name + (exponent or (found.group(2) or "" if found else "")) if name else ""
