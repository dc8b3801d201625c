"""The trace store: traces reach the disk as their rollouts end, and stay there as Parquet.

traces/step-00012-00000.parquet            step 12 of process 0: immutable, zstd (`aipo.trace.arrow`)
traces/__journal/step-00012-00000.jsonl     the same while the step is in flight (`aipo.trace.journal`)
traces/__superseded/                        what a step that was done over had left

A step's file takes its name before its journal goes, and readers look for journals first: they see every
finished trace at any time, and none twice. DuckDB, `datasets`, polars and pandas read `traces/*.parquet`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from aipo.errors import RunError, TraceError
from aipo.trace.arrow import FLOAT_COLUMNS, INDEX, Stored, check_version, from_table, to_table
from aipo.trace.journal import Journal, read_journal, to_line
from aipo.trace.parquet_files import StepFile, StepFiles, on_disk, supersede
from aipo.trace.text import Decode, texts_of
from aipo.trace.types import Trace

_TOKENS_PER_GROUP = 1 << 17
_JOURNAL = re.compile(r"step-(\d{5,})-(\d{5,})\.jsonl")


class Listing(NamedTuple):
    """The content of a folder at one moment. A step in flight has a journal and no file yet."""

    sealed: list[StepFile]
    journals: list[StepFile]


class TraceStore:
    """Traces of one run. Every process writes files of its own; any number may read.

    Whoever does steps over (a run that resumes) says `begin`. What an earlier attempt left of that step
    and of later ones then moves to `__superseded/`: no trace is lost, and none is read twice.

    Args:
        folder: made with the first trace.
        decode: token ids to text; the texts of the segments are stored for those who only read.
        process: whose files are written.

    Attributes:
        torn: places of half lines that reading has met so far and left out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        decode: Decode | None = None,
        process: int = 0,
    ) -> None:
        self.folder = folder
        self.torn: set[str] = set()
        self._decode = decode
        self._files = StepFiles(folder, process)
        self._journal: Journal | None = None
        self._appended: dict[str, Stored] = {}

    def append(self, trace: Trace) -> None:
        """Writes one trace to the journal of its step.

        Raises:
            RunError: the step is sealed, or the disk is full or fails. What was written before stays readable.
            TraceError: the trace holds something that JSON cannot.
        """
        stored = self._with_texts(trace)
        line = to_line(stored)
        path = self._journal_path(trace.step)
        if self._journal is not None and self._journal.path != path:
            self.close()
        with on_disk(f"writing trace {trace.trace_id!r}", self.folder):
            if self._journal is None:
                self._refuse_sealed(trace.step)
                self._journal = Journal(path)
            self._journal.append(line)
        self._appended[trace.trace_id] = stored

    def seal(self, step: int, traces: Sequence[Trace]) -> None:
        """Makes a step's traces, with what became known after they had finished, its Parquet file.

        Raises:
            RunError: the step is sealed already, or the disk is full or fails. The journal stays then.
        """
        self.close()
        if not traces:
            return
        table = to_table([self._with_texts(trace) for trace in traces])
        self._files.publish(step, table, **_layout(table))
        with on_disk(f"sealing step {step}", self.folder):
            self._journal_path(step).unlink(missing_ok=True)
        self._appended.clear()

    def begin(self, step: int) -> None:
        """Sets aside what an earlier attempt of this process left of `step` and of later steps.

        Raises:
            RunError: a file cannot be closed or moved.
        """
        self.close()
        self._appended.clear()
        self._files.set_aside(step)
        with on_disk(f"setting aside steps from {step}", self.folder):
            for journal in _journals(self.folder):
                if journal.process == self._files.process and journal.step >= step:
                    supersede(journal.path, self.folder)

    def read(self, step: int | None = None) -> Iterator[Trace]:
        """Traces of `step`, or of all steps in order; see `stored`."""
        return (stored.trace for stored in self.stored(step))

    def stored(self, step: int | None = None) -> Iterator[Stored]:
        """Traces and their texts, of `step` or of all steps in order.

        Raises:
            TraceError: a file or a line is no trace; names file and place. A half last line of a journal is
                left out (`torn`).
        """
        listing = list_traces(self.folder)
        for file in sorted([*listing.sealed, *listing.journals]):
            if step is None or file.step == step:
                yield from self._read(file)

    def steps(self) -> list[int]:
        """Steps that have traces, in order."""
        listing = list_traces(self.folder)
        return sorted({file.step for files in listing for file in files})

    def close(self) -> None:
        """Synchronises the journal. Appending afterwards opens it again.

        Raises:
            RunError: the disk is full or fails.
        """
        journal, self._journal = self._journal, None
        if journal is not None:
            with on_disk(f"closing {journal.path.name}", self.folder):
                journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, file: StepFile) -> Iterator[Stored]:
        if file.path.suffix == ".parquet":
            yield from read_file(file.path)
            return
        try:
            yield from [stored for stored, _ in read_journal(file.path, self.torn)]
        except FileNotFoundError:  # sealed since it was listed
            sealed = file.path.parents[1] / file.path.with_suffix(".parquet").name
            yield from read_file(sealed) if sealed.exists() else ()

    def _with_texts(self, trace: Trace) -> Stored:
        if self._decode is None:
            return Stored(trace, None)
        known = self._appended.get(trace.trace_id)
        if known is not None and known.trace.segments is trace.segments:  # what is sealed was appended before
            return Stored(trace, known.texts)
        return Stored(trace, texts_of([s.token_ids for s in trace.segments], self._decode))

    def _refuse_sealed(self, step: int) -> None:
        """Refuses a trace for a sealed step: no reader would see it."""
        if (file := self._files.path(step)).exists():
            raise RunError(
                f"trace of step {step}: got a step that {file} has sealed, allowed another (or `begin`)"
            )

    def _journal_path(self, step: int) -> Path:
        return self.folder / "__journal" / self._files.path(step).with_suffix(".jsonl").name


