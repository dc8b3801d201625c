"""The journal of a step in flight: JSON lines, one trace per line, appended as rollouts end.

A line is written at once and synchronised within two seconds: a killed process loses nothing that was
finished, a dead machine at most two seconds. A line is the trace's JSON with the texts of its segments.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from aipo.trace.arrow import Stored
from aipo.trace.types import Trace
from aipo.util.files import sync_folder
from aipo.util.text import clean, parse_line, to_json

SYNC_AFTER_S = 1.0


def to_line(stored: Stored) -> bytes:
    """One line, its end included.

    Raises:
        TraceError: the trace holds something that JSON cannot.
    """
    texts = None if stored.texts is None else [*map(clean, stored.texts)]
    return stored.trace.to_json()[:-1] + b',"texts":' + to_json(texts) + b"}\n"


def from_line(line: bytes, where: str) -> Stored:
    """The inverse of `to_line`.

    Raises:
        TraceError: a torn line, another schema version, or no trace; names `where`.
    """
    raw = parse_line(line, where)
    texts = raw.pop("texts", None) if isinstance(raw, dict) else None
    return Stored(Trace.from_raw(raw, where), None if texts is None else tuple(texts))


class Journal:
    """An open file of lines. After an error it holds what it held before.

    Raises:
        OSError: the disk is full or fails.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(self._file, self._size)  # a killed process leaves half a line
        for folder in (path.parent, path.parent.parent):  # the file's name must last, not only its content
            sync_folder(folder)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._failed: OSError | None = None

    def append(self, line: bytes) -> None:
        """Writes one line whole or not at all."""
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
            self._timer = threading.Timer(SYNC_AFTER_S, self._sync)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Synchronises what was written."""
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

    def _sync(self) -> None:
        with self._lock:
            # Before the synchronising: a line that is written meanwhile needs another one.
            self._timer = None
            try:
                if self._file >= 0:
                    os.fsync(self._file)
            except OSError as error:
                self._failed = error


def read_journal(path: Path, start: int = 0) -> Iterator[tuple[Stored, int]]:
    """Traces from byte `start` on, each with the byte behind it.

    A last line without its end is left out: it is being written, or was when its process was killed.

    Raises:
        TraceError: a whole line is no trace; names file and byte.
        FileNotFoundError: its step has been sealed meanwhile.
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                stored = from_line(line, f"{path}:{start}")
                start += len(line)
                yield stored, start
