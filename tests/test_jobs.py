"""Jobs: how commands are started and how they are ended."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from aipo import jobs
from aipo.errors import RunError, TrainError
from aipo.jobs import Job, end, run_jobs

POLITE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.2)
    pathlib.Path(sys.argv[1]).write_text("put away")
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
DEAF = STUBBORN.replace("print", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print")


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that is past its signal handlers."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def job(tmp_path: Path, *arguments: str) -> Job:
    return Job(name="one", arguments=arguments, log=tmp_path / "logs" / "one.log", follow=lambda note: None)


def test_all_are_interrupted_and_put_their_things_away(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    processes = [start(POLITE, file) for file in files]
    end(processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [file.read_text() for file in files] == ["put away"] * 2


def test_what_ignores_the_interrupt_is_terminated_and_then_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LAST_S", 0.5)
    processes = [start(STUBBORN), start(DEAF)]
    end(processes, grace_s=0.0)
    assert [process.returncode for process in processes] == [-15, -9]


def test_what_has_ended_is_left_alone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    end([process])
    assert process.returncode == 0


def test_a_job_that_fails_says_why_and_where(tmp_path: Path) -> None:
    failing = job(tmp_path, "no-such-command")
    with pytest.raises(TrainError, match=r"(?s)one ended with exit code 2, its log is .*one\.log.*No such"):
        run_jobs([failing], Progress(disable=True), at_once=1)


def test_a_log_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(RunError, match=r"writing one\.log"):
        run_jobs([job(tmp_path)], Progress(disable=True), at_once=1)