def list_traces(folder: Path) -> Listing:
    """Every file of traces in `folder`, of all processes; none where it is no folder."""
    if not folder.is_dir():
        return Listing([], [])
    journals = _journals(folder)  # first: a step that is sealed between the two looks is seen as sealed
    sealed = StepFiles(folder).files()
    done = {(file.step, file.process) for file in sealed}
    return Listing(sealed, [j for j in journals if (j.step, j.process) not in done])


def read_file(path: Path, rows: Sequence[int] | None = None) -> list[Stored]:
    """Traces of one Parquet file, all of them or those in these rows.

    Raises:
        TraceError: the file is torn, of another schema version, or holds something else.
    """
    with open_file(path) as file:
        if rows is None:
            return from_table(file.read(), str(path))
        return [_row(file, row, str(path)) for row in rows]


def open_file(path: Path) -> pq.ParquetFile:
    """A file of traces whose version is ours.

    Raises:
        TraceError: the file is gone, torn or of another version.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise TraceError(
            f"file of traces {path}: got {error}, allowed Parquet as `aipo` writes it"
        ) from error
    check_version(file.schema_arrow, str(path))
    return file


def traces_in(path: Path) -> Path:
    """The folder with the traces: of a run, of an evaluation, or `path` itself.

    Raises:
        RunError: there are none.
    """
    for folder in (path / "traces", path):
        if any(list_traces(folder)):
            return folder
    runs = sorted(str(folder.parent) for folder in path.glob("*/traces")) if path.is_dir() else []
    got = f"{path}, which holds the runs {', '.join(runs)}" if runs else str(path)
    there = ", which is a file" if path.is_file() else "" if path.exists() else ", which does not exist"
    raise RunError(f"traces: got {got}{there}, allowed a run, one of its evaluations, or a folder of traces")


def _row(file: pq.ParquetFile, row: int, where: str) -> Stored:
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return from_table(file.read_row_group(group).slice(row, 1), where)[0]
        row -= rows
    raise TraceError(f"row of {where}: got {row} beyond its end, allowed one that is there")


def _journals(folder: Path) -> list[StepFile]:
    found = ((_JOURNAL.fullmatch(path.name), path) for path in (folder / "__journal").glob("step-*.jsonl"))
    return sorted(StepFile(int(m[1]), int(m[2]), path) for m, path in found if m)


def _layout(table: pa.Table) -> dict[str, Any]:
    """Row groups small enough to open one trace quickly; floats split by byte, which halves their size."""
    tokens = max(1, sum(table.column("tokens").to_pylist()))
    leaves = [f"{name}.list.element" if name == "agents" else name for name in INDEX]
    return {
        "rows_per_group": max(1, table.num_rows * _TOKENS_PER_GROUP // tokens),
        "use_byte_stream_split": FLOAT_COLUMNS,
        "use_dictionary": [],
        "write_statistics": leaves,
    }
