"""Is one mathematical answer as good as another? What a worker of the sandbox runs, mostly by math-verify.

math-verify's own time limits are off: they are signals, which raise in threads and cannot stop C-level work.
"""

import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from envs.math.intervals import as_interval
from envs.math.numbers import number
from envs.math.writing import plain, tidy

_BOX = (LatexExtractionConfig(boxed_match_priority=0),)
_CLOCK = re.compile(r"0?(\d{1,2}:\d\d)([ap]\.?m\.?)?", re.IGNORECASE)
_TOLERANCE = 1e-6
_LONGEST = 1000
"""Characters of an answer that is read as mathematics: of what is longer, math-verify can take minutes."""


def matches(canonical: str, answer: str) -> bool:
    """Are the two, in LaTeX, the same number, set, tuple, ... or at least the same text?

    Raises:
        ValueError: nothing can be read out of the canonical answer.
    """
    gold, given = tidy(canonical), tidy(answer)
    text, given_text = plain(gold), plain(given)
    if not text:
        raise ValueError(f"canonical answer: got {canonical!r}, allowed one that can be read")
    if text == given_text:
        return True
    if clock := _CLOCK.fullmatch(text):
        return _same_time(clock, _CLOCK.fullmatch(given_text))
    value, given_value = number(gold), number(given)
    if value is not None and given_value is not None:
        return value.equals(given_value)
    return len(given) <= _LONGEST and _same_mathematics(as_interval(gold), as_interval(given))


def _same_time(clock: re.Match[str], given: re.Match[str] | None) -> bool:
    if given is None or given[1] != clock[1]:
        return False
    halves = {half.replace(".", "").lower() for half in (clock[2], given[2]) if half}
    return len(halves) < 2


def _same_mathematics(gold: str, answer: str) -> bool:
    if "\\ne " in f"{gold} ":
        return False  # what is no interval has been compared as text
    expected = _read(gold)
    if not expected:
        raise ValueError(f"canonical answer: got {gold!r}, allowed one that math-verify can read")
    given = _read(answer)
    same = verify(expected, given, timeout_seconds=None, raise_on_error=True)
    return same and not _far_apart(expected[0], given[0])


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
    return parse("\\boxed{" + latex + "}", _BOX, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
