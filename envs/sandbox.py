"""Calls that nothing can hang: they run in processes of their own, and one that overruns is killed.

Some work cannot be stopped from within. `9^{9^{9^9}}` keeps one multiplication busy for years; no exception, thread
or signal handler gets through to it, only the end of its process does. So a few worker processes stand by; each takes
one call at a time over a socket, and stays as long as it answers in time.

What counts is processor time: on a machine that is busy with something else no call fails. Of the clock there is a
deadline besides, for a process that does nothing, and memory is bounded.

A call that hangs holds up no other: it gets a tenth of its time first, and at least a second. If that is not enough, its
worker is killed, other calls take its turn, and it begins anew, with all of its time, among the calls that take long.

This keeps us safe from odd input. It is no wall against hostile code: a worker may do whatever its user may.
"""

import asyncio
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from aipo.errors import ConfigError, LoadError, ScoreError, one_of
from aipo.util.text import error_text
from aipo.util.working_directory import importing_users_code, python_command

_FIRST = 0.1
"""The share of its time that a call gets before others take its turn."""
_LEAST_S = 1.0
"""Seconds of processor time that it gets at least: killing a worker and starting another one costs more."""


class _OutOfTimeError(Exception):
    """A call needs more time than it got."""


class Sandbox:
    """Calls one function whose arguments and results JSON can hold. It may be called twice for one result.

    Args:
        function: 'module:function'; the module is imported before the time of a first call begins.
        workers: most processes, in each event loop that calls, and as many again for calls that take long; they start
            as they are needed.
        seconds: processor time of one call.
        deadline: seconds on the clock, for one call and for the start of a worker.
        memory: bytes of address space of a worker (on Linux). One that keeps half of it is replaced.

    Raises:
        ConfigError: no worker, or no time.
    """

    def __init__(
        self,
        function: str,
        *,
        workers: int = 2,
        seconds: float = 5.0,
        deadline: float = 120.0,
        memory: int = 2**30,
    ) -> None:
        if workers < 1:
            raise ConfigError(one_of("workers", workers, ">= 1", f"the sandbox of {function}"))
        if not (seconds > 0 and deadline > 0):
            got = (seconds, deadline)
            raise ConfigError(one_of("seconds and deadline", got, "> 0", f"the sandbox of {function}"))
        self.function, self.workers, self.seconds, self.deadline = function, workers, seconds, deadline
        self.memory = memory
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._turns: dict[asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Semaphore]] = {}
        self.close: Callable[[], object] = weakref.finalize(self, _end_all, self._alive)
        """Ends every worker; so does the end of the sandbox, or of the process."""

    async def call(self, *arguments: object) -> Any:
        """The function's result. Waiting for a free worker takes nothing off the call's time.

        Raises:
            ScoreError: the function raised, took too long or ended its process; says which.
            LoadError: a worker does not start.
        """
        says = ""
        first = min(1.0, max(_FIRST, _LEAST_S / self.seconds))
        for turns, share in zip(self._turns_here(), dict.fromkeys((first, 1.0)), strict=False):
            async with turns:
                try:
                    return await self._attempt(arguments, share)
                except _OutOfTimeError as error:
                    says = str(error)
        raise ScoreError(says)

    async def _attempt(self, arguments: Sequence[object], share: float) -> Any:
        """The function's result, within this share of the time of a call."""
        seconds, deadline = self.seconds * share, self.deadline * share
        worker = self._standing_by() or _Worker(self.function, self.memory)
        self._alive.add(worker)
        try:
            async with asyncio.timeout(self.deadline):
                await worker.started()
            async with asyncio.timeout(deadline):
                reply = await worker.ask(arguments, seconds)
        except BaseException as error:
            # If only the rollout was cancelled: what its worker says next would answer nobody.
            self._end(worker)
            if isinstance(error, TimeoutError):
                given = deadline if worker.is_started else self.deadline
                says = f"{self.function}: got nothing, allowed a result in {given:g} s"
                raise (_OutOfTimeError if worker.is_started else ScoreError)(says) from error
            raise
        if reply["full"]:
            self._end(worker)
        else:
            self._idle.append(worker)
        if "error" in reply:
            raise ScoreError(f"{self.function}: got {reply['error']}, allowed a result")
        return reply["result"]

    def _turns_here(self) -> tuple[asyncio.Semaphore, asyncio.Semaphore]:
        """Of this event loop: the turns of first attempts, and of calls that take long."""
        # A semaphore belongs to the loop in which somebody waits for it.
        self._turns = {loop: turns for loop, turns in self._turns.items() if not loop.is_closed()}
        new = asyncio.Semaphore(self.workers), asyncio.Semaphore(self.workers)
        return self._turns.setdefault(asyncio.get_running_loop(), new)

    def _standing_by(self) -> "_Worker | None":
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            self._end(worker)  # somebody else has, which is no fault of this call
        return None

    def _end(self, worker: "_Worker") -> None:
        self._alive.discard(worker)
        worker.end()


