"""Calling: a pydantic model takes its fields by name and by alias, whichever its signature shows."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from aipo.errors import ConfigError
from aipo.util.imports import Loaded, instantiate


class Chat(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    model_name: str = Field(alias="model")
    max_tokens: int = Field(9, alias="most-tokens")  # no name that a signature could show


def made(**options: Any) -> Chat:
    return instantiate(Loaded("m:Chat", Chat, Path("m.py"), "0"), options, "options of m:Chat")


@pytest.mark.parametrize("name", ["model", "model_name"])
def test_a_field_is_given_by_its_name_or_its_alias(name: str) -> None:
    chat = made(**{name: "a", "max_tokens": 3})
    assert (chat.model_name, chat.max_tokens) == ("a", 3)


def test_what_it_has_by_neither_name_is_refused_and_so_is_nothing() -> None:
    with pytest.raises(ConfigError, match=r"options of m:Chat: got \['modell'\], allowed \["):
        made(modell="a")
    with pytest.raises(ConfigError, match=r"got no \['model'\], allowed a value"):
        made()
