"""How processes end: this one by SIGTERM, and those that it started.

A scheduler takes a machine back by SIGTERM. It is like Ctrl-C, but first what was earned is kept.

A long work *holds* the signal (an optimizer step cannot be left halfway) and says where it may be interrupted (rollouts
can). There a SIGTERM is an interrupt that becomes `Terminated`, for whoever has something to save. A second SIGTERM ends
the process at once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_S = 10.0
LAST_S = 2.0
TERMINATED = 143
"""The exit code, as a shell has it: 128 + SIGTERM."""
_SAID = b"SIGTERM: ending as soon as what was earned is kept; a second SIGTERM ends the process at once\n"


class Terminated(KeyboardInterrupt):
    """A SIGTERM came, and this is a place to end."""


class Termination:
    """Whether this process is to end.

    Attributes:
        kept: for the last line: what is there to go on from.
    """

    def __init__(self) -> None:
        self.asked = False
        self.kept = "finished traces and checkpoints are kept"
        self._held = False
        self._process = 0

    def install(self) -> None:
        """Takes SIGTERM over. Only the main thread can."""
        self._process = os.getpid()
        signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def held(self) -> Generator[None]:
        """During the body a SIGTERM waits, except for where it is `interruptible`."""
        with self._holding(True):
            yield

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Between two steps of a work that holds the signal.

        Raises:
            Terminated: a SIGTERM came before, or comes during the body.
        """
        self.check()
        try:
            with self._holding(False):
                yield
        except KeyboardInterrupt:
            if self.asked:
                signal.signal(
                    signal.SIGINT, signal.SIG_IGN
                )  # or whoever sent both would interrupt the saving
            self.check()
            raise

    def check(self) -> None:
        """A place to end.

        Raises:
            Terminated: a SIGTERM came.
        """
        if self.asked:
            raise Terminated("SIGTERM")

    @contextmanager
    def _holding(self, held: bool) -> Generator[None]:
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != self._process:  # a fork of somebody's code, which has no work of ours
            signal.raise_signal(number)
        self.asked = True
        os.write(2, _SAID)
        if not self._held:
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what ends with &
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)


TERMINATION = Termination()


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