class _Worker:
    """A process that answers one call after another, and this side of its socket."""

    def __init__(self, function: str, memory: int) -> None:
        self.function = function
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            self.process = subprocess.Popen(
                python_command(f"{__name__}:main", function, str(memory)),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is for us
                # The same call has the same result in every worker.
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.is_started, self._seconds = False, 0.0

    async def started(self) -> None:
        """Waits until it can be asked."""
        if not self.is_started:
            reply = await self._reply()
            if "error" in reply:
                raise LoadError(f"worker for {self.function}: got {reply['error']}, allowed one that starts")
            self.is_started = True

    async def ask(self, arguments: Sequence[object], seconds: float) -> dict[str, Any]:
        """`result` or `error` of one call, which gets so much processor time."""
        self._seconds = seconds
        line = json.dumps([seconds, arguments]).encode() + b"\n"
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, line)
        except ConnectionError:
            raise self._ended() from None
        return await self._reply()

    def end(self) -> None:
        """Kills it; nothing of it is left."""
        self.process.kill()
        self.process.wait()
        self._socket.close()

    async def _reply(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\n"):
            try:
                part = await loop.sock_recv(self._socket, 2**16)
            except ConnectionError:
                part = b""
            if not part:
                raise self._ended()
            line += part
        return json.loads(line)

    def _ended(self) -> ScoreError | _OutOfTimeError:
        """Why there is nothing more to read."""
        self.process.kill()  # one that still lives without its socket would let us wait
        code = self.process.wait()
        if code == -signal.SIGPROF:
            return _OutOfTimeError(
                f"{self.function}: got no result, allowed {self._seconds:g} s of processor time"
            )
        got = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ScoreError(f"{self.function}: got the end of its process ({got}), allowed a result")


def _end_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().end()


def main() -> None:
    """A worker's process: its arguments are the function and the bytes of its memory."""
    serve(sys.argv[1], int(sys.argv[2]))


def serve(function: str, memory: int) -> None:
    """What a worker does: a line with the arguments in, a line with the result or the error out."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(
        signal.SIGPROF, signal.SIG_DFL
    )  # the kernel's own way to end a process: no code of ours runs
    module, _, attribute = function.partition(":")
    try:
        with importing_users_code():
            target = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        _tell(replies, error=error_text(error))
        return
    _tell(replies, result=None)
    for line in sys.stdin.buffer:
        seconds, arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply = {"result": target(*arguments)}
            json.dumps(reply)
        except Exception as error:
            reply = {"error": error_text(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell(replies, full=_address_space() > memory / 2, **reply)


def _address_space() -> int:
    """Bytes that this process has got; 0 where the system does not say. (`ru_maxrss` would count its parent's, too.)"""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _tell(replies: BinaryIO, **reply: object) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()
