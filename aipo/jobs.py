"""Jobs: `aipo` commands in processes of their own, a few at a time."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from aipo.errors import TrainError
from aipo.progress import Note, stage
from aipo.run import writing

POLL_S = 0.5
GRACE_S = 10.0
LAST_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command.

    Args:
        name: what its bar is called.
        arguments: of `aipo`.
        log: file that takes what the command prints.
        follow: called about twice a second to move the bar, and once more when the command is done.
    """

    name: str
    arguments: Sequence[str]
    log: Path
    follow: Callable[[Note], None]


def run_jobs(jobs: Sequence[Job], progress: Progress, *, at_once: int) -> None:
    """Runs all of them, in order, `at_once` at a time. However this ends, none is left running.

    Raises:
        TrainError: one failed; with the end of what it printed. The others are ended.
        RunError: a log cannot be written.
    """
    waiting = list(jobs)
    running: list[tuple[Job, subprocess.Popen[bytes], Note]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running.append((job, _start(job), stage(progress, job.name)))
            time.sleep(POLL_S)
            for entry in list(running):
                job, process, note = entry
                code = process.poll()
                if code is not None and code != 0:
                    raise TrainError(
                        f"{job.name} ended with exit code {code}, its log is {job.log}:\n{_tail(job.log)}"
                    )
                job.follow(note)
                if code == 0:
                    running.remove(entry)
    finally:
        end([process for _, process, _ in running])


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


def _start(job: Job) -> subprocess.Popen[bytes]:
    with writing(f"writing {job.log.name}", job.log.parent):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        file = job.log.open("wb")
    with file:
        return subprocess.Popen(
            [sys.executable, "-m", "aipo.cli", *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # A terminal's Ctrl-C is for us alone: a second one, from `end`, would cut their clean-up short.
            process_group=0,
        )


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
