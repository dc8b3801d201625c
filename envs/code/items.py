"""Where the problems of a split are: a file, a folder of files, or the hub."""

import zlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from aipo.errors import LoadError, TaskError
from aipo.util.section import Section
from envs.code.problem import Problem
from envs.code.suites import SUITES, Row
from envs.file.rows import entry_of, file_rows, hub_rows
from envs.file.source import FILES

_NO_ROW = (
    ValueError,
    KeyError,
    TypeError,
    StopIteration,
    AttributeError,
    EOFError,
    zlib.error,
    UnpicklingError,
)


class ProblemSource(Section):
    """Where the problems of one split are; text is the name of a suite, from the hub."""

    suite: Literal["livecodebench", "humaneval", "mbpp"] = Field(..., description="how its rows are read")
    file: Path | None = Field(None, description="a file, or a folder of files; default: the hub")
    split: str = Field("test", description="split of the hub's data set")
    since: date | None = Field(None, description="first day of LiveCodeBench's contests")
    until: date | None = Field(None, description="last day of them")

    @model_validator(mode="before")
    @classmethod
    def _suite_alone(cls, given: Any) -> Any:
        return {"suite": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _window(self) -> Self:
        if (self.since or self.until) and self.suite != "livecodebench":
            raise ValueError(
                f"since, until: got {self.since}, {self.until} for {self.suite}, allowed for livecodebench"
            )
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since, until: got {self.since} after {self.until}, allowed a window")
        return self


def read_problems(source: ProblemSource, split: str = "", folder: Path | None = None) -> tuple[Problem, ...]:
    """The problems of `source` in its order, within its window of dates.

    Args:
        split: its name.
        folder: of files, or folders of files, that stand in for data sets of the hub.

    Raises:
        LoadError: there is no such file or data set, or it cannot be read.
        TaskError: a row is none of the suite, two have one name, or none is left.
    """
    if folder is not None and source.file is None:
        columns = ", ".join(SUITES[source.suite].columns)
        found = entry_of(split, folder.expanduser(), columns, folders=True)
        source = source.model_copy(update={"file": found})
    suite, where = SUITES[source.suite], source.file or SUITES[source.suite].hub
    problems: dict[str, Problem] = {}
    for place, row in enumerate(_rows(source)):
        if not _is_inside(source, row):
            continue
        try:
            problem = suite.problem(row)
        except _NO_ROW as error:
            columns = ", ".join(suite.columns)
            raise TaskError(
                f"item {place} of {where}: got {type(error).__name__}: {error}, allowed a row of {source.suite}, with {columns}"
            ) from error
        if problem.name in problems:
            raise TaskError(f"name: got {problem.name!r} twice, allowed each once, in {where}")
        problems[problem.name] = problem
    if not problems:
        raise TaskError(
            f"problems: got none from {source.since} to {source.until}, allowed at least one, in {where}"
        )
    return tuple(problems.values())


def _is_inside(source: ProblemSource, row: Row) -> bool:
    day = str(row.get("contest_date", ""))[:10]  # ISO: text in the order of days
    return (not source.since or day >= str(source.since)) and (not source.until or day <= str(source.until))


def _rows(source: ProblemSource) -> Iterator[Row]:
    if source.file is None:
        yield from _hub(source)
        return
    path = source.file.expanduser()
    files = sorted(file for file in path.iterdir() if file.name.endswith(FILES)) if path.is_dir() else [path]
    if not files:
        raise LoadError(f"folder of a split: got no {', '.join(FILES)}, allowed at least one file, in {path}")
    for file in files:
        yield from file_rows(file)


def _hub(source: ProblemSource) -> Iterator[Row]:
    suite = SUITES[source.suite]
    names = ", ".join(suite.files) or "the split's Parquet files"
    instead = (
        f"put {names} of huggingface.co/datasets/{suite.hub} (columns {', '.join(suite.columns)}) into a folder, and name it: "
        f"env.options.splits.NAME={{suite: {source.suite}, file: FOLDER}}, or env.options.folder, the folder around it"
    )
    if suite.files:
        urls = [f"hf://datasets/{suite.hub}/{file}" for file in suite.files]
        return hub_rows(suite.hub, instead, "json", data_files=urls, split="train")
    return hub_rows(suite.hub, instead, suite.hub, suite.config, split=source.split)
