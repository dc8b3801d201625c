r"""Is one mathematical answer as good as another? What a worker of the sandbox runs, mostly by math-verify.

math-verify's own time limits are off: they are signals, which raise in threads and cannot stop C-level work.
"""

import re
from dataclasses import replace
from itertools import accumulate
from typing import Any

import sympy
from latex2sympy2_extended.sets import FiniteSet
from math_verify import LatexExtractionConfig, parse, verify

from envs.math.intervals import as_interval
from envs.math.notations import same_in_base, same_items, same_remainder, same_time
from envs.math.numbers import CHANGING, WORDS, Number, exact, number, split_unit
from envs.math.units import DEGREE
from envs.math.writing import TEXT, plain, tidy, without_brackets

_PLAIN = LatexExtractionConfig().normalization_config
# Units have been taken off: math-verify takes the ab of 2ab for one.
# Of a box that it cannot read, math-verify would take a fraction out of the middle: the 2/3 of E_1 + 2/3 E_2.
_BOX = (
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=replace(_PLAIN, units=False),
    ),
)
_TOLERANCE = 1e-6
_LONGEST = 1000
"""Characters of an answer that is read as mathematics: of what is longer, math-verify can take minutes."""
_DEEPEST = 12
"""Brackets around each other in an answer that is read as mathematics: math-verify's time doubles with each."""
_LARGEST = 10**40
_RADIANS = r"\\cdot \\frac{\\pi}{180}"
_ROW = r"\\"
_REREAD = [
    (r"[(\[]\s*\\begin\{array\}\{[clr|]+\}(.*?)\\end\{array\}\s*[)\]]", r"\\begin{pmatrix}\1\\end{pmatrix}"),
    (
        r"\\begin\{[pb]matrix\}([^&]*?)(?:\\\\\s*)?\\end\{[pb]matrix\}",
        lambda m: f"({m[1].replace(_ROW, ',')})",  # a vector
    ),
    (r"\\begin\{cases\}([^&]*?)(?:\\\\\s*)?\\end\{cases\}", lambda m: m[1].replace(_ROW, ",")),
    (r"^\s*(?:\\vec\s*)?\{?\s*[A-Za-z]{1,2}\s*\}?\s*=\s*(?=\()|^\s*[A-Za-z]'*\([A-Za-z]\)\s*=", ""),
    (r"^\s*(?:\\frac\s*\{d[a-z]?\}\s*\{d[a-z]\}\s*[a-z]?|[a-z]'+)\s*=", ""),
    (r"(\d+(?:\.\d+)?)\s*\^\\circ", rf"(\1 {_RADIANS})"),
    (r"\+\s*c\s*$", "+ C"),
    (r"(?<![A-Za-z\\])E(?=_)", r"\\Xi"),  # E_1 would be a power of ten
]
"""What math-verify reads as something else, and how it is to be written."""
_BRACKETS = re.compile(r"[(\[][^()\[\]]*[)\]]")
_EQUATION = re.compile(
    r"(?!\s*\\(?:sum|int|lim|prod))"
    r"(?:\s*(?:[a-z]\s?[a-z]|[a-d]{3}|[w-z]{3})\s*$|.*(?:[+*/!]|-(?![a-z]{2})|\\(?:cdot|times)|\d\s*[A-Za-z(\\]|\^\s*\d))"
)
"""What stands to the left of `=` where it is no name and no `f(x)`: `x+y`, `xy`, `2x`, `x^2`."""
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_ARITHMETIC = re.compile(r"(?:[\d\s.+*/^(){}-]|\\(?:frac|sqrt|cdot|times|pi)(?![a-z]))+")
_ROUNDING = 0.01
"""How far, as a part of it, the result of a calculation may be from its value."""
_ZERO = 1e-50  # where sympy cancels two numbers, less than this may be left
_NAMED = re.compile(r"^\s*[A-Za-z](?:_\w)?\s*=(?!.*=)")
_LETTERS = re.compile(r"(?<![A-Za-z\\{])[a-z]{2,3}(?![A-Za-z}])")


def matches(canonical: str, answer: str) -> bool:
    """Are the two, in LaTeX, the same number, set, tuple, ... or at least the same text?

    Raises:
        ValueError: nothing can be read out of the canonical answer.
    """
    if len(answer) > _LONGEST or _depth(answer) > _DEEPEST:
        return answer.strip() == canonical.strip()
    gold, given = without_brackets(tidy(canonical)), without_brackets(tidy(answer))
    text, given_text = plain(gold), plain(given)
    if not text:
        raise ValueError(f"canonical answer: got {canonical!r}, allowed one that can be read")
    if text == given_text:
        return True
    if _is_equation(gold) and "=" not in given:
        return False
    if re.fullmatch(r"[A-Z]{2,}", TEXT.sub(r"\1", gold).strip()):
        return text == plain(re.sub(r"\\(?:overline|angle|triangle)|[{}]", "", TEXT.sub(r"\1", given)))
    for same in (same_time(gold, given), same_in_base(gold, given), same_remainder(gold, given, matches)):
        if same is not None:
            return same
    value, given_value = number(gold), number(given)
    if value is not None and given_value is not None:
        return value.equals(given_value)
    if (same := same_items(gold, given)) is not None:
        return same
    (gold, unit), (given, given_unit) = _readable(gold, value), _readable(given, given_value)
    if _changed(gold, given) or (unit and given_unit and unit != given_unit):
        return False
    return _same_mathematics(as_interval(gold), as_interval(given))


