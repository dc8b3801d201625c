"""Rows become tasks.

The columns of GSM8K, MATH-500 and AIME, as their authors and the hub have them, are known: `problem` or, where there is
none, `question`, and `answer`, in small letters or large. Others are named. A worked solution that ends in `#### 18`,
as GSM8K's do, is cut down to the 18, and what stands before is the task's `solution`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aipo.errors import ConfigError, TaskError
from aipo.rollout import Task
from envs.choice.options import Choices, choices
from envs.file.rows import Row, rows
from envs.file.source import ANSWERS, QUESTIONS, SplitSource

FINAL = "####"
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # notes of GSM8K's authors to a calculator


def read_tasks(
    name: str, source: SplitSource, *, folder: Path | None = None, shuffle: int = 0
) -> tuple[Task, ...]:
    """Every item of `source` as a task of split `name`, in its order.

    Args:
        folder: of files that stand in for data sets of the hub.
        shuffle: seed of the order of options, where there are any.

    Raises:
        LoadError: there is no such file or data set, or it cannot be read.
        ConfigError: it lacks a column.
        TaskError: an item without a question or an answer, or two of one name.
    """
    where = str(source.file or source.hub)
    tasks: dict[str, Task] = {}
    for place, row in enumerate(rows(source, name, folder)):
        task = _task(name, row, place, source, shuffle, f"item {place} of {where}")
        if task.task_id in tasks:
            key = task.task_id.removeprefix(f"{name}/")
            raise TaskError(f"id: got {key!r} twice, allowed names of their own, in item {place} of {where}")
        tasks[task.task_id] = task
    if not tasks:
        raise TaskError(f"items: got none, allowed at least one, in {where}")
    return tuple(tasks.values())


def _task(name: str, row: Row, place: int, source: SplitSource, shuffle: int, at: str) -> Task:
    key = _text(row, (source.id,), at) if source.id else place
    question = _text(row, (source.question,) if source.question else QUESTIONS, at)
    metadata: dict[str, Any] = {}
    if source.options or source.wrong:
        shown = _choices(row, question, source, shuffle, at)
        question, answer, metadata["options"] = shown.question, shown.letter, list(shown.options)
        worked = ""
    else:
        worked, _, answer = _text(row, (source.answer,) if source.answer else ANSWERS, at).rpartition(FINAL)
    if source.solution:
        worked = _text(row, (source.solution,), at)
    if solution := _CALCULATOR.sub("", worked).strip():
        metadata["solution"] = solution
    metadata |= {column: row[column] for column in source.keep if row.get(column) is not None}
    if not answer.strip():
        raise TaskError(f"answer: got nothing, allowed a canonical answer, in {at}")
    return Task(
        task_id=f"{name}/{key}", prompt=question, answer=answer.strip(), split=name, metadata=metadata
    )


def _choices(row: Row, question: str, source: SplitSource, shuffle: int, at: str) -> Choices:
    """The options as they are shown, in an order of the seed."""
    names = (source.answer,) if source.answer else ANSWERS
    if source.wrong:
        right = _text(row, names, at)
        return choices(question, (right, *(_text(row, (one,), at) for one in source.wrong)), 0, shuffle, at)
    if isinstance(source.options, str):
        column, options = _value(row, (source.options,), at)
        if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
            raise TaskError(f"{column}: got a {type(options).__name__}, allowed a list of texts, in {at}")
    else:
        options = [_text(row, (one,), at) for one in source.options or ()]
    return choices(question, options, _value(row, names, at)[1], shuffle, at)


def _text(row: Row, names: Sequence[str], where: str) -> str:
    """What the first of the columns `names` holds, as text."""
    column, value = _value(row, names, where)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        number = False
    text = value.strip().lower() if isinstance(value, str) else ""
    if not number and text in ("", "nan"):  # as tables write a value that is missing
        inside = f", or a column inside it ({column}.0...)" if isinstance(value, list) else ""
        got = f"{value!r}" if isinstance(value, str | float | bool | None) else f"a {type(value).__name__}"
        raise TaskError(f"{column}: got {got}, allowed text or a finite number{inside}, in {where}")
    return str(value)


def _value(row: Row, names: Sequence[str], where: str) -> tuple[str, Any]:
    """The first of the columns `names` that there is, and what it holds."""
    columns = {column.lower(): column for column in reversed([*row])} | {column: column for column in row}
    for name in names:
        if name in columns:
            return columns[name], row[columns[name]]
        if "." in name:
            return name, _inside(row, name, where)
    raise ConfigError(
        f"column: got {list(row)}, allowed one that is called {' or '.join(names)}, or named by "
        f"env.options.splits.NAME.question and .answer, in {where}"
    )


def _inside(row: Row, name: str, where: str) -> Any:
    """The value of a column inside others: `prompt.0.content`."""
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            parts = list(value) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise ConfigError(
                f"column {name!r}: got no {part!r} in {parts}, allowed a column of it, in {where}"
            )
    return value
