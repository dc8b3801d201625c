"""How processes end: this one by SIGTERM or SIGHUP, and those that it started.

A scheduler takes a machine back by SIGTERM; a terminal that closes, or an SSH connection that ends, sends SIGHUP. They
are like Ctrl-C, but first what was earned is kept.

A long work *holds* the signal (an optimizer step cannot be left halfway) and says where it may be interrupted (rollouts
can). There it is an interrupt that becomes `Terminated`, for whoever has something to save. A second SIGTERM ends
the process at once.
"""

import atexit
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_S = 10.0
LAST_S = 2.0
_LATER = "ending as soon as what was earned is kept; a further SIGTERM ends the process at once"


class Terminated(KeyboardInterrupt):
    """A SIGTERM or SIGHUP came, and this is a place to end."""


class Termination:
    """Whether this process is to end.

    Attributes:
        asked: the signal that came; None = none.
        kept: for the last line: what is there to go on from.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.kept = "finished traces and checkpoints are kept"
        self._held = False
        self._process = 0

    def install(self) -> None:
        """Takes the signals over; SIGHUP unless it is ignored, as `nohup` has it. Only the main thread can."""
        self._process = os.getpid()
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    @contextmanager
    def held(self) -> Generator[None]:
        """During the body a signal waits, except for where it is `interruptible`."""
        with self._holding(True):
            yield

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Between two steps of a work that holds the signal.

        Raises:
            Terminated: a signal came before, or comes during the body.
        """
        self.check()
        try:
            with self._holding(False):
                yield
        except KeyboardInterrupt:
            if self.asked and threading.current_thread() is threading.main_thread():
                # Or whoever sent both would interrupt the saving. Only the main thread gets signals.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.check()
            raise

    def check(self) -> None:
        """A place to end.

        Raises:
            Terminated: a signal came.
        """
        if self.asked:
            raise Terminated(self.asked.name)

    @contextmanager
    def _holding(self, held: bool) -> Generator[None]:
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork of somebody's code, which has no work of ours
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = signal.Signals(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the kernel sends it, and the shell once more
        with suppress(OSError):
            os.write(2, f"{self.asked.name}: {_LATER}\n".encode())
        if number == signal.SIGHUP:
            _leave_terminal()
        if not self._held:
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what ends with &
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)


TERMINATION = Termination()


def _leave_terminal() -> None:
    """What is printed from now on goes nowhere: it would fail where the terminal is gone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)


def end_in_time(code: int, *, grace_s: float = GRACE_S) -> None:
    """Has this process end with `code` also where a thread of somebody's code goes on: Python would wait for it for ever."""
    main, ending, joined = threading.main_thread(), threading.Event(), threading.Event()
    # Nothing public tells when Python begins to wait. Main counts as ended only after executors' threads are waited for.
    threading._register_atexit(ending.set)  # type: ignore[attr-defined]
    atexit.register(joined.set)

    def watch() -> None:
        ending.wait()
        if joined.wait(grace_s):
            return
        running = [one.name for one in threading.enumerate() if one is not main and not one.daemon]
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # somebody's code may have closed or replaced it
                stream.flush()
        with suppress(OSError):
            os.write(2, f"ended, though these threads go on: {', '.join(running)}\n".encode())
        os._exit(code)

    threading.Thread(target=watch, name="end_in_time", daemon=True).start()


def end(processes: Sequence[subprocess.Popen[bytes]], *, grace_s: float = GRACE_S) -> None:
    """Interrupts all of them, so that they put their traces away, and makes those end that do not.

    They share `grace_s` seconds. Another Ctrl-C while they are waited for kills them at once.
    """
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        _wait(processes, grace_s)
        for process in processes:
            process.terminate()
        _wait(processes, LAST_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