def _is_equation(gold: str) -> bool:
    left, sign, _ = re.sub(r"\{[^{}]*\}|\([^()]*\)", "", gold).partition("=")
    if (
        not sign
        or left.endswith(("<", ">", "!"))
        or not _VARIABLE.search(TEXT.sub("", gold.partition("=")[0]))
    ):
        return False
    return _EQUATION.match(left) is not None


def _depth(answer: str) -> int:
    """How many brackets are open at most."""
    return max(accumulate(("([{".count(one) - ")]}".count(one) for one in answer), initial=0))


def _readable(latex: str, value: Number | None) -> tuple[str, object]:
    """What math-verify can read, and the unit: of a number that it reads otherwise (1 1/4, 5 cm) the value."""
    if value is None:
        return split_unit(latex)
    size = max(abs(value.value.numerator), value.value.denominator)
    if value.percent or value.unit == DEGREE or size > _LARGEST or re.fullmatch(r"-?[\d.]+", latex):
        return latex, None
    return exact(value.value), value.unit


def _changed(gold: str, given: str) -> bool:
    """Does a word make another number of only one of them? math-verify reads no words."""
    words = [set(" ".join(TEXT.findall(latex)).lower().split()) for latex in (gold, given)]
    return not (words[0] ^ words[1]).isdisjoint(CHANGING - {"and", "or"})


def _same_mathematics(gold: str, answer: str) -> bool:
    if "\\ne " in f"{gold} " or (_BRACKETS.fullmatch(gold) and answer.startswith(r"\{")):
        return False  # what is no interval has been compared as text, and a set is neither a pair nor an interval
    if "=" not in gold:
        if "=" in answer and _contradicts_itself(answer):
            return False
        answer = _NAMED.sub("", answer)
    elif "=" not in answer:
        gold = _NAMED.sub("", gold)
    expected = _read(gold)
    if not expected:
        raise ValueError(f"canonical answer: got {gold!r}, allowed one that math-verify can read")
    expected, given = _alike(expected, _read(answer))
    same = verify(expected, given, timeout_seconds=None, raise_on_error=True)
    return same and not _far_apart(expected[0], given[0])


def _contradicts_itself(answer: str) -> bool:
    """Is it `2+2=5`? A result may be rounded."""
    sides = [_read(side)[:1] for side in answer.split("=") if _ARITHMETIC.fullmatch(side)]
    expressions = [side[0] for side in sides if side and isinstance(side[0], sympy.Expr)]
    values = [sympy.N(one) for one in expressions if one.is_finite]
    return any(bool(abs(value - values[0]) > _ROUNDING * abs(values[0]) + _ZERO) for value in values[1:])


def _alike(gold: list[Any], given: list[Any]) -> tuple[list[Any], list[Any]]:
    """The two with `i` as the imaginary unit in both, and as tuples if one is one."""
    gold, given = ([_imaginary(one[0]), *one[1:]] if one else one for one in (gold, given))
    if given and isinstance(gold[0], FiniteSet) and isinstance(given[0], sympy.Tuple):
        items = gold[0]._unsorted_args  # pyright: ignore[reportAttributeAccessIssue]
        in_order = (getattr(item, "rhs", item) for item in items)
        gold = [sympy.Tuple(*in_order), *gold[1:]]
    return gold, given


def _imaginary(one: Any) -> Any:
    found = [symbol for symbol in getattr(one, "free_symbols", ()) if symbol.name == "i"]
    return one.subs(dict.fromkeys(found, sympy.I)).doit() if found else one


def _far_apart(one: object, other: object) -> bool:
    """Are these two numbers that differ? math-verify rounds to six digits behind the point, however small they are."""
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return False
    if not (one.is_number and other.is_number):
        return False
    a, b = sympy.N(one), sympy.N(other)
    return bool(abs(a) < 1 and abs(a - b) > _TOLERANCE * abs(a))


def _read(latex: str) -> list[Any]:
    """The expression and its text; only the text where it is no mathematics; nothing where it is nothing."""
    for pattern, replacement in _REREAD:
        latex = re.sub(pattern, replacement, latex)
    if re.search(r"[\d+^-]", latex) and not TEXT.search(latex):
        latex = _LETTERS.sub(
            lambda run: run[0] if run[0] in WORDS else " ".join(run[0]), latex
        )  # ab is a times b
    if latex.count(r"\pm") == 1 and not re.search(r",|\\\{", latex):
        latex = ", ".join(latex.replace(r"\pm", sign) for sign in "+-")
    return parse("\\boxed{" + latex + "}", _BOX, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
