"""A grid of settings: which methods one replay compares, in the order in which they are shown.

settings(config, ["method.coefficient=mask,constant", "method.beta=0,0.1"])   →   as recorded, and four more
"""

from collections.abc import Collection, Sequence
from itertools import product
from typing import NamedTuple

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError
from aipo.method.settings import MethodSettings
from aipo.replay.restore import check_coefficient

RECORDED = "as recorded"
CREDIT = frozenset(
    f"method.{n}" for n in ("credit", "attribution", "scale_by_std", "per_mode_baseline", "negative_weight")
)
"""Settings that change advantages."""
METHOD = frozenset(f"method.{name}" for name in MethodSettings.model_fields) - {
    "method.abilities",
    "method.branching",
    "method.plan",
    "method.demonstrations",
    "method.assist_share",
    "method.assist_share_end",
    "method.suppress_share",
    "method.suppress_share_end",
    "method.grant_steps",
    "method.scale_by_active",
    "method.max_mismatch",
}
"""Settings that change what stored traces teach. Those that choose which rollouts are made are not among them."""


class Setting(NamedTuple):
    """A method, and the name that tables show: what is different about it."""

    name: str
    experiment: Experiment


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
        if ".".join(key.split(".")[:2]) not in allowed:  # what stands below `method.agents`, too
            raise ConfigError(f"setting to replay with: got {key!r}, allowed {', '.join(sorted(allowed))}")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"settings to replay with: got {keys}, allowed each key once")
    recorded, recorded_name, others = load_experiment(file, of_run=True), RECORDED, list[Setting]()
    check_coefficient(recorded, [*overrides, *grid])
    for choice in choices:
        name = name_of(choice or overrides)
        experiment = load_experiment(file, [*overrides, *choice], of_run=True)
        check_coefficient(experiment, [*overrides, *choice])
        if experiment.method != recorded.method:
            others.append(Setting(name, experiment))
        elif name:
            recorded_name = f"{name} ({RECORDED})"
    return [Setting(recorded_name, recorded), *others]


def combinations(grid: Sequence[str]) -> list[list[str]]:
    """Every combination of the grid's values as `key=value` words; of an empty grid there is one, without words.

    Raises:
        ConfigError: a word without values.
    """
    return [list(choice) for choice in product(*map(_axis, grid))]


def name_of(words: Sequence[str]) -> str:
    """The name of a setting."""
    return ", ".join(word.removeprefix("method.") for word in words)


def _axis(word: str) -> list[str]:
    key, sign, values = word.partition("=")
    choices = [value.strip() for value in values.split(",")] if sign else []
    if not all(choices) or not choices:
        raise ConfigError(f"--grid: got {word!r}, allowed 'method.key=value,value,...'")
    return [f"{key}={value}" for value in choices]
