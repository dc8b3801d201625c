"""The base of all settings: a group of them is frozen and refuses keys that it does not have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def _variable(name: str) -> str:
    """The name of an environment variable, and not the key itself, which would be recorded and printed."""
    if not name.isidentifier():
        raise ValueError(
            "got no NAME of an environment variable (not shown: it may be the key itself), allowed one"
        )
    return name


Variable = Annotated[str, AfterValidator(_variable)]


RECORDED = "recorded"
"""The context of a validation whose settings a run has recorded: runs of before took infinity."""


class Section(BaseModel):
    """A frozen group of settings that knows no other keys than its own, and no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _finite(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context != RECORDED and (infinite := [number for _, number in not_finite(value)]):
            raise ValueError(f"got {infinite[0]!r}, {FINITE}")
        return value


FINITE = "allowed finite numbers, and null where a setting has no limit"


def not_finite(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every infinity and NaN in nested data, also in options that a user's function takes, with its key."""
    if isinstance(value, Mapping):
        for name, inner in cast(Mapping[str, object], value).items():
            yield from not_finite(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(cast(Sequence[object], value)):
            yield from not_finite(inner, f"{key}.{i}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, value
