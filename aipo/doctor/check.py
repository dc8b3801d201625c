"""A check: one thing that a run needs, whether it is there, and what to do if not. `aipo doctor` runs them all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from aipo.errors import AipoError
from aipo.util.text import error_text

Status = Literal["ok", "warn", "fail"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Args:
        status: `warn`: the run would work, but not as expected; `fail`: it would stop, or be wrong.
        what: the thing that was checked.
        found: what the check found.
        advice: what to do; empty if nothing.
    """

    status: Status
    what: str
    found: str
    advice: str = ""


def failure(what: str, error: Exception, advice: str = "") -> Check:
    """A check that could not be done. What AIPO raises says what is allowed, so it is its own advice."""
    return Check("fail", what, str(error) if isinstance(error, AipoError) else error_text(error), advice)


def attempt(what: str, make: Callable[[], _T], advice: str = "") -> _T | Check:
    """What `make` makes, or the failed check of what it raises."""
    try:
        return make()
    except Exception as error:  # whatever it is, the other checks are still worth doing
        return failure(what, error, advice)
