"""Filters: which traces are meant, for the command line, the viewer, exports and replay alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aipo.errors import ConfigError
from aipo.trace.types import StopReason

KINDS = ("assisted", "solo", "suppressed", "expert", "replay", "text", "taught")
DERIVATION = "derivation"
"""The reward part by which an environment says whether every step of an answer is right: 1.0, or less."""
FLAWED = f"CASE WHEN reward > 0 THEN TRY_CAST(reward_parts->>'{DERIVATION}' AS DOUBLE) < 1 END AS flawed"
"""The column `flawed`: rewarded although a step is wrong. NULL without a reward, or where nobody judged the steps."""
FAILED = f"stop_reason IN ({', '.join(repr(str(stop)) for stop in StopReason if stop.failed)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The conditions on a trace; None = any value, and an open end of a range, whose ends are inclusive.

    `task`, `reason`, `error` and `text` are parts of what they are compared with, the last three in any case. A trace without
    a reward matches no range of rewards, and one whose text nobody stored no text. `flawed`: rewarded although a step
    is wrong; False: rewarded, and every step is right. A trace whose steps nobody judged is neither.

    Raises:
        ConfigError: an unknown kind or stop reason, or a range that ends before it begins.
    """

    step: tuple[int | None, int | None] | None = None
    task: str | None = None
    group: str | None = None
    agent: str | None = None
    kind: str | None = None
    reward: tuple[float | None, float | None] | None = None
    reason: str | None = None
    stop: str | None = None
    failed: bool | None = None
    flawed: bool | None = None
    error: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(f"kind: got {self.kind!r}, allowed {', '.join(KINDS)}")
        if self.stop is not None and self.stop not in list(StopReason):
            raise ConfigError(f"stop: got {self.stop!r}, allowed {', '.join(StopReason)}")
        for name in ("step", "reward"):
            low, high = getattr(self, name) or (None, None)
            if low is not None and high is not None and low > high:
                raise ConfigError(
                    f"{name}: got {low}..{high}, allowed a range that does not end before it begins"
                )

    @property
    def splits_groups(self) -> bool:
        """Is there a condition that some rollouts of a group may meet, and others not?"""
        return any(getattr(self, name) is not None for name in set(_KEYS) - {"step", "task", "group"})


EVERYTHING = Filter()
_KEYS = tuple(Filter.__dataclass_fields__)
_BEFORE = {"mode": "kind"}
"""Names of before, which scripts may still use."""


_CONDITIONS = {
    "task": "contains(task_id, ?)",
    "group": "group_id = ?",
    "agent": "list_contains(agents, ?)",
    "kind": "kind = ?",
    "stop": "stop_reason = ?",
    "flawed": "flawed = ?",
    "reason": "contains(lower(reason), lower(?))",
    "error": "contains(lower(error), lower(?))",
    "text": "trace_id IN (SELECT trace_id FROM contexts WHERE contains(lower(array_to_string(texts, '')), lower(?)))",
}


def condition(where: Filter) -> tuple[str, list[object]]:
    """The filter as a condition on the view `summaries` of `aipo.trace.duckdb_views`, and the values of its marks."""
    parts: list[str] = []
    values: list[object] = []
    for name, bounds in (("step", where.step), ("reward", where.reward)):
        if bounds is not None:
            parts.append(f"{name} IS NOT NULL")
            ends = [(sign, end) for sign, end in zip((">=", "<="), bounds, strict=True) if end is not None]
            parts += [f"{name} {sign} ?" for sign, _ in ends]
            values += [end for _, end in ends]
    if where.failed is not None:
        parts.append(FAILED if where.failed else f"NOT ({FAILED})")
    for name, part in _CONDITIONS.items():
        if (value := getattr(where, name)) is not None:
            parts.append(part)
            values.append(value)
    return " AND ".join(parts) or "true", values


def parse_filter(words: Sequence[str]) -> Filter:
    """`key=value` words as a filter: `agent=verify reward=0.5.. step=3..7 failed=no`.

    Raises:
        ConfigError: a word without `=`, an unknown or repeated key, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = _BEFORE.get(key, key)
        if not sign or key not in _KEYS:
            raise ConfigError(f"the filter: got {key!r}, allowed {', '.join(f'{name}=' for name in _KEYS)}")
        if key in values:
            raise ConfigError(f"the filter: got a key twice in {list(words)}, allowed each once")
        if key in ("step", "reward"):
            values[key] = parse_range(key, value, int if key == "step" else float)
        elif key in ("failed", "flawed"):
            if value not in ("yes", "no"):
                raise ConfigError(f"{key}: got {value!r}, allowed yes, no")
            values[key] = value == "yes"
        else:
            values[key] = value
    return Filter(**values)


def parse_range(key: str, value: str, number: type[int] | type[float]) -> tuple[Any, Any]:
    """`3`, `3..7`, `..7` or `3..` as first and last.

    Raises:
        ConfigError: something else.
    """
    first, sign, last = value.partition("..")
    try:
        low, high = (number(end) if end.strip() else None for end in (first, last if sign else first))
    except ValueError:
        low = high = None
    if low is None and high is None:
        raise ConfigError(f"{key}: got {value!r}, allowed a number, or a range like 3..7, ..7, 3..")
    return low, high
