"""An environment, or a suite of data sets, by the name that a command line gives it, as overrides of a configuration.

A suite is YAML: `datasets` has for each data set what differs from the configuration, as sections of it; other sections are
for all of them. The environment is a name as `--env` takes it; by default the data set's own.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aipo.config import PRESETS
from aipo.config.layers import leaves
from aipo.config.load import read_yaml
from aipo.errors import ConfigError
from aipo.util.imports import load
from aipo.util.text import to_json
from aipo.util.working_directory import use_working_directory

_BENCHMARKS = "envs.file.benchmarks"
DATA = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
"""Endings of files of questions."""
OWN_MODEL = "small"
"""The preset around an environment or a suite that is named without a configuration."""


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
    return config or (None if of_run else OWN_MODEL), [*environment_overrides(env), *overrides]


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
        evaluated, prompt = benchmarks.pop("evaluated"), benchmarks.pop("prompt", None)
        answered = [] if prompt is None else [_override("graph.options.prompt", prompt)]
        return [_override("env", benchmarks), _override("evaluate.splits", evaluated), *answered]
    if not name.isidentifier() or find_spec(f"envs.{name}") is None:
        known = ", ".join(load(f"{_BENCHMARKS}:benchmark_names").function())
        raise ConfigError(
            f"environment: got {name!r}, allowed one of envs/ (miniature, math, gym, your own), module:Class, file.py:Class, "
            f"a file of questions ({', '.join(DATA)}), or benchmarks: {known}"
        )
    return [_override("env", {"name": f"envs.{name}:{name.capitalize()}"})]


def suites() -> list[str]:
    """Names of the suites that ship."""
    return sorted(path.stem for path in (PRESETS / "suites").glob("*.yaml"))


def suite_overrides(name: str) -> dict[str, list[str]]:
    """By data set, the overrides that a suite makes of a configuration.

    Args:
        name: of a suite that ships, or a YAML file.

    Raises:
        ConfigError: there is none, or it is no suite.
    """
    ours = PRESETS / "suites" / f"{name}.yaml"
    file = ours if ours.is_file() else Path(name)
    if not file.is_file():
        raise ConfigError(f"--suite: got {name!r}, allowed one of {suites()} or a YAML file")
    common = read_yaml(file, "suite")
    datasets = common.pop("datasets", None)
    if not isinstance(datasets, dict) or not datasets:
        raise ConfigError(f"datasets of suite {file}: got {datasets!r}, allowed data sets by name")
    if not all(isinstance(settings, dict | None) for settings in datasets.values()):
        raise ConfigError(f"datasets of suite {file}: got {datasets!r}, allowed sections of a configuration")
    return {
        str(dataset): _of_dataset(str(dataset), common, settings or {})
        for dataset, settings in datasets.items()
    }


def _of_dataset(name: str, common: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    env = settings.get("env", name)
    named = environment_overrides(env) if isinstance(env, str) else [_override("env", env)]
    rest = {key: value for key, value in settings.items() if key != "env"}
    said = [*leaves(common), *leaves(rest)]
    return [*named, *(_override(".".join(key), value) for key, value in said if value != {})]


def _override(key: str, value: object) -> str:
    return f"{key}={to_json(value).decode()}"
