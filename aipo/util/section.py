"""The base of all settings: a group of them is frozen and refuses keys that it does not have."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from aipo.util.masking import is_open_secret

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


_NO_VARIABLE = re.compile(r"\d.*|.*[^\w.-].*|(?=.*\d)(?=.*[.-]).{24,}|", re.DOTALL)
"""What is no name, and a key that is letters, digits, dots and hyphens."""


def _variable(name: str, info: ValidationInfo) -> str:
    """The name of an environment variable, and not the key itself, which would be recorded and printed."""
    if not is_recorded(name, info) and (_NO_VARIABLE.fullmatch(name) or is_open_secret("", name)):
        raise ValueError(
            "got no NAME of an environment variable (not shown: it may be the key itself), allowed one"
        )
    return name


Variable = Annotated[str, AfterValidator(_variable)]


def recorded_values(settings: object) -> frozenset[str]:
    """The context of a validation that takes these values as they are: runs of before recorded what is refused now."""
    return frozenset(repr(value) for _, value in _values(settings))


def is_recorded(value: object, info: ValidationInfo) -> bool:
    """Is this a value that the validation takes as it is?"""
    return repr(value) in (info.context or ())


class Section(BaseModel):
    """A frozen group of settings that knows no other keys than its own, and no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _finite(cls, value: Any, info: ValidationInfo) -> Any:
        if infinite := [number for _, number in not_finite(value) if not is_recorded(number, info)]:
            raise ValueError(f"got {infinite[0]!r}, {FINITE}")
        return value


FINITE = "allowed finite numbers, and null where a setting has no limit"


def not_finite(settings: object) -> Iterator[tuple[str, float]]:
    """Every infinity and NaN in nested data, also in options that a user's function takes, with its key."""
    for key, value in _values(settings):
        if isinstance(value, float) and not math.isfinite(value):
            yield key, value


def open_secrets(settings: object) -> Iterator[tuple[str, object]]:
    """Every setting that looks like a secret, however deep, with its key."""
    return ((key, value) for key, value in _values(settings) if is_open_secret(key, value))


def _values(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every value in nested data, with its key."""
    if isinstance(value, Mapping):
        for name, inner in cast(Mapping[str, object], value).items():
            yield from _values(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(cast(Sequence[object], value)):
            yield from _values(inner, f"{key}.{i}")
    else:
        yield key, value
