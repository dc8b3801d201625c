"""Settings laid over each other, preset under file under command line, each with the place that it comes from.

Some settings are for what another one names: `graph.options` for `graph.name`. A layer that names another graph drops
those beneath it, so that a preset's options do not reach a graph which does not know them.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aipo.errors import AipoError, ConfigError
from aipo.util.imports import load
from aipo.util.text import nearest

Key = tuple[str, ...]

_OF_CHAT_MODEL = ("options", "secrets", "prices")
_NAMES: Mapping[Key, tuple[Key, ...]] = {
    ("graph", "name"): (("graph", "options"),),
    ("env", "name"): (
        *(("env", "options"), ("env", "mixture"), ("evaluate", "splits")),
        *(("warmup", "mixture"), ("warmup", "solo_mixture")),
    ),
    ("policy", "model"): (("policy", "options"),),
    ("method", "coefficient"): tuple(
        ("method", f"coefficient_{part}") for part in ("value", "clip_low", "clip_high")
    ),
    ("warmup", "teacher", "model"): tuple(("warmup", "teacher", part) for part in _OF_CHAT_MODEL),
}
"""What is for the one that a setting names."""
_ALWAYS = (("policy", "model"), ("method", "coefficient"))
"""Names with which even what a user's file says is dropped: it would be taken for another thing, or refused."""


class Source(NamedTuple):
    """Where a value stands: a preset or a file, or `override` for the command line."""

    name: str
    file: Path | None = None
    is_preset: bool = False


OVERRIDE = Source("override")


