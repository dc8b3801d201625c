"""Reads metrics and evaluations: the values that have the right shape, and a sentence about each that has not.

Anybody's script may write into `metrics.jsonl` and `evaluations/`. One odd number must not hide the others.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aipo import recorded

_LARGEST = 1e100  # sums and axes of larger ones would not be finite
_LONGEST = 80  # characters


@dataclass(slots=True)
class Problems:
    """Errors in a file: the first one at each place, and how many there are.

    Args:
        file: as a reader knows it.
    """

    file: str
    _first: dict[str, str] = field(default_factory=dict[str, str])
    _count: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, place: str, got: object, allowed: str, line: int | None = None) -> None:
        """`place` is common to problems of one kind; `line` is the line of this one."""
        where = self.file if line is None else f"{self.file}, line {line}"
        text = got if isinstance(got, Exception) else _short(repr(got))
        self._first.setdefault(place, f"{where}: {place}: got {text}, allowed {allowed}")
        self._count[place] = self._count.get(place, 0) + 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence for each place."""
        more = {place: f" ({count} times)" if count > 1 else "" for place, count in self._count.items()}
        return tuple(f"{first}{more[place]}." for place, first in self._first.items())


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Lines of metrics.jsonl: each has a `step`, and finite numbers or None."""

    rows: list[dict[str, float | None]] = field(default_factory=list[dict[str, float | None]])
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """One evaluation: split → setting → `pass_at` and `interval` by k."""

    splits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problems: tuple[str, ...] = ()


def read_metrics(path: Path) -> RunMetrics:
    """The complete lines. A last line without an end is still being written.

    Raises:
        OSError: there is no such file, or nobody may read it.
    """
    problems = Problems(path.name)
    rows = list(_rows(path.read_bytes(), problems))
    return RunMetrics(rows, problems.sentences)


def _rows(content: bytes, problems: Problems) -> Iterator[dict[str, float | None]]:
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add("a line", error, "JSON", number)
            continue
        if not isinstance(row, dict) or _number(row.get("step")) is None:
            problems.add("a line", row, "an object with a number called step", number)
            continue
        row = {recorded.metric(name): value for name, value in row.items()}
        kept = {name: _number(value) for name, value in row.items()}
        for name in (name for name, value in row.items() if value is not None and kept[name] is None):
            problems.add(name, row[name], "a finite number", number)
        yield kept


def read_evaluation(path: Path) -> EvaluationFile:
    """The scores of one evaluation.

    Raises:
        OSError: there is no such file, or nobody may read it.
    """
    problems = Problems(f"{path.parent.name}/{path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        problems.add("the file", error, "JSON")
        value = {}
    splits: dict[str, Any] = {}
    for split, settings in _mapping(value, "the file", problems).items():
        results = {
            recorded.kind(setting): _result(result, f"{split}.{setting}", problems)
            for setting, result in _mapping(settings, split, problems).items()
        }
        if results:
            splits[split] = results
    return EvaluationFile(splits, problems.sentences)


def _result(value: object, place: str, problems: Problems) -> Mapping[str, Any]:
    """`pass_at` and `interval` of one split under one setting."""
    result = _mapping(value, place, problems)
    pass_at: dict[str, float | None] = {}
    interval: dict[str, tuple[float, ...] | None] = {}
    for k, score in _mapping(result.get("pass_at", {}), f"{place}.pass_at", problems).items():
        if _is_count(k) and (score is None or _number(score) is not None):
            pass_at[k] = _number(score)
        else:
            problems.add(f"{place}.pass_at", {k: score}, "a finite number for a k from 1")
    for k, ends in _mapping(result.get("interval", {}), f"{place}.interval", problems).items():
        low_high = [_number(end) for end in ends] if isinstance(ends, list) else []
        numbers = tuple(end for end in low_high if end is not None)
        if _is_count(k) and (ends is None or len(numbers) == len(low_high) == 2):
            interval[k] = numbers or None
        else:
            problems.add(f"{place}.interval", {k: ends}, "two finite numbers for a k from 1")
    return {"pass_at": pass_at, "interval": interval}


def _mapping(value: object, place: str, problems: Problems) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    problems.add(place, value, "an object")
    return {}


def _number(value: object) -> float | None:
    """A number that a chart can draw, or None; an integer stays one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return value


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
