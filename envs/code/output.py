"""Whether a program's output is the expected one, and whether a function's value is."""

import re
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{0,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""Longer numbers are compared as text: nothing that a program prints may keep the comparison busy."""


def same_output(got: str, expected: str) -> bool:
    """LiveCodeBench's rule: line by line without spaces at the ends; a line is also right if all of its words are equal
    as exact decimals (`1.0` is `1`)."""
    ours, theirs = (text.strip().split("\n") for text in (got, expected))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(got: str, expected: str) -> bool:
    if got.strip() == expected.strip():
        return True
    ours, theirs = got.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_number, ours, theirs))


def _same_number(got: str, expected: str) -> bool:
    numbers = all(map(_NUMBER.fullmatch, (got, expected)))
    return numbers and Decimal(got) == Decimal(expected)


def same_value(got: Any, expected: Any) -> bool:
    """Whether a returned value is the expected one, as JSON has it: a tuple is a list, and True is not 1."""
    if isinstance(got, tuple):
        got = list(got)
    if isinstance(got, bool) != isinstance(expected, bool):
        return False
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(same_value, got, expected))
    if isinstance(got, dict) and isinstance(expected, dict):
        names = {str(key): value for key, value in got.items()}  # JSON's keys are text
        return names.keys() == expected.keys() and all(same_value(names[key], expected[key]) for key in names)
    return got == expected
