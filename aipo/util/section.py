"""The base of all settings: a group of them is frozen and refuses keys that it does not have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aipo.errors import ConfigError, one_of

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings that knows no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def check_share(share: float, name: str) -> None:
    """Refuses a share outside [0, 1].

    Raises:
        ConfigError: names it.
    """
    if not 0 <= share <= 1:
        raise ConfigError(one_of(name, share, "0 to 1", "the configuration"))
