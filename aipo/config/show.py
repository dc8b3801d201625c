"""The settings of a configuration, all of them, each with the place that it comes from: `aipo config`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from aipo.config import presets
from aipo.config.layers import Key, Layers
from aipo.config.load import read_lines, resolve
from aipo.errors import RunError
from aipo.util.files import read_text


def show(name: str, overrides: Iterable[str], *, as_json: bool) -> str:
    """The settings as YAML that `--config` takes, with the source of each value as a comment; or as JSON.

    Args:
        name: a preset, a YAML file or a run folder.

    Raises:
        ConfigError: see `load_config`.
        RunError: a folder that holds no run.
    """
    of_run = name not in presets() and Path(name).is_dir()
    file = str(Path(name) / "config.yaml") if of_run else name
    if of_run and not Path(file).is_file():
        raise RunError(f"aipo config: got {name}, allowed a preset, a YAML file or a folder with a run")
    config, layers = resolve(file, overrides, of_run=of_run)
    settings = config.model_dump(mode="json")
    text = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, width=float("inf"))
    lines, sources = read_lines(text), _places(layers)
    places = {key: sources.get(key, "default") for key in lines if _is_value(settings, key)}
    if as_json:
        dotted = {".".join(key): place for key, place in places.items()}
        return json.dumps({"settings": settings, "sources": dotted, "dropped": layers.dropped}, indent=2)
    comments = {lines[key]: place for key, place in places.items()}
    return "\n".join([*(f"# dropped: {line}" for line in layers.dropped), *_commented(text, comments)])


class _Dumper(yaml.SafeDumper):
    """Every value on one line, so that a comment can stand behind it."""


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "\n" in value else None)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


def _commented(text: str, comments: dict[int, str]) -> Iterator[str]:
    lines = text.splitlines()
    short = [len(lines[number - 1]) for number in comments if len(lines[number - 1]) <= 60]
    for number, line in enumerate(lines, start=1):
        yield f"{line:<{max(short)}}  # {comments[number]}" if number in comments else line


def _places(layers: Layers) -> dict[Key, str]:
    """The source of each value that is not a default, with its line; keys that are numbers as text."""
    sources = {tuple(map(str, key)): source for key, source in layers.sources.items()}
    lines = {
        source: read_lines(read_text(source.file))
        for source in set(sources.values())
        if source.file is not None
    }
    return {
        key: f"{source.name}:{line}" if (line := lines.get(source, {}).get(key)) else source.name
        for key, source in sources.items()
    }


def _is_value(settings: Any, key: Key) -> bool:
    """Is it no mapping, or an empty one?"""
    for name in key:
        settings = settings[name]
    return not (settings and isinstance(settings, dict))
