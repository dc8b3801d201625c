"""Ending processes: an interrupt first, so that they can put their work away, then harder means."""

import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

GRACE_S = 10.0
LAST_S = 2.0


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
