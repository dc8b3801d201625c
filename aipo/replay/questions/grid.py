"""A grid of settings: which methods one replay compares, in the order in which they are shown.

settings(config, ["method.coefficient=mask,constant", "method.beta=0,0.1"])   →   as recorded, and four more
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product

from aipo.config.load import Config, load_config
from aipo.errors import ConfigError
from aipo.method.settings import MethodConfig

RECORDED = "as recorded"
CREDIT = frozenset(f"method.{n}" for n in ("credit", "scale_by_std", "per_mode_baseline", "negative_weight"))
"""Settings that change advantages."""
METHOD = frozenset(f"method.{name}" for name in MethodConfig.model_fields) - {
    "method.plan",
    "method.demonstrations",
    "method.assist_share",
    "method.assist_share_end",
    "method.suppress_share",
    "method.scale_by_active",
    "method.max_mismatch",
}
"""Settings that change what stored traces teach. Which rollouts there are is settled already."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A method under a name that people read: what is different about it."""

    name: str
    config: Config


def settings(
    file: str, grid: Sequence[str] = (), overrides: Sequence[str] = (), *, allowed: Collection[str] = METHOD
) -> list[Setting]:
    """The recorded method, and behind it every other combination of the grid's values.

    Args:
        file: the recorded configuration.
        grid: `key=value,value,...` words.
        overrides: `key=value` words that hold for all but the recorded one.
        allowed: keys that may be set.

    Raises:
        ConfigError: a key that is not `allowed` or set twice, no value, or a combination that contradicts itself.
    """
    choices = combinations(grid)
    keys = [word.partition("=")[0] for word in (*grid, *overrides)]
    for key in keys:
        if key not in allowed:
            raise ConfigError(f"setting to replay with: got {key!r}, allowed {', '.join(sorted(allowed))}")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"settings to replay with: got {keys}, allowed each key once")
    recorded, called, others = load_config(file), RECORDED, list[Setting]()
    for choice in choices:
        name = name_of(choice or overrides)
        config = load_config(file, [*overrides, *choice])
        if config.method != recorded.method:
            others.append(Setting(name, config))
        elif name:
            called = f"{name} ({RECORDED})"
    return [Setting(called, recorded), *others]


def combinations(grid: Sequence[str]) -> list[list[str]]:
    """Every combination of the grid's values as `key=value` words; of an empty grid there is one, without words.

    Raises:
        ConfigError: a word without values.
    """
    return [list(choice) for choice in product(*map(_axis, grid))]


def name_of(words: Sequence[str]) -> str:
    """What a setting is called."""
    return ", ".join(word.removeprefix("method.") for word in words)


def _axis(word: str) -> list[str]:
    key, sign, values = word.partition("=")
    found = [value.strip() for value in values.split(",")] if sign else []
    if not all(found) or not found:
        raise ConfigError(f"--grid: got {word!r}, allowed 'method.key=value,value,...'")
    return [f"{key}={value}" for value in found]
