"""The families of reasoning-gym (2505.24760), and which of them a split is made of.

Each family is a rule that makes items out of numbers, and a rule that says how good an answer is.
"""

import json
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from aipo.errors import ConfigError, LoadError
from aipo.util.section import Count, Section

# Two items of a family may be the same: so many are looked at for each that is wanted.
LOOKED_AT = 20
REFUSED = {
    "coin_flip": "calls a 0 right where 0.125 is",
    "complex_arithmetic": "calls nan right",
    "composite": "is made of other families: give each a split",
    "game_of_life_halting": "calls every answer right",
    "puzzle24": "calls any four numbers right that make 24",
    "rearc": "compares what JSON, and so a trace, cannot hold",
}
"""Families whose rule a policy would learn to exploit, or that cannot be asked; seen with 0.1.25."""
_OWN = {"seed", "size"}


class Family(Section):
    """What the items of one split are made of."""

    family: str = Field(description="a family of reasoning-gym, as spell_backward")
    size: Count = Field(500, description="how many items")
    seed: int = Field(0, ge=0, description="which items")
    options: dict[str, Any] = Field({}, description="of the family, as max_word_len: 5")

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := _OWN & options.keys():
            raise ValueError(
                f"got {sorted(taken)}, allowed the family's own: seed and size stand beside options"
            )
        return options


@cache
def dataset(family: str) -> Any:
    """What makes the items, `LOOKED_AT` times `size` of them, and judges answers.

    Args:
        family: a `Family` as JSON.

    Raises:
        LoadError: reasoning-gym is not installed.
        ConfigError: no such family or option, or a family that is refused.
    """
    spec = Family(**json.loads(family))
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise LoadError(
            "env: got an environment without reasoning-gym, allowed one with it: pip install -e '.[gym]'"
        ) from error
    datasets = reasoning_gym.factory.DATASETS
    if spec.family in REFUSED:
        raise ConfigError(
            f"family of reasoning-gym: got {spec.family!r}, which {REFUSED[spec.family]}, allowed another one"
        )
    if spec.family not in datasets:
        raise ConfigError(f"family of reasoning-gym: got {spec.family!r}, allowed one of {sorted(datasets)}")
    size = spec.size * LOOKED_AT
    try:
        return reasoning_gym.create_dataset(spec.family, seed=spec.seed, size=size, **spec.options)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"options of family {spec.family!r}: got {spec.options} ({error}), allowed what "
            f"{datasets[spec.family][1].__name__} has"
        ) from error
