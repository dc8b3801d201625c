"""A check: one thing that a run needs, whether it is there, and what to do if not. `aipo doctor` runs them all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from transformers import PretrainedConfig, PreTrainedModel

from aipo.config.build import Experiment
from aipo.errors import AipoError
from aipo.policies.tokenizer import HFTokenizer
from aipo.util.masking import mask_error
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


@dataclass(frozen=True, kw_only=True)
class PolicyParts:
    """The policy of a run to be.

    Args:
        model: folder or hub name.
        settings: transformers' description of the network.
        prompt: ids of the longest prompt that was seen.
    """

    experiment: Experiment
    model: Path | str
    tokenizer: HFTokenizer
    settings: PretrainedConfig
    prompt: list[int]

    @cached_property
    def network(self) -> PreTrainedModel:
        """With its weights, which are loaded when this is first asked for."""
        return self.experiment.network(self.model)


def attempt(what: str, make: Callable[[], _T], advice: str = "") -> _T | Check:
    """What `make` makes, or the failed check of what it raises."""
    try:
        return make()
    except Exception as error:  # whatever it is, the other checks are still worth doing
        return Check("fail", what, in_words(error), advice)


def report(what: str, find: Callable[[], str]) -> Check:
    """A check that is passed unless `find` raises."""
    found = attempt(what, find)
    return found if isinstance(found, Check) else Check("ok", what, found)


def in_words(error: Exception) -> str:
    """An error's text. What AIPO raises says what is allowed, so it is its own advice."""
    return mask_error(str(error)) if isinstance(error, AipoError) else error_text(error)
