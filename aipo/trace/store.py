"""The trace store: traces reach the disk as their rollouts end, and stay there as Parquet.

traces/step-00012-00000.parquet            step 12: immutable, zstd (`aipo.trace.arrow`)
traces/__journal/step-00012-00000.jsonl     the same while the step is in flight (`aipo.trace.journal`)
traces/__superseded/                        what a step that was done over had left

A step's file takes its name before its journal goes, and readers look for journals first: they see every
finished trace at any time, and none twice. DuckDB, `datasets`, polars and pandas read `traces/*.parquet`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from aipo.errors import RunError, TraceError
from aipo.trace.arrow import FLOAT_COLUMNS, INDEX, VERSION_KEY, Stored, from_table, to_table
from aipo.trace.journal import Journal, read_journal, to_line
from aipo.trace.parquet_files import JOURNALS, StepFile, StepFiles, check_version, step_files
from aipo.trace.text import Decode, texts_of
from aipo.trace.types import SCHEMA_VERSION, Trace
from aipo.util.files import writing

# Row groups are small enough to open one trace quickly; floats are split by byte, which halves their size.
_TOKENS_PER_GROUP = 1 << 17


class TraceStore:
    """Traces of one run. One process writes; any number may read.

    Whoever does steps over (a run that resumes) says `begin`. What an earlier attempt left of that step
    and of later ones then moves to `__superseded/`: no trace is lost, and none is read twice.

    Args:
        folder: made with the first trace.
        decode: token ids to text; the texts of the segments are stored for those who only read.
    """

    def __init__(self, folder: Path, *, decode: Decode | None = None) -> None:
        self.folder = folder
        self._decode = decode
        self._files = StepFiles(folder)
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
        with writing(f"writing trace {trace.trace_id!r}", self.folder):
            if self._journal is None:
                if (sealed := self._files.path(trace.step)).exists():  # no reader would see the trace
                    raise RunError(
                        f"trace of step {trace.step}: got a step that {sealed} has sealed, allowed another (or `begin`)"
                    )
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
        tokens = max(1, sum(table.column("tokens").to_pylist()))
        self._files.publish(
            step,
            table,
            rows_per_group=max(1, table.num_rows * _TOKENS_PER_GROUP // tokens),
            use_byte_stream_split=FLOAT_COLUMNS,
            use_dictionary=[],
            write_statistics=[f"{name}.list.element" if name == "agents" else name for name in INDEX],
        )
        with writing(f"sealing step {step}", self.folder):
            self._journal_path(step).unlink(missing_ok=True)
        self._appended.clear()

    def begin(self, step: int) -> None:
        """Sets aside what an earlier attempt left of `step` and of later steps.

        Raises:
            RunError: a file cannot be closed or moved.
        """
        self.close()
        self._appended.clear()
        self._files.set_aside(step)

    def read(self, step: int | None = None) -> Iterator[Trace]:
        """Traces of `step`, or of all steps in order; see `stored`."""
        return (stored.trace for stored in self.stored(step))

    def stored(self, step: int | None = None) -> Iterator[Stored]:
        """Traces and their texts, of `step` or of all steps in order.

        Raises:
            TraceError: a file or a line is no trace; names file and place.
        """
        for file in sorted(chain(*list_traces(self.folder))):
            if step is None or file.step == step:
                yield from _read(file.path)

    def steps(self) -> list[int]:
        """Steps that have traces, in order."""
        return sorted({file.step for file in chain(*list_traces(self.folder))})

    def close(self) -> None:
        """Synchronises the journal. Appending afterwards opens it again.

        Raises:
            RunError: the disk is full or fails.
        """
        journal, self._journal = self._journal, None
        if journal is not None:
            with writing(f"closing {journal.path.name}", self.folder):
                journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_texts(self, trace: Trace) -> Stored:
        if self._decode is None:
            return Stored(trace, None)
        known = self._appended.get(trace.trace_id)
        if known is not None and known.trace.segments is trace.segments:  # what is sealed was appended before
            return Stored(trace, known.texts)
        return Stored(trace, texts_of([s.token_ids for s in trace.segments], self._decode))

    def _journal_path(self, step: int) -> Path:
        return self.folder / JOURNALS / self._files.path(step).with_suffix(".jsonl").name


def list_traces(folder: Path) -> tuple[list[StepFile], list[StepFile]]:
    """Every file of traces in `folder`, and the journals of steps that have no file yet."""
    journals = step_files(folder / JOURNALS, ".jsonl")  # first: what is sealed meanwhile is seen as sealed
    sealed = step_files(folder)
    done = {file.path.stem for file in sealed}
    return sealed, [journal for journal in journals if journal.path.stem not in done]


def read_file(path: Path, trace_id: str | None = None) -> list[Stored]:
    """Traces of one Parquet file, all of them or the one with this id.

    Raises:
        TraceError: the file is torn, of another schema version, or holds something else.
    """
    open_file(path).close()
    chosen = None if trace_id is None else [("trace_id", "==", trace_id)]
    return from_table(pq.read_table(path, filters=chosen), str(path))


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
    check_version(file.schema_arrow, str(path), VERSION_KEY, SCHEMA_VERSION)
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


def _read(path: Path) -> list[Stored]:
    try:
        return read_file(path) if path.suffix == ".parquet" else [stored for stored, _ in read_journal(path)]
    except FileNotFoundError:  # sealed since it was listed
        sealed = path.parents[1] / path.with_suffix(".parquet").name
        return read_file(sealed) if sealed.exists() else []
