"""The settings of two runs that differ: what somebody chose, and the rest. Left is A, right is B."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aipo.config import presets
from aipo.config.layers import leaves
from aipo.config.load import load_config
from aipo.viewer.data.run import RunView

_USUAL = "aipo_distil"  # the preset of `aipo train`


@dataclass(frozen=True, slots=True)
class Difference:
    """A value of both sides, by name; None where a side does not have it."""

    name: str
    left: str | float | None
    right: str | float | None

    @property
    def change(self) -> float | None:
        """From left to right, of numbers."""
        if isinstance(self.left, int | float) and isinstance(self.right, int | float):
            return self.right - self.left
        return None


@dataclass(frozen=True, slots=True)
class SettingsDiff:
    """Settings that differ.

    Args:
        chosen: the preset, and what is not as the preset of its side has it.
        rest: what comes with the presets, where and how the runs ran (`run.*`), and defaults that one side has not
            recorded.
    """

    chosen: Sequence[Difference] = ()
    rest: Sequence[Difference] = ()


def settings_diff(left: RunView, right: RunView) -> SettingsDiff:
    """The settings of two runs that differ; none where a side has recorded no settings.

    Raises:
        RunError: a configuration or manifest cannot be read.
    """
    sides = [(flat(run.config()), _preset(run)) for run in (left, right)]
    (a, preset_a), (b, preset_b) = sides
    if not a or not b:
        return SettingsDiff()
    chosen = differences({"preset": preset_a}, {"preset": preset_b}) if preset_a and preset_b else []
    rest: list[Difference] = []
    for difference in differences(a, b):
        set_by_user = any(_is_set(difference.name, values, _values_of(preset)) for values, preset in sides)
        is_choice = set_by_user and (difference.name == "run.seed" or not difference.name.startswith("run."))
        (chosen if is_choice else rest).append(difference)
    return SettingsDiff(_whole_agents(chosen, a, b), _whole_agents(rest, a, b))


def differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[Difference]:
    """Keys with another value on the other side, in the order of the left side, then of the right one."""
    pairs = (Difference(key, left.get(key), right.get(key)) for key in {**left, **right})
    return [pair for pair in pairs if pair.left != pair.right]


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `train.steps` → `200`."""
    return {
        prefix + ".".join(map(str, key)): json.dumps(inner, default=str, ensure_ascii=False)
        for key, inner in leaves(value)
        if key
    }


def _is_set(name: str, values: Mapping[str, str], usual: Mapping[str, str]) -> bool:
    """Is a setting of a side other than usual? A missing one is an agent that was left out, or not yet known."""
    return values[name] != usual.get(name) if name in values else name in usual and name.startswith("agents.")


def _preset(run: RunView) -> str:
    """The preset that a run names; empty where it names none, or a file."""
    name = run.manifest().get("preset")
    return name if isinstance(name, str) and name in presets() else ""


@lru_cache
def _values_of(preset: str) -> Mapping[str, str]:
    return flat(load_config(preset or _USUAL).model_dump(mode="json"))


def _whole_agents(found: Sequence[Difference], *sides: Mapping[str, str]) -> list[Difference]:
    """One line instead of all settings of an agent that only one side has."""
    agents = [
        {".".join(name.split(".")[:2]) for name in side if name.startswith("agents.")} for side in sides
    ]
    lines: dict[str, Difference] = {}
    for difference in found:
        agent = ".".join(difference.name.split(".")[:2])
        here = [agent in names for names in agents]
        if any(here) and not all(here):
            left, right = ("an agent" if has else None for has in here)
            lines[agent] = Difference(agent, left, right)
        else:
            lines[difference.name] = difference
    return list(lines.values())
