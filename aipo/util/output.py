"""What a command says to people, and what it says to programs with `--json`: one document, or events line by line."""

import codecs
import ctypes
import io
import json
import math
import os
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from typing import IO, Annotated, Any, TextIO

from rich.console import Console
from typer import BadParameter, Option

from aipo.errors import OtherRankError
from aipo.util.text import error_text, to_json

JsonOption = Annotated[
    bool, Option("--json", help="print the result as one JSON document; everything else goes to stderr")
]
EventsOption = Annotated[
    bool, Option("--json", help="print events as lines of JSON; everything else goes to stderr")
]


def finite(value: float | None) -> float | None:
    """For an option that is a number: neither an infinity nor NaN, which no comparison would refuse.

    Raises:
        BadParameter: it is.
    """
    if value is not None and not math.isfinite(value):
        raise BadParameter(f"got {value}, allowed a finite number")
    return value


def secure_streams() -> None:
    """Has the terminal's streams stay open, whatever somebody's code closes, and write a character that their encoding lacks
    (LANG=C, PYTHONIOENCODING=ascii) as \\uXXXX, as JSON does, instead of ending the command. Where nobody reads a stream
    any more (`| head -1`) the command goes on: its result does not depend on who reads."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end

    codecs.register_error("aipo.escape", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="aipo.escape")
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        stream.flush = partial(_unless_unread, stream, stream.flush)  # type: ignore[method-assign]
        stream.close = stream.flush  # type: ignore[method-assign]
        stream.write = partial(_write, stream, stream.write)  # type: ignore[method-assign]


def _write(stream: TextIO, write: Callable[[str], int], text: str) -> int:
    if text:
        stream.in_line = not text.endswith("\n")  # type: ignore[attr-defined]
    return _unless_unread(stream, write, text)


def _unless_unread(stream: TextIO, call: Callable[..., Any], *text: str) -> Any:
    try:
        return call(*text)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return call(*text)


def end_line(stream: IO[str]) -> None:
    """Begins a new line where somebody's code has left one open."""
    if getattr(stream, "in_line", False):
        stream.write("\n")


class PlainConsole(Console):
    """A console that prints texts as they are: in paths, questions and errors `[b]` is no markup, and `:a:` no emoji.

    Args:
        file: stdout or stderr as it is now, whatever somebody's code puts in its place; None = stdout, whatever it is.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file, markup=False, emoji=False)


class ResultConsole(PlainConsole):
    """The console of a command with `--json`: on stderr, for stdout has nothing but the result."""

    def __init__(self, stdout: TextIO) -> None:
        super().__init__(sys.stderr)
        self.stdout = stdout


class EventConsole(ResultConsole):
    """The same for a command that takes long: on stdout is one JSON object for each event."""

    def write(self, event: dict[str, Any]) -> None:
        """Writes one event. Where nobody reads any more, says so once: the work goes on."""
        try:
            self.stdout.write(to_json(event).decode() + "\n")
            self.stdout.flush()
        except BrokenPipeError:
            self.stdout = io.StringIO()
            self.print("stdout was closed: nobody reads events any more; the work goes on", style="yellow")


@contextmanager
def output(as_json: bool, kind: type[ResultConsole] = ResultConsole) -> Generator[Console]:
    """Where a command prints. With `as_json` all of it goes to stderr, and what libraries and users' code print."""
    if not as_json:
        yield PlainConsole(sys.stdout)
        return
    with _stdout_for_json() as stdout:
        yield kind(stdout)


@contextmanager
def event_output(as_json: bool) -> Generator[Console]:
    """The same for a command that writes events. The last event of a command that ends in an error is that error."""
    with output(as_json, EventConsole) as console:
        try:
            yield console
        except OtherRankError:
            raise  # rank 0 reports the error
        except BaseException as error:
            write_event(console, "failed", error=error_text(error))
            raise


def print_result(console: Console, result: object) -> None:
    """The result of a command as one JSON document on stdout, if its console is one of `--json`."""
    if isinstance(console, ResultConsole):
        with suppress(BrokenPipeError):
            print(json.dumps(result, indent=2, allow_nan=False, default=str), file=console.stdout, flush=True)


def write_event(console: Console, kind: str, **fields: Any) -> None:
    """An event on stdout, if its console is one of events; aipo/train/README.md lists the kinds."""
    if isinstance(console, EventConsole):
        console.write({"event": kind, **fields})


@contextmanager
def _stdout_for_json() -> Generator[TextIO]:
    """stdout, while stderr stands in its place: for Python's code, for C's, and for child processes."""
    with ExitStack() as stack:
        stdout = sys.stdout
        with suppress(OSError):  # a test's or a notebook's stdout has no file descriptor
            descriptor = stdout.fileno()
            stdout.flush()
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            stack.callback(sys.stdout.flush)  # what Python's code, and C's, wrote meanwhile is no result
            stack.callback(ctypes.CDLL(None).fflush, None)
            os.dup2(sys.stderr.fileno(), descriptor)
            stdout = os.fdopen(os.dup(kept), "w", encoding="utf-8")
            stack.callback(_close, stdout)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield stdout


def _close(stdout: TextIO) -> None:
    with suppress(BrokenPipeError):  # what nobody read is still in the buffer
        stdout.close()
