"""Jobs: how commands are started and how they are ended."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from aipo.compare.jobs import Job, evaluate_job, run_jobs, train_job
from aipo.compare.matrix import Matrix
from aipo.config.build import load_experiment
from aipo.errors import RunError, TrainError
from aipo.util.files import write_json, write_text
from aipo.util.termination import end
from kit.matrices import ARMS, make_matrix

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


def test_all_are_interrupted_and_those_that_ignore_it_are_ended_by_harder_means(tmp_path: Path) -> None:
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    processes = [start(POLITE, tmp_path / "file"), start(STUBBORN), start(DEAF), over]
    end(processes, grace_s=3.0)
    assert [process.returncode for process in processes] == [0, -signal.SIGTERM, -signal.SIGKILL, 0]
    assert (tmp_path / "file").read_text() == "put away"


def job(folder: Path, *commands: list[str]) -> Job:
    """Its name is that of its first command."""
    log = folder / "logs" / "one.log"
    return Job(name=commands[0][0], commands=commands, log=log, follow=lambda note: None)


def run(*jobs: Job) -> list[tuple[str, int]]:
    """The exit code of each job, in the order in which they end."""
    codes: list[tuple[str, int]] = []
    run_jobs(jobs, Progress(disable=True), at_once=1, ended=lambda job, code: codes.append((job.name, code)))
    return codes


def test_a_log_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(RunError, match=r"writing one\.log"):
        run(job(tmp_path, ["--help"]))


def test_commands_run_in_order_until_one_fails_and_other_jobs_go_on(tmp_path: Path) -> None:
    failing = job(tmp_path / "a", ["init", "--help"], ["no-such-command"], ["demo", "--help"])
    other = job(tmp_path / "b", ["--help"])
    assert run(failing, other) == [("init", 2), ("--help", 0)]
    said = failing.log.read_text()
    assert "Copies graphs/" in said and "No such" in said and "random seed of the task" not in said


def test_an_error_of_the_caller_ends_the_others(tmp_path: Path) -> None:
    started = [job(tmp_path, ["no-such-command"]), job(tmp_path, ["--help"])]
    with pytest.raises(TrainError, match="no-such-command"):
        run_jobs(started, Progress(disable=True), at_once=1, ended=_refuse)


def _refuse(job: Job, code: int) -> None:
    raise TrainError(job.name)


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    text = ARMS.replace("[10, 11]", "[10]").replace(
        "set: [", "set: [train.steps=3, train.minibatches=2, train.passes=1, "
    )
    return make_matrix(tmp_path, text)


def test_the_bar_of_an_evaluation_shows_its_scores(matrix: Matrix) -> None:
    before = matrix.before[10]
    evaluation = evaluate_job(before)
    written = load_experiment(evaluation.commands[0][-1])
    assert written.to_yaml() == before.stages[0].experiment.to_yaml()
    texts: list[object] = []
    evaluation.follow(lambda done, total, text: texts.append(text))
    assert texts == ["evaluating"]
    scores = {"pass_at": {"1": 0.5}, "interval": {"1": None}}
    write_json(before.folder.evaluation("before"), {"easy": {"solo": scores, "suppressed": scores}})
    evaluation.follow(lambda done, total, text: texts.append(text))
    assert texts[1:] == [{"solo": 0.5, "solo, consult tags suppressed": 0.5}]


def test_an_evaluation_that_was_begun_is_gone_on_with(matrix: Matrix) -> None:
    before = matrix.before[10]
    assert "--resume" not in evaluate_job(before).commands[0]
    write_text(before.folder.evaluation_traces("before") / "samples.jsonl", "")
    assert evaluate_job(before).commands[0][-1] == "--resume"


def test_a_bar_follows_a_training_through_its_stages(matrix: Matrix) -> None:
    cell = matrix.cell("twice", 10)
    folders = [stage.folder for stage in cell.stages]
    training = train_job(cell)
    said: list[tuple[int, int, object]] = []
    rewards = {"reward/solo": 0.25, "reward/assisted": 0.5}

    def follow() -> tuple[int, int, object]:
        training.follow(lambda done, total, text: said.append((done, total, text)))
        return said[-1]

    def steps(count: int) -> str:
        kinds = ({"reward/solo": 0.25, "reward/assisted": 0.5}, {"reward/assisted": None})
        lines = ({"step": step + 1, **kinds[step % 2]} for step in range(count))
        return "".join(f"{json.dumps(line)}\n" for line in lines)

    assert follow() == (0, 6, "starting")
    write_text(folders[0].metrics, steps(2))
    assert follow() == (1, 6, rewards)
    write_text(folders[0].metrics, steps(6))
    assert follow() == (3, 6, "evaluating")
    write_json(folders[0].evaluation("after"), {})
    assert follow() == (3, 6, "trained and evaluated")
    write_text(folders[1].metrics, steps(4))
    assert follow() == (5, 6, rewards)
    assert [command[:2] for command in training.commands] == [["train", "--evaluate"]] * 2
    assert len(train_job(cell).commands) == 1  # the first stage is done
