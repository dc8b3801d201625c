"""Jobs: how commands are started and how they are ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from aipo.compare.jobs import Job, evaluate_job, last_lines, run_jobs, train_job
from aipo.config.build import load_experiment
from aipo.errors import RunError, TrainError
from aipo.run import RunFolder
from aipo.util.files import write_json, write_text
from aipo.util.processes import end

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
    return Job(name="one", commands=[arguments], log=tmp_path / "logs" / "one.log", follow=lambda note: None)


def test_all_are_interrupted_and_put_their_things_away(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    processes = [start(POLITE, file) for file in files]
    end(processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [file.read_text() for file in files] == ["put away"] * 2


def test_what_ignores_the_interrupt_is_terminated_and_then_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aipo.util.processes.LAST_S", 2.0)
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


def test_a_failure_may_be_taken_and_the_others_go_on(tmp_path: Path) -> None:
    ended: dict[str, int] = {}
    names = ["no-such-command", "--help"]
    several = [
        Job(name=name, commands=[[name]], log=tmp_path / f"{name}.log", follow=lambda note: None)
        for name in names
    ]
    with Progress(disable=True) as progress:
        run_jobs(several, progress, at_once=1, ended=lambda job, code: ended.update({job.name: code}))
    assert ended == {"no-such-command": 2, "--help": 0}


def test_commands_of_one_job_run_in_order_until_one_fails(tmp_path: Path) -> None:
    commands = [["init", "--help"], ["no-such-command"], ["demo", "--help"]]
    one = Job(name="one", commands=commands, log=tmp_path / "one.log", follow=lambda note: None)
    ended: list[int] = []
    run_jobs([one], Progress(disable=True), at_once=1, ended=lambda job, code: ended.append(code))
    said = one.log.read_text()
    assert (
        ended == [2]
        and "Copies graphs/" in said
        and "No such" in said
        and "random seed of the task" not in said
    )
    assert last_lines(one.log, 1) in said


def test_the_bar_of_an_evaluation_shows_its_scores(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    one = evaluate_job("before", [], folder, "before", tmp_path / "before.log")
    texts: list[str] = []
    one.follow(lambda done, total, text: texts.append(text))
    assert texts == []
    scores = {"pass_at": {"1": 0.5}, "interval": {"1": None}}
    write_json(folder.evaluation("before"), {"easy": {"solo": scores, "suppressed": scores}})
    one.follow(lambda done, total, text: texts.append(text))
    assert texts == ["solo 0.50, solo, consult tags suppressed 0.50"]


def test_a_bar_follows_a_training_through_its_stages(tmp_path: Path) -> None:
    experiments = [
        load_experiment("aipo", [f"run.out={tmp_path / n}", "train.steps=3", "train.minibatches=2"])
        for n in "ab"
    ]
    folders = [RunFolder(experiment.out) for experiment in experiments]
    training = train_job("two", [(experiment, []) for experiment in experiments], tmp_path / "two.log")
    said: list[tuple[int, int, str]] = []

    def follow() -> tuple[int, int, str]:
        training.follow(lambda done, total, text: said.append((done, total, text)))
        return said[-1]

    training.follow(lambda *_: pytest.fail("nothing has begun"))

    def steps(count: int) -> str:
        kinds = ({"reward/solo": 0.25, "reward/assisted": 0.5}, {"reward/assisted": None})
        lines = ({"step": step + 1, **kinds[step % 2]} for step in range(count))
        return "".join(f"{json.dumps(line)}\n" for line in lines)

    write_text(folders[0].metrics, steps(2))
    assert follow() == (1, 6, "reward: solo 0.25, assisted 0.50")
    write_text(folders[0].metrics, steps(6))
    assert follow() == (3, 6, "evaluating")
    write_json(folders[0].evaluation("after"), {})
    assert follow() == (3, 6, "trained and evaluated")
    write_text(folders[1].metrics, steps(4))
    assert follow() == (5, 6, "reward: solo 0.25, assisted 0.50")
    assert [command[:2] for command in training.commands] == [["train", "--evaluate"]] * 2
