"""Where mathematical questions come from: JSON lines, Parquet, or a data set of the hub.

The columns of GSM8K, MATH-500 and AIME, as their authors and the hub have them, are known: `problem` or, where there is
none, `question`, and `answer`, in small letters or large. Others are named. A worked solution that ends in `#### 18`,
as GSM8K's do, is cut down to the 18, and what stands before is the task's `solution`.
"""

import codecs
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from aipo.errors import ConfigError, LoadError, TaskError
from aipo.rollout import Task
from aipo.util.files import no_text
from aipo.util.section import Section

QUESTIONS, ANSWERS = ("problem", "question"), ("answer",)
FINAL = "####"
FILES = (".jsonl", ".jsonl.gz", ".parquet")

Row = Mapping[str, Any]
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # notes of GSM8K's authors to a calculator


class Source(Section):
    """Where the items of one split are; text is the name of a file."""

    file: Path | None = Field(None, description="a file of JSON lines, perhaps with .gz, or of Parquet")
    hub: str | None = Field(None, description="or the name of a data set of the hub")
    config: str | None = Field(None, description="its configuration, where it has several")
    split: str | None = Field(None, description="its split")
    question: str | None = Field(None, description="column of the question; default: problem, question")
    answer: str | None = Field(None, description="column of the canonical answer; default: answer")
    solution: str | None = Field(None, description="column of a worked solution; default: as GSM8K has it")
    id: str | None = Field(None, description="column of an item's name; default: its place, from 0")

    @model_validator(mode="before")
    @classmethod
    def _file_alone(cls, given: Any) -> Any:
        return {"file": given} if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.hub is None):
            raise ValueError(f"got file={self.file} and hub={self.hub}, allowed one of them")
        if self.file is not None and not self.file.name.endswith(FILES):
            raise ValueError(f"file: got {self.file.name!r}, allowed {', '.join(FILES)}")
        if self.file is not None and (self.config or self.split):
            raise ValueError(f"config, split: got {self.config}, {self.split} for a file, allowed for hub")
        if self.hub is not None and self.split is None:
            raise ValueError(f"split: got none of {self.hub!r}, allowed the name of one")
        return self


def read_tasks(name: str, source: Source) -> tuple[Task, ...]:
    """Every item of `source` as a task of split `name`, in its order.

    Raises:
        LoadError: there is no such file or data set, or it cannot be read.
        ConfigError: it lacks a column.
        TaskError: an item without a question or an answer, or two of one name.
    """
    where = str(source.file or source.hub)
    tasks: dict[str, Task] = {}
    for place, row in enumerate(_rows(source)):
        at = f"item {place} of {where}"
        key = _value(row, (source.id,), at) if source.id else place
        worked, _, answer = _value(row, (source.answer,) if source.answer else ANSWERS, at).rpartition(FINAL)
        if source.solution:
            worked = _value(row, (source.solution,), at)
        task = Task(
            task_id=f"{name}/{key}",
            prompt=_value(row, (source.question,) if source.question else QUESTIONS, at),
            answer=answer.strip(),
            split=name,
            metadata={"solution": solution} if (solution := _CALCULATOR.sub("", worked).strip()) else {},
        )
        if not task.answer:
            raise TaskError(f"answer: got nothing, allowed a canonical answer, in {at}")
        if task.task_id in tasks:
            raise TaskError(f"id: got {key!r} twice, allowed names of their own, in {at}")
        tasks[task.task_id] = task
    if not tasks:
        raise TaskError(f"items: got none, allowed at least one, in {where}")
    return tuple(tasks.values())


def _rows(source: Source) -> Iterator[Row]:
    if source.file is not None:
        return _file(source.file)
    assert source.hub is not None and source.split is not None, "a source without a file has them"
    return _hub(source.hub, source.config, source.split)


def _value(row: Row, names: Sequence[str], where: str) -> str:
    """What the first of the columns `names` holds, as text."""
    columns = {column.lower(): column for column in reversed([*row])} | {column: column for column in row}
    column = next((columns[name] for name in names if name in columns), None)
    if column is None:
        raise ConfigError(
            f"column: got {list(row)}, allowed one that is called {' or '.join(names)}, or named by "
            f"env.options.splits.NAME.question and .answer, in {where}"
        )
    value = row[column]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        number = False
    text = value.strip().lower() if isinstance(value, str) else ""
    if not number and text in ("", "nan"):  # as tables write a value that is missing
        raise TaskError(f"{column}: got {value!r}, allowed text or a finite number, in {where}")
    return str(value)


def _file(file: Path) -> Iterator[Row]:
    path = file.expanduser()
    try:
        with path.open("rb") as begin:
            if kind := no_text(begin.read(64).partition(b"\0")[0]):
                raise LoadError(f"file of a split: got {kind}, allowed the data, in UTF-8, at {path}")
        yield from _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    except (OSError, EOFError, zlib.error) as error:
        raise LoadError(f"file of a split: got {error}, allowed one that can be read, at {path}") from error


def _json_lines(path: Path) -> Iterator[Row]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                raise LoadError(f"JSON: got {error}, allowed an object, in {path}:{number}") from error
            if not isinstance(row, dict):
                raise LoadError(f"JSON: got {type(row).__name__}, allowed an object, in {path}:{number}")
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise LoadError(f"Parquet: got {error}, allowed a file of it, at {path}") from error


def _hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    from datasets import load_dataset  # slow to import

    try:
        dataset: Any = load_dataset(name, config, split=split)
        yield from dataset
    except Exception as error:  # of many kinds: the hub's libraries and the network
        got = f"{type(error).__name__}: {error}"
        raise LoadError(
            f"data set of the hub: got {got}, allowed one that can be loaded, {name!r}"
        ) from error
