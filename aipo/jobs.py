"""Jobs: `aipo` commands in processes of their own, a few at a time."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from aipo.errors import TrainError
from aipo.progress import Note, stage

POLL_S = 0.5
GRACE_S = 10.0


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
    """Runs all of them, in order, `at_once` at a time.

    Raises:
        TrainError: one failed; with the end of what it printed. The others are ended.
    """
    waiting = list(jobs)
    running: list[tuple[Job, subprocess.Popen[bytes], Note]] = []
    with ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running.append((job, _start(job, stack), stage(progress, job.name)))
            time.sleep(POLL_S)
            for entry in list(running):
                job, process, note = entry
                code = process.poll()
                if code is not None and code != 0:
                    raise TrainError(f"{job.name} ended with exit code {code}:\n{_tail(job.log)}")
                job.follow(note)
                if code == 0:
                    running.remove(entry)


def _start(job: Job, stack: ExitStack) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(job.log.open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", "aipo.cli", *job.arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Lets a command that is interrupted along with us put its traces away."""
    process.terminate()
    try:
        process.wait(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