@dataclass(slots=True)
class Layers:
    """Settings so far, the source of each value by its key, and sentences about what was dropped.

    Args:
        defaults: names that hold where no layer says another one, by key.
        may_import: another graph is imported to see which of the options beneath it takes; else it takes none.
    """

    defaults: Mapping[Key, str]
    may_import: bool = True
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    sources: dict[Key, Source] = field(default_factory=dict[Key, Source])
    dropped: list[str] = field(default_factory=list[str])

    def lay_file(self, settings: Mapping[str, Any], source: Source) -> None:
        """Lays a file over what is there, key by key. Of what one preset drops of another nothing is said.

        Raises:
            ConfigError: it leaves out an agent that is not there.
        """
        said = len(self.dropped)
        self._drop_for_another(settings, lambda _: True)
        if source.is_preset:
            del self.dropped[said:]
        for key, value in leaves(settings):
            if key[:-1] == ("agents",) and value is None:
                self._leave_out(key[-1])
            elif value != {} or not isinstance(_at(self.settings, key), dict):
                self._put(key, value, source)

    def take_out(self, key: Key) -> None:
        """Takes out all that is said of `key` so far."""
        self._forget(key)
        if key[-1] in (inside := _at(self.settings, key[:-1], {})):
            del inside[key[-1]]

    def lay_overrides(self, overrides: Iterable[str]) -> None:
        """Lays `a.b=value` over what is there; each replaces the whole value, and the last one wins. For another name
        they drop what a preset says; what a user's file says stays, and may be refused where it is used.

        Raises:
            ConfigError: no such form, or it leaves out an agent that is not there.
        """
        pairs = [parse_override(text) for text in overrides]
        named: dict[str, Any] = {}
        for key, value, _ in pairs:
            store(named, key, value)
        self._drop_for_another(named, lambda source: source.is_preset)
        for key, value, text in pairs:
            if key[:-1] == ("agents",) and value is None:
                self._leave_out(key[-1])
                continue
            for end in range(1, len(key)):
                beneath = _at(self.settings, key[:end], {})
                if not isinstance(beneath, dict):
                    raise ConfigError(f"override {text!r}: {key[end - 1]!r} holds a value, it has no keys")
            self._forget(key)
            store(self.settings, key, value)
            self.sources |= {(*key, *inner): OVERRIDE for inner, _ in leaves(value)}

    def _drop_for_another(self, over: Mapping[str, Any], droppable: Callable[[Source], bool]) -> None:
        names, agents = dict(_NAMES), over.get("agents")
        for agent in agents if isinstance(agents, dict) else ():
            of_agent = ("agents", agent)
            names[*of_agent, "model"] = tuple((*of_agent, part) for part in _OF_CHAT_MODEL)
        changes: dict[Key, tuple[Any, Any]] = {}
        for name in names:
            before, now = _at(self.settings, name, self.defaults.get(name)), _at(over, name)
            if before is not None and now is not None and plain_name(before) != plain_name(now):
                changes[name] = before, now
        for name, (before, now) in changes.items():
            keeps = (
                self._takes(now) if name == ("graph", "name") and ("env", "name") not in changes else _nothing
            )
            gone = [
                key
                for part in names[name]
                for key, source in self.sources.items()
                if key[: len(part)] == part
                and (droppable(source) or name in _ALWAYS)
                and not any(keeps(option) for option in key[len(part) : len(part) + 1])
            ]
            if told := [key for key in gone if _at(self.settings, key) is not None]:
                texts = ", ".join(f"{'.'.join(map(str, key))} ({self.sources[key].name})" for key in told)
                self.dropped.append(f"{texts}: set for {before}, and {'.'.join(name)} is now {now}")
            for key in gone:
                self._delete(key)

    def _takes(self, graph: object) -> Callable[[str], bool]:
        """Says of an option's name whether the graph's function takes it."""
        if not self.may_import:
            return _nothing
        try:
            parameters = inspect.signature(load(str(graph)).function).parameters
        except (AipoError, ValueError):
            return lambda _: True  # it cannot be built either, and says why then
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return lambda option: open_ended or option in parameters

    def _leave_out(self, agent: str) -> None:
        agents = self.settings.get("agents", {})
        if agent not in agents:
            hint = nearest(agent, list(agents), ["agents"])
            raise ConfigError(
                f"agents.{agent}: got null, which leaves an agent out, allowed {list(agents)}{hint}"
            )
        del agents[agent]
        self._forget(("agents", agent))

    def _delete(self, key: Key) -> None:
        """Deletes a value, and the mappings that are empty then."""
        self._forget(key)
        for end in range(len(key), 1, -1):
            inside = _at(self.settings, key[: end - 1])
            if end == len(key) or not inside[key[end - 1]]:
                del inside[key[end - 1]]

    def _put(self, key: Key, value: Any, source: Source) -> None:
        self._forget(key)
        store(self.settings, key, value)
        self.sources[key] = source

    def _forget(self, key: Key) -> None:
        """Of the sources: those of `key`, of what is in it, and of a value in whose place keys come."""
        beneath = [old for old in self.sources if old[: len(key)] == key or key[: len(old)] == old]
        for old in beneath:
            del self.sources[old]


def parse_override(text: str) -> tuple[Key, Any, str]:
    """The key, the value and the whole text of an override.

    Raises:
        ConfigError: no such form, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    key = _key(name)
    if not equals or not all(key):
        raise ConfigError(f"override: got {text!r}, allowed 'section.key=value'")
    try:
        return key, yaml.safe_load(value), text
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-30
        raise ConfigError(f"override {text!r}: {error}") from error


def _key(dotted: str) -> Key:
    return tuple(dotted.split("."))


def plain_name(name: object) -> str:
    """One writing of a name for both forms, 'graphs/consult.py:consult' and 'graphs.consult:consult'."""
    return str(name).removeprefix("./").replace(".py:", ":").replace("/", ".")


def leaves(value: Any, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value that is no mapping, or an empty one, with its key."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*at, name))
    else:
        yield at, value


def _at(settings: Any, key: Key, default: Any = None) -> Any:
    for name in key:
        if not isinstance(settings, Mapping) or name not in settings:
            return default
        settings = settings[name]
    return settings


def store(settings: dict[str, Any], key: Key, value: Any) -> None:
    """Sets the value of a key in nested settings, and makes the mappings on the way to it."""
    inside = settings
    for name in key[:-1]:
        if not isinstance(inside.get(name), dict):
            inside[name] = {}
        inside = inside[name]
    inside[key[-1]] = value


def _nothing(_: str) -> bool:
    return False
