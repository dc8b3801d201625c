"""An environment by the name that a command line gives it, as overrides of a configuration."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from aipo.errors import ConfigError
from aipo.util.imports import load
from aipo.util.text import to_json
from aipo.util.working_directory import use_working_directory

_BENCHMARKS = "envs.file.benchmarks"
DATA = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
"""Endings of files of questions."""
_PRESET = "small"


def with_environment(
    env: str | None, config: str | None, overrides: Iterable[str], *, of_run: bool = False
) -> tuple[str | None, list[str]]:
    """A configuration's name and the overrides, with an environment in the place of its own.

    Args:
        env: see `environment_overrides`; None = that of the configuration.
        config: None = the preset for a small model of one's own, where an environment is named.
        of_run: the configuration is a run's, which has no name.
    """
    if env is None:
        return config, [*overrides]
    return config or (None if of_run else _PRESET), [*environment_overrides(env), *overrides]


def environment_overrides(name: str) -> list[str]:
    """Overrides that put an environment in the place of a configuration's.

    Args:
        name: `module:Class`, `file.py:Class`, benchmarks (`math500,aime24`), a file of questions (`mine.jsonl`), or a folder
            of `envs/` that exports a class of its name (`math` is `envs.math:Math`).

    Raises:
        ConfigError: it is none of these.
    """
    if ":" in name:
        return [_override("env", {"name": name})]
    if name.endswith(DATA):
        split = Path(name).name.partition(".")[0]
        options = {"splits": {split: name}}
        env = {"name": "envs.file:File", "options": options, "mixture": {split: 1.0}}
        return [_override("env", env), _override("evaluate.splits", [split])]
    use_working_directory()
    if benchmarks := load(f"{_BENCHMARKS}:settings").function(name):
        evaluated = benchmarks.pop("evaluated")
        return [_override("env", benchmarks), _override("evaluate.splits", evaluated)]
    if not name.isidentifier() or find_spec(f"envs.{name}") is None:
        known = ", ".join(load(f"{_BENCHMARKS}:benchmark_names").function())
        raise ConfigError(
            f"environment: got {name!r}, allowed one of envs/ (miniature, math, gym, your own), module:Class, file.py:Class, "
            f"a file of questions ({', '.join(DATA)}), or benchmarks: {known}"
        )
    return [_override("env", {"name": f"envs.{name}:{name.capitalize()}"})]


def _override(key: str, value: object) -> str:
    return f"{key}={to_json(value).decode()}"
