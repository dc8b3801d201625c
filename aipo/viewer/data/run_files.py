"""Reads what lies beside the traces of a run: metrics, evaluations, and the result of a replay.

Anybody's script may write there. A value of another shape is a sentence on the page and hides no other file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from aipo import recorded
from aipo.util.text import cut

REPLAY = "replay.json"
_LARGEST = 1e100  # sums and axes of larger ones would not be finite
_LONGEST = 80  # characters
_Number = Annotated[float, Field(strict=True, ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, eq=False)
class RunMetrics:
    """Lines of metrics.jsonl: each has a `step`, and finite numbers or None."""

    rows: list[dict[str, float | None]] = field(default_factory=list[dict[str, float | None]])
    problems: tuple[str, ...] = ()


_ByK = dict[_Count, _Number | None]
_Intervals = dict[_Count, tuple[_Number, _Number] | None]


class TaskScore(BaseModel):
    """The result of one task."""

    task_id: str
    verdicts: int
    correct: int
    failed: int = 0
    labels: dict[str, str] = {}


class Curves(BaseModel):
    """Scores by k, and of how many tasks."""

    tasks: int | None = None
    pass_at: _ByK = {}
    interval: _Intervals = {}
    avg_at: _ByK = {}
    avg_interval: _Intervals = {}
    maj_at: _ByK = {}
    maj_interval: _Intervals = {}


class Scores(Curves):
    """The scores on one split under one setting; `by` is label → value → the scores of its tasks. Older files lack some."""

    counts: dict[str, int] = {}
    cost: dict[str, _Number | None] = {}
    by: dict[str, dict[str, Curves]] = {}
    per_task: list[TaskScore] = []


Splits = Mapping[str, Mapping[str, Scores]]
"""Scores by split and setting."""


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """One evaluation; without scores if the file has another shape."""

    splits: Splits = field(default_factory=dict[str, dict[str, Scores]])
    problems: tuple[str, ...] = ()


class ResultTable(BaseModel):
    """A table of text; the first cell of a row is its name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class ReplayResult(BaseModel):
    """The result of a replay as a page shows it; the numbers behind it (`values`) are for programs.

    Args:
        question: the sub-command of `aipo replay`.
        settings: of the replay, by name.
        notes: sentences.
    """

    question: str
    settings: dict[str, str] = {}
    tables: Sequence[ResultTable] = ()
    notes: Sequence[str] = ()


_SPLITS = TypeAdapter(dict[str, dict[str, Scores]])


def read_metrics(path: Path) -> RunMetrics:
    """The complete lines. A last line without an end is still being written.

    Of a metric with values that are no finite numbers, only the first is a problem.

    Raises:
        OSError: there is no such file, or nobody may read it.
    """
    rows: list[dict[str, float | None]] = []
    problems: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.setdefault("", f"{where}: got {error}, allowed JSON.")
            continue
        if not isinstance(row, dict) or _number(row.get("step")) is None:
            allowed = "an object with a number called step"
            problems.setdefault("", f"{where}: got {_shown(row)}, allowed {allowed}.")
            continue
        rows.append({recorded.metric(name): _number(value) for name, value in row.items()})
        for name, value in row.items():
            if value is not None and _number(value) is None:
                problems.setdefault(name, f"{where}: {name}: got {_shown(value)}, allowed a finite number.")
    return RunMetrics(rows, tuple(problems.values()))


def read_evaluation(path: Path) -> EvaluationFile:
    """The scores of one evaluation.

    Raises:
        OSError: there is no such file, or nobody may read it.
    """
    try:
        splits = _SPLITS.validate_json(path.read_bytes())
    except ValidationError as error:
        return EvaluationFile(problems=(f"{path.parent.name}/{path.name}: {_first(error)}.",))
    return EvaluationFile(
        {split: {recorded.kind(name): scores for name, scores in by.items()} for split, by in splits.items()}
    )


def read_replay(path: Path) -> ReplayResult:
    """The result that `aipo replay` left.

    Raises:
        ValueError: it is no JSON, or has another shape.
        OSError: there is no such file, or nobody may read it.
    """
    try:
        return ReplayResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(_first(error)) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    return f"{place}: got {_shown(first['input'])}: {first['msg']}"


def _number(value: object) -> float | None:
    """A number that a chart can draw, or None; an integer stays one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return value


def _shown(value: object) -> str:
    return cut(repr(value), _LONGEST)
