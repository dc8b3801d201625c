"""The trace store: traces reach the disk as their rollouts end.

One file of JSON lines per step, one trace per line. A line is written at once and synchronised within
two seconds: a killed process loses nothing that was finished, a dead machine at most two seconds. The
class is the seam behind which another format can come.
"""

import os
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from aipo.errors import RunError, TraceError
from aipo.trace import Trace

SYNC_AFTER_S = 1.0
_STEP_FILE = re.compile(r"step-(\d{5,})\.jsonl")


class TraceStore:
    """Traces of one run, by step: `folder/step-00012.jsonl`. One process writes, any number may read.

    Whoever does steps over (a run that resumes) says `begin`. What an earlier attempt left of that
    step and of later ones is then renamed to `step-00012.attempt-1.jsonl` and no longer read: no trace
    is lost, and none is read twice.

    Args:
        folder: made with the first trace.

    Attributes:
        torn: places (`file:line`) of half lines that reading has met so far and left out. Only a last
            line can be one; it is what a process leaves that is killed while it writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.torn: set[str] = set()
        self._file: _StepFile | None = None

    def append(self, trace: Trace) -> None:
        """Writes one trace to the file of its step.

        Raises:
            RunError: the disk is full or fails. What was written before stays readable.
            TraceError: the trace holds something that JSON cannot.
        """
        line = trace.to_json() + b"\n"
        path = self._path(trace.step)
        if self._file is not None and self._file.path != path:
            self.close()
        with self._disk(f"writing trace {trace.trace_id!r}"):
            if self._file is None:
                self._file = _StepFile(path)
            self._file.append(line)

    def seal(self, step: int, traces: Sequence[Trace]) -> None:
        """Replaces what was appended of `step` by the same traces with what became known afterwards
        (their advantages). The file changes whole or not at all.

        Raises:
            RunError: the disk is full or fails. What was appended stays.
        """
        self.close()
        path = self._path(step)
        draft = path.with_suffix(".draft")
        with self._disk(f"sealing step {step}"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with draft.open("wb") as file:
                    file.writelines(trace.to_json() + b"\n" for trace in traces)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def begin(self, step: int) -> None:
        """Sets aside what an earlier attempt left of `step` and of later steps.

        Raises:
            RunError: a file cannot be closed or renamed.
        """
        self.close()
        with self._disk(f"setting aside steps from {step}"):
            for later in self.steps():
                if later >= step:
                    path = self._path(later)
                    path.rename(_free_name(path))

    def read(self, step: int | None = None) -> Iterator[Trace]:
        """Traces of `step`, or of all steps in order; within a step as they finished.

        Raises:
            TraceError: a line that is not a half last one is no trace; names file and line.
        """
        for number in self.steps() if step is None else [step]:
            path = self._path(number)
            if path.exists():
                yield from self._read(path)

    def steps(self) -> list[int]:
        """Steps that have traces, in order."""
        found = (_STEP_FILE.fullmatch(path.name) for path in self.folder.glob("step-*.jsonl"))
        return sorted(int(match[1]) for match in found if match)

    def close(self) -> None:
        """Synchronises what was written. Appending afterwards opens the file again.

        Raises:
            RunError: the disk is full or fails.
        """
        file, self._file = self._file, None
        if file is not None:
            with self._disk(f"closing {file.path.name}"):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, path: Path) -> Iterator[Trace]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    trace = Trace.from_json(line, where)
                except TraceError:
                    if line.endswith(b"\n"):
                        raise
                    self.torn.add(where)
                else:
                    yield trace

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}.jsonl"

    @contextmanager
    def _disk(self, what: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{what}: got {error}, allowed a folder that can be written, in {self.folder}. "
                "Finished traces are kept there. Make room (or mend the disk), then resume the run."
            ) from error


class _StepFile:
    """An open file of lines. After an error it holds what it held before."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._size = _mend(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._failed: OSError | None = None

    def append(self, line: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)
        if self._timer is None:
            self._timer = threading.Timer(SYNC_AFTER_S, self._sync_later)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            file, self._file = self._file, -1
            try:
                os.fsync(file)
            finally:
                os.close(file)
        if self._failed is not None:
            raise self._failed

    def _sync_later(self) -> None:
        with self._lock:
            # Before the synchronising: a line that is written meanwhile needs another one.
            self._timer = None
            if self._file >= 0:
                try:
                    os.fsync(self._file)
                except OSError as error:
                    self._failed = error


def _mend(path: Path) -> int:
    """Ends a last line that lacks its end, or cuts it off if it is half. Returns the size in bytes."""
    content = path.read_bytes() if path.exists() else b""
    tail = content[content.rfind(b"\n") + 1 :]
    if not tail:
        return len(content)
    try:
        Trace.from_json(tail)
    except TraceError:
        os.truncate(path, len(content) - len(tail))
        return len(content) - len(tail)
    with path.open("ab") as file:
        file.write(b"\n")
    return len(content) + 1


def _free_name(path: Path) -> Path:
    attempts = len(list(path.parent.glob(f"{path.stem}.attempt-*.jsonl")))
    return path.with_name(f"{path.stem}.attempt-{attempts + 1}.jsonl")
