"""The families of reasoning-gym (2505.24760): how the items of one are made, and whether an answer is right.

Each family is a rule that makes items out of numbers, and a rule that says how good an answer is. Both are for workers
of the sandbox. Some families draw from sets of words, so that the same numbers make other items in every process, and
the sandbox's processes hash alike; some have a computer algebra system read the answer, which may take for ever.
"""

import json
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from aipo.errors import ConfigError, LoadError
from aipo.sections import Count, Section

Item = dict[str, Any]
"""`question`, `answer` (text, or None where many are right) and `metadata`, as JSON can hold them."""

# Two items of a family may be the same: so many are looked at for each that is wanted.
LOOKED_AT = 20
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


def check(family: Family) -> None:
    """Is there such a family?

    Raises:
        LoadError: reasoning-gym is not installed.
        ConfigError: no such family or option.
    """
    _dataset(family.model_dump_json())


def items(family: str, start: int, count: int) -> list[Item]:
    """Items `start` and up, some of which may ask the same; fewer than `count` where there are no more.

    Args:
        family: a `Family` as JSON.

    Raises:
        ConfigError: JSON changes an item so much that its own answer is no longer right (`rearc`).
    """
    dataset = _dataset(family)
    made: list[Item] = []
    for number in range(start, min(start + count, len(dataset))):
        item = json.loads(json.dumps(dataset[number]))
        if item["answer"] is not None and score(family, item, item["answer"]) < 1.0:
            raise ConfigError(
                f"item {number}: got {item['answer']!r}, which its family calls wrong once it was JSON"
            )
        made.append(item)
    return made


def score(family: str, item: Item, answer: str) -> float:
    """How good an answer to `item` is by the family's own rule: 1.0 where it is right, at the least 0.0.

    An answer that the family cannot read is wrong: most say so themselves, some raise instead.

    Args:
        family: a `Family` as JSON.
    """
    try:
        return float(_dataset(family).score_answer(answer, entry=item))
    except (ValueError, TypeError, SyntaxError, LookupError, ArithmeticError):
        return 0.0


@cache
def _dataset(family: str) -> Any:
    made_of = Family(**json.loads(family))
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise LoadError(
            "env: got an environment without reasoning-gym, allowed one with it: pip install 'aipo[gym]'"
        ) from error
    known = reasoning_gym.factory.DATASETS
    if made_of.family not in known:
        raise ConfigError(f"family of reasoning-gym: got {made_of.family!r}, allowed one of {sorted(known)}")
    size = made_of.size * LOOKED_AT
    try:
        return reasoning_gym.create_dataset(made_of.family, seed=made_of.seed, size=size, **made_of.options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"options of family {made_of.family!r}: got {made_of.options} ({error}), allowed what "
            f"{known[made_of.family][1].__name__} has"
        ) from error
