"""Equations that a text states, and whether their sides are equal: exact fractions, no library's guess."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from unicodedata import normalize

_SIGNS = {
    "\u2212": "-",
    "\u2013": "-",
    "\u00d7": "*",
    "\u00f7": "/",
    "\\times": "*",
    "\\div": "/",
    "\\": "",
    "$": "",
}
_REWRITTEN = (
    (re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(.])"), "*"),
)
# Behind a word an operator is missing its left side: of `3 eggs - 1 = 2` nothing is read.
_CHAIN = re.compile(r"(?:(?<![a-z])|(?<=[a-z])(?![+*/.-]))[0-9.%()+*/=-]+", re.IGNORECASE)
_EXPRESSION = re.compile(r"(?<![0-9.%()+*/-])[0-9.(][0-9.%()+*/-]*$")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_SPACE = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")  # not between two numbers
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 200  # characters of one side


@dataclass(frozen=True, slots=True)
class Equation:
    """Sides that a text puts equal. `expression` is the first one in which something is worked out, as `plain` writes it,
    and `value` what it comes to."""

    expression: str
    value: Fraction
    is_right: bool


def plain(text: str) -> str:
    """`text` without spaces, money and thousands, with `*` and `/` for every way to write them."""
    text = normalize("NFKC", text)
    for sign, plainer in _SIGNS.items():
        text = text.replace(sign, plainer)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return _SPACE.sub("", text)


def equations(text: str) -> list[Equation]:
    """The equations of numbers in `text` in which something is worked out: `16-3-4=9`, but not `x=9`, `9=9` or one with
    units between its numbers."""
    chains = (chain.strip(".").split("=") for chain in _CHAIN.findall(plain(text)) if "=" in chain)
    return [equation for sides in chains if (equation := _equation(sides))]


def last_expression(text: str) -> str:
    """The arithmetic at the end of `text`, as `plain` writes it: `9*2` of `She makes 9 * 2`; empty if there is none."""
    match = _EXPRESSION.search(plain(text))
    return match[0] if match else ""


def _equation(sides: list[str]) -> Equation | None:
    values = [value for side in sides if (value := _value(side)) is not None]
    if len(values) < len(sides):
        return None
    known = list(zip(sides, values, strict=True))
    is_right = all(_are_equal(one, other) for one, other in pairwise(known))
    worked_out = ((side, value) for side, value in known if re.search(r"[0-9)%][+*/-]", side))
    return next((Equation(side, value, is_right) for side, value in worked_out), None)


def _are_equal(one: tuple[str, Fraction], other: tuple[str, Fraction]) -> bool:
    """Equal, or as near as the digits of a rounded decimal say."""
    decimals = (re.fullmatch(r"-?[0-9]*\.([0-9]+)", side) for side, _ in (one, other))
    digits = min((len(decimal[1]) for decimal in decimals if decimal), default=None)
    return abs(one[1] - other[1]) <= (Fraction(0) if digits is None else Fraction(1, 2 * 10**digits))


def _value(side: str) -> Fraction | None:
    """What a side comes to; None where it is no arithmetic, or too long."""
    if len(side) > _LONGEST:
        return None
    written = re.sub(
        r"(?<![0-9.])0+(?=[0-9])", "", _PERCENT.sub(r"(\1/100)", side)
    )  # Python has no numbers that begin with 0
    try:
        return _evaluate(ast.parse(written, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _evaluate(node: ast.AST) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.BinOp(left, op, right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_evaluate(left), _evaluate(right))
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand)
        case _:
            raise ValueError("no arithmetic")
