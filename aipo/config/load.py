"""The configuration: strict and frozen; its sections are in `aipo.config.schema` and `aipo.method.settings`.

A configuration is a preset or a YAML file plus `key=value` overrides. A file may start from another one
with `extends: NAME`. An unknown key or a wrong value is refused by name, with the nearest valid key.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from aipo import recorded
from aipo.config.schema import Config
from aipo.errors import ConfigError
from aipo.util.section import Section

_Section = TypeVar("_Section", bound=Section)

PRESETS = Path(__file__).parents[1] / "presets"


def presets() -> list[str]:
    """Names of the configurations that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(name: str, overrides: Iterable[str] = (), *, of_run: bool = False) -> Config:
    """A preset's name or a YAML file's path, then `a.b=value` overrides, the last one winning.

    Args:
        of_run: it is the file that a run has recorded, perhaps with names of before.

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a wrong value.
    """
    raw = _read(name, seen=())
    raw = recorded.settings(raw) if of_run else raw
    for override in overrides:
        _override(raw, override)
    return validate(raw, name)


def validate(raw: Mapping[str, Any], where: str) -> Config:
    """Checks nested plain data.

    Raises:
        ConfigError: names every key that is unknown or has a wrong value, and where.
    """
    return checked(Config, raw, f"configuration {where!r}")


def checked(section: type[_Section], raw: Mapping[str, Any], where: str) -> _Section:
    """`raw` as a `section`.

    Raises:
        ConfigError: names every key that is unknown or has a wrong value, and where.
    """
    try:
        return section.model_validate(raw)
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
        raw = _apart(yaml.load(path.read_text(encoding="utf-8"), Loader=_Unique) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{what} {path}: got {type(raw).__name__}, allowed keys and values")
    return raw


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


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"extends: got a circle {' -> '.join((*seen, name))}, allowed a chain that ends")
    path = PRESETS / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise ConfigError(f"configuration: got {name!r}, allowed a YAML file or one of {presets()}")
    raw = read_yaml(path, "configuration")
    base = raw.pop("extends", None)
    return _merge(_read(base, (*seen, name)), raw) if base is not None else raw


def _apart(value: Any) -> Any:
    """A copy without objects shared through YAML anchors: an override of one agent does not change the others."""
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def _merge(base: dict[str, Any], over: dict[str, Any], at: tuple[str, ...] = ()) -> dict[str, Any]:
    """`over` on top of `base`, key by key; another environment keeps nothing of the one before."""
    merged = {} if at == ("env",) and over.get("name", base.get("name")) != base.get("name") else dict(base)
    for key, value in over.items():
        if at == ("agents",) and value is None:
            _leave_out(merged, key)
        else:
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = _merge(merged[key], value, (*at, key)) if both else value
    return merged


def _leave_out(agents: dict[str, Any], name: str) -> None:
    if name not in agents:
        hint = _nearest(name, list(agents), ["agents"])
        raise ConfigError(f"agents.{name}: got null, which leaves an agent out, allowed {list(agents)}{hint}")
    del agents[name]


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override: got {text!r}, allowed 'section.key=value'")
    node = raw
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {text!r}: {part!r} holds a value, it has no keys")
    try:
        loaded = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: {error}") from error
    if parts[:-1] == ["agents"] and loaded is None:
        _leave_out(node, parts[-1])
    else:
        node[parts[-1]] = loaded


def _explain(section: type[Section], loc: tuple[int | str, ...], kind: str, message: str, got: object) -> str:
    key = ".".join(map(str, loc))
    if not loc:  # settings of several sections that contradict each other
        return message
    if kind == "value_error":  # settings of one section that contradict each other
        return f"{key}: {message.removeprefix('Value error, ')}"
    if kind != "extra_forbidden":
        return f"{key}: {message}, got {got!r}" if kind != "missing" else f"{key}: is missing"
    allowed = _keys_at(section, loc[:-1])
    hint = _nearest(str(loc[-1]), allowed, list(map(str, loc[:-1])))
    return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"


def _nearest(name: str, allowed: list[str], at: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.4)
    return f"; did you mean {'.'.join([*at, near[0]])!r}?" if near else ""


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
