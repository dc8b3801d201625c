"""A problem with its tests. Tests stay in this process: no task, trace or sandbox of a solution holds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cases:
    """A program reads standard input and writes standard output: pairs of input and expected output."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """A function is called: pairs of its arguments and the expected value, as JSON has them."""

    function: str
    pairs: tuple[tuple[list[Any], Any], ...]


@dataclass(frozen=True, slots=True)
class Asserts:
    """Python with asserts about a function. Weaker than the others: few, and the author's code runs."""

    function: str
    code: str


Tests = Cases | Calls | Asserts


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem.

    Args:
        name: unique in its suite.
        tests: reads its tests, which can be large and are not kept.
        prelude: Python that stands before the solution, such as imports; its names are the solution's too.
        solution: a right solution, where the suite has one.
        metadata: what of it goes into the task.
    """

    name: str
    prompt: str
    tests: Callable[[], Tests]
    prelude: str = ""
    solution: str | None = None
    metadata: Mapping[str, Any]
