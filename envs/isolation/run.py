"""Runs untrusted programs: one call for every language."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from aipo.errors import ScoreError
from envs.isolation.bubblewrap import (
    ENVIRONMENT,
    bare_command,
    check_isolation,
    forbidden,
    isolated_command,
    python_folders,
)
from envs.isolation.limits import DEFAULT_LIMITS, Limits, Outcome
from envs.isolation.seccomp import call_filter

_CHUNK = 2**16


class Isolation:
    """Runs programs that may be hostile.

    Args:
        python: a Python for programs; default: the one that runs AIPO, with the standard library alone.
        unsafe: without isolation; on a system where a program cannot be isolated, only this runs any.

    Raises:
        ConfigError: programs cannot be isolated here (says what to do), or Python does not run.
    """

    def __init__(self, *, python: str | None = None, unsafe: bool = False) -> None:
        self.unsafe = unsafe
        if not unsafe:
            check_isolation()
        plain = getattr(sys, "_base_executable", sys.executable)
        self._python, self._folders = python_folders(os.path.realpath(plain) if python is None else python)
        if not unsafe:
            self._filter = call_filter()
            self._try()

    def python(self, *arguments: str) -> list[str]:
        """The command for a Python program; its folder comes first on the import path, as usual."""
        return [self._python, "-s", "-B", *arguments]

    async def run(
        self,
        command: Sequence[str],
        *,
        limits: Limits,
        files: Mapping[str, str] | None = None,
        stdin: bytes | socket.socket = b"",
    ) -> Outcome:
        """Runs a program to its end. Isolated, nothing that it started outlives it, nor this process.

        Args:
            files: by name, text in its working directory.
            stdin: what it reads; a socket it can also write to (closed here once it has started).

        Raises:
            ScoreError: the program could not be started, which says nothing about it.
        """
        try:
            with ExitStack() as stack:
                given = stdin if isinstance(stdin, socket.socket) else _file(stdin)
                stack.callback(given.close)
                run = self._run_bare if self.unsafe else self._run_isolated
                return await run(command, files or {}, given, limits, stack)
        except OSError as error:  # no room, too many open files
            raise ScoreError(f"sandbox: got {error}, allowed a program that starts") from error

    async def _run_isolated(
        self,
        command: Sequence[str],
        files: Mapping[str, str],
        stdin: socket.socket | BinaryIO,
        limits: Limits,
        stack: ExitStack,
    ) -> Outcome:
        line, descriptors, told = self._isolated(command, files, limits, stack)
        try:
            process = await _start(line, stdin, pass_fds=descriptors, env={"PATH": os.environ["PATH"]})
        finally:
            os.close(descriptors[-1])
        status = _Status(told)
        outcome = await _finish(process, limits, lambda: status.kill(process))
        return outcome if outcome.ended else status.judge(outcome)

    async def _run_bare(
        self,
        command: Sequence[str],
        files: Mapping[str, str],
        stdin: socket.socket | BinaryIO,
        limits: Limits,
        stack: ExitStack,
    ) -> Outcome:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="aipo-unsafe-"))
        for name, text in files.items():
            (Path(folder) / name).write_bytes(_bytes(text))
        line = bare_command(command, limits)
        process = await _start(line, stdin, cwd=folder, env={**ENVIRONMENT, "HOME": folder})

        def kill() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        try:
            return await _finish(process, limits, kill)
        finally:
            kill()  # what it started, as far as it stayed in its group

    def _isolated(
        self, command: Sequence[str], files: Mapping[str, str], limits: Limits, stack: ExitStack
    ) -> tuple[list[str], list[int], int]:
        """The command line, the descriptors it needs (last: where bubblewrap tells), and where to read what it tells."""
        opened = {name: stack.enter_context(_file(_bytes(text))).fileno() for name, text in files.items()}
        seccomp = stack.enter_context(_file(self._filter)).fileno()
        told, status = os.pipe()
        stack.callback(os.close, told)
        os.set_blocking(told, False)
        line = isolated_command(command, opened, self._folders, limits, status, seccomp)
        return line, [*opened.values(), seccomp, status], told

    def _try(self) -> None:
        """Runs the Python once, and so finds out whether this system allows it."""
        with ExitStack() as stack:
            line, descriptors, _ = self._isolated(self.python("-c", ""), {}, DEFAULT_LIMITS, stack)
            try:
                run = subprocess.run(
                    line, pass_fds=descriptors, stdin=subprocess.DEVNULL, capture_output=True, text=True
                )
            finally:
                os.close(descriptors[-1])
        if run.returncode:
            raise forbidden(run.stderr.strip()[-300:])


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # Python refuses such a source, and not we


def _file(content: bytes) -> BinaryIO:
    """A file in no folder, from which `content` can be read."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    file.write(content)
    file.seek(0)
    return file


async def _start(
    line: Sequence[str], stdin: socket.socket | BinaryIO, **settings: Any
) -> asyncio.subprocess.Process:
    """Starts a process, and closes what it reads: it has that now."""
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *line, stdin=stdin.fileno(), stdout=pipe, stderr=pipe, start_new_session=True, **settings
        )
    finally:
        stdin.close()


async def _finish(process: asyncio.subprocess.Process, limits: Limits, kill: Callable[[], None]) -> Outcome:
    """Reads what the process writes until it ends, or a limit ends it."""
    assert process.stdout is not None and process.stderr is not None, "both were asked for as pipes"
    stdout, stderr = bytearray(), bytearray()
    ended: Literal["deadline", "output"] | None = None
    try:
        async with asyncio.timeout(limits.deadline):
            whole = await asyncio.gather(
                _read(process.stdout, stdout, limits.output, kill),
                _read(process.stderr, stderr, limits.output, kill),
            )
            await process.wait()
            ended = None if all(whole) else "output"
    except TimeoutError:
        ended = "deadline"
    finally:
        if process.returncode is None:
            kill()
            await process.wait()
        await asyncio.gather(
            process.stdout.read(), process.stderr.read()
        )  # what is open would outlive the loop
    code = None if ended else process.returncode
    if code is not None and code < 0:  # of a process without bubblewrap
        code = 128 - code
    return Outcome(code=code, stdout=bytes(stdout), stderr=bytes(stderr), ended=ended)


async def _read(stream: asyncio.StreamReader, into: bytearray, most: int, kill: Callable[[], None]) -> bool:
    """Reads all that a program writes; one that writes more than it may is killed, and False returned."""
    while part := await stream.read(_CHUNK):
        if len(into) + len(part) > most:
            into += part[: most - len(into)]
            kill()
            return False
        into += part
    return True


class _Status:
    """What bubblewrap tells of the program; the program cannot write there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._fields: dict[str, int] = {}

    def _read(self) -> dict[str, int]:
        with suppress(BlockingIOError):
            for line in os.read(self._descriptor, _CHUNK).splitlines():
                self._fields.update(json.loads(line))
        return self._fields

    def kill(self, process: asyncio.subprocess.Process) -> None:
        """Ends the program; bubblewrap waits for it, so that no dead process is left to somebody else."""
        with suppress(ProcessLookupError):
            if (child := self._read().get("child-pid")) is not None:
                os.kill(child, signal.SIGKILL)
            else:
                process.kill()

    def judge(self, outcome: Outcome) -> Outcome:
        """The outcome with the program's exit status.

        Raises:
            ScoreError: there is none: the program never ran, or bubblewrap was killed.
        """
        if (code := self._read().get("exit-code")) is None:
            raise ScoreError(f"sandbox: got {outcome.says}, allowed a program that runs to its end")
        return replace(outcome, code=code)
