"""The configuration: strict and frozen; its sections are in `aipo.config.schema` and `aipo.method.settings`.

A configuration is a preset or a YAML file plus `key=value` overrides. A file may start from another one
with `extends: NAME`, or take the method of another one with `method: NAME`. An unknown key or a wrong value is refused by
name, with the nearest valid key.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from aipo import recorded
from aipo.config import PRESETS, presets
from aipo.config.layers import Key, Layers, Source, parse_override
from aipo.config.schema import Config, EnvConfig, GraphConfig
from aipo.errors import ConfigError, one_of
from aipo.util.files import read_text
from aipo.util.section import FINITE, Section, not_finite, recorded_values
from aipo.util.text import nearest

_Section = TypeVar("_Section", bound=Section)


def load_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a preset or a YAML file; see `resolve`."""
    config, _ = resolve(name, overrides)
    return config


def resolve(name: str, overrides: Iterable[str] = (), *, of_run: bool = False) -> tuple[Config, Layers]:
    """A configuration, and what it comes from: a preset or a YAML file, then `a.b=value` overrides, the last one winning.

    Args:
        of_run: it is the file that a run has recorded, perhaps with names of before.

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a wrong value.
    """
    defaults = {("graph", "name"): GraphConfig().name, ("env", "name"): EnvConfig().name}  # pyright: ignore[reportCallIssue]
    layers = Layers(defaults, may_import=not of_run)
    of_before: list[dict[str, Any]] = []
    for settings, source in _read(name, seen=()):
        if of_run and not source.is_preset:
            settings = recorded.settings(settings)
            of_before.append(settings)
        _lay(layers, settings, source)
    rest: list[str] = []
    for text in overrides:
        key, value, _ = parse_override(text)
        if key == ("method",) and isinstance(value, str):
            _lay_method(layers, value)
        else:
            rest.append(text)
    layers.lay_overrides(rest)
    if not any(not_finite(of_before)):
        check_finite(layers.settings, f"configuration {name!r}")
    return checked(Config, layers.settings, f"configuration {name!r}", recorded=of_before), layers


def _lay(layers: Layers, settings: Mapping[str, Any], source: Source, seen: tuple[str, ...] = ()) -> None:
    """Lays a file over what is there; a name as its method stands for the method of that preset or file."""
    if isinstance(name := settings.get("method"), str):
        _lay_method(layers, name, (*seen, source.name))
        settings = {key: value for key, value in settings.items() if key != "method"}
    layers.lay_file(settings, source)


def _lay_method(layers: Layers, name: str, seen: tuple[str, ...] = ()) -> None:
    """Puts the method of a preset or file in the place of what is said of the method so far.

    Raises:
        ConfigError: there is no such preset or file, or its method is its own.
    """
    if name in seen or f"preset {name}" in seen:
        raise ConfigError(f"method: got a circle {' -> '.join((*seen, name))}, allowed a chain that ends")
    layers.take_out(("method",))
    for settings, source in _read(name, seen=()):
        if "method" in settings:
            _lay(layers, {"method": settings["method"]}, source, (*seen, name))


def check_finite(settings: Mapping[str, Any], where: str) -> None:
    """Refuses infinity and NaN, which the JSON of traces cannot hold.

    Args:
        where: of the settings, for the error.

    Raises:
        ConfigError: names every key that has one.
    """
    if infinite := list(not_finite(settings)):
        lines = [f"{key}: got {value!r}, {FINITE}" for key, value in infinite]
        raise ConfigError(f"{where}:\n  " + "\n  ".join(lines))


def checked(
    section: type[_Section], raw: Mapping[str, Any], where: str, *, recorded: object = ()
) -> _Section:
    """`raw` as a `section`.

    Args:
        where: of the settings, for the error.
        recorded: settings of a run, whose values are taken as they are.

    Raises:
        ConfigError: names every key that is unknown or has a wrong value, and where.
    """
    try:
        return section.model_validate(raw, context=recorded_values(recorded))
    except ValidationError as error:
        lines = [
            _explain(section, item["loc"], item["type"], item["msg"], item["input"])
            for item in error.errors()
        ]
        raise ConfigError(f"{where}:\n  " + "\n  ".join(lines)) from error


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file's keys and values.

    Raises:
        ConfigError: not YAML, no keys, or a key that is given twice.
    """
    try:
        raw = _apart(yaml.load(read_text(path), Loader=_Unique) or {})
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        said = error if isinstance(error, yaml.YAMLError) else f"got {error}, allowed YAML in UTF-8"
        raise ConfigError(f"{what} {path}: {said}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{what} {path}: got {type(raw).__name__}, allowed keys and values")
    return raw


def read_lines(text: str) -> dict[Key, int]:
    """The line, from 1, of each key of a YAML text that `read_yaml` takes. What an anchor gives stands at the anchor."""
    return dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))


def _lines(node: yaml.Node | None, at: Key = ()) -> Iterator[tuple[Key, int]]:
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value if isinstance(node, yaml.MappingNode) else []
    for name, value in sorted(pairs, key=lambda pair: pair[0].value != "<<"):  # what is merged in comes first
        key = at if name.value == "<<" else (*at, name.value)
        yield key, name.start_mark.line + 1
        yield from _lines(value, key)


class _Unique(yaml.SafeLoader):
    """A mapping without duplicate keys: a second value would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key, times in Counter(keys).items() if times > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"got {twice} more than once, allowed each key once", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read(name: str, seen: tuple[str, ...]) -> list[tuple[dict[str, Any], Source]]:
    """A preset or file, after those that it extends."""
    if name in seen:
        raise ConfigError(f"extends: got a circle {' -> '.join((*seen, name))}, allowed a chain that ends")
    is_preset = name in presets()
    path = PRESETS / f"{name}.yaml" if is_preset else Path(name)
    if not path.is_file():
        raise ConfigError(f"configuration: got {name!r}, allowed a YAML file or one of {presets()}")
    raw = read_yaml(path, "configuration")
    base = raw.pop("extends", None)
    if not isinstance(base, str | None):
        raise ConfigError(one_of("extends", base, f"a YAML file or one of {presets()}", name))
    below = _read(base, (*seen, name)) if base is not None else []
    return [*below, (raw, Source(f"preset {name}" if is_preset else name, path, is_preset))]


def _apart(value: Any) -> Any:
    """A copy without objects shared through YAML anchors: an override of one agent does not change the others."""
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def _explain(section: type[Section], loc: tuple[int | str, ...], kind: str, message: str, got: object) -> str:
    key = ".".join(map(str, loc))
    if not loc:  # settings of several sections that contradict each other
        return message
    if kind == "value_error":  # settings of one section that contradict each other
        return f"{key}: {message.removeprefix('Value error, ')}"
    if kind != "extra_forbidden":
        return f"{key}: {message}, got {got!r}" if kind != "missing" else f"{key}: is missing"
    allowed = _keys_at(section, loc[:-1])
    hint = nearest(str(loc[-1]), allowed, list(map(str, loc[:-1])))
    return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"


def _keys_at(section: type[Section], loc: tuple[int | str, ...]) -> list[str]:
    model: Any = section
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        elif get_origin(model) is dict:
            model = get_args(model)[1]
        elif get_origin(model) is tuple:
            model = get_args(model)[0]
        sections = [part for part in get_args(model) if isinstance(part, type) and issubclass(part, Section)]
        model = sections[0] if isinstance(model, UnionType) and sections else model
    return list(model.model_fields)
