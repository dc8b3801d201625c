"""SIGTERM and SIGHUP: a checkpoint between two rollout steps, one line, an exit code of its own; a further SIGTERM ends at once."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aipo.cli
from aipo.run import RunFolder
from aipo.train.checkpoints import checkpoints, last_checkpoint
from aipo.train.sources import TraceSource
from aipo.train.trainer import AIPOTrainer
from aipo.util.termination import TERMINATION, Terminated
from aipo.util.whole import MANIFEST
from kit import tiny_run


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        "aipo.util.termination._leave_terminal", lambda: None
    )  # it is the terminal of these tests
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` ignores it
    TERMINATION.install()
    yield
    TERMINATION.__init__()
    for number, handler in before.items():
        signal.signal(number, handler)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the third rollout step is sampled."""
    rows = TraceSource.rows

    def asked(self: TraceSource, step: int) -> Any:
        if step == 2:
            terminate()
        return rows(self, step)

    monkeypatch.setattr(TraceSource, "rows", asked)


def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first optimizer step of the second rollout step, whose end is the next place to stop."""
    loss = AIPOTrainer._compute_loss

    def computed(self: AIPOTrainer, *given: Any) -> Any:
        if self.state.global_step == 2 and not TERMINATION.asked:
            terminate()
        return loss(self, *given)

    monkeypatch.setattr(AIPOTrainer, "_compute_loss", computed)


@pytest.mark.parametrize("when", [in_rollouts, in_training])
def test_a_run_ends_with_a_checkpoint_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, when: Callable[[pytest.MonkeyPatch], None], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train.steps=4", "train.save_every=4"]
    straight = RunFolder(tiny_run.train(tiny_run.config(tmp_path / "tiny", *words)))
    experiment = tiny_run.config(tmp_path / "tiny", *words, f"run.out={tmp_path / 'ended'}")
    run = RunFolder(experiment.out)
    with pytest.MonkeyPatch.context() as monkeypatch:
        when(monkeypatch)
        with pytest.raises(Terminated):
            tiny_run.train(experiment)
    assert capfd.readouterr().err.count("SIGTERM: ending as soon as what was earned is kept") == 1
    assert [(one.version, one.resumable) for one in checkpoints(run)] == [(4, True)]
    assert last_checkpoint(run).path == run.checkpoints / "checkpoint-4"
    assert TERMINATION.kept == f"{run.checkpoints / 'checkpoint-4'} is whole; --resume goes on from it"
    assert '"state": "stopped",\n  "reason": "SIGTERM"' in run.ended.read_text()
    assert not run.model.exists()
    TERMINATION.__init__()
    tiny_run.train(experiment, resume=True)
    assert [line["loss"] for line in run.read_metrics()] == [line["loss"] for line in straight.read_metrics()]
    name = "model.safetensors"
    assert (run.model / name).read_bytes() == (straight.model / name).read_bytes()


@pytest.mark.parametrize("file", [MANIFEST, "model.safetensors"])
def test_a_checkpoint_that_is_not_whole_is_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    experiment = tiny_run.config(tmp_path / "tiny", "train.steps=4", "train.save_every=4")
    broken = experiment.out / "checkpoints" / "checkpoint-4"
    rows = TraceSource.rows

    def asked(self: TraceSource, step: int) -> Any:
        if step == 2:
            broken.mkdir(parents=True)
            (broken / file).write_text("{")
            terminate()
        return rows(self, step)

    monkeypatch.setattr(TraceSource, "rows", asked)
    with pytest.raises(Terminated):
        tiny_run.train(experiment)
    assert last_checkpoint(RunFolder(experiment.out)) == (checkpoints(RunFolder(experiment.out))[0], [])
    assert TERMINATION.kept == f"{broken} is whole; --resume goes on from it"


def test_a_run_that_makes_no_checkpoints_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_rollouts(monkeypatch)
    experiment = tiny_run.config(tmp_path / "tiny", "train.save_every=null")
    with pytest.raises(Terminated):
        tiny_run.train(experiment)
    assert checkpoints(RunFolder(experiment.out)) == []
    assert TERMINATION.kept == "finished traces and checkpoints are kept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_of_training_it_is_an_interrupt(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    with pytest.raises(Terminated, match=number.name):
        TERMINATION.check()


def test_ctrl_c_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, TERMINATION.held(), TERMINATION.interruptible():
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(stopped.value, Terminated)


def test_what_holds_it_is_not_interrupted() -> None:
    done: list[str] = []
    with pytest.raises(Terminated), TERMINATION.held():
        terminate()
        done.append("the rest of the step")
        with TERMINATION.interruptible():
            done.append("never")
    assert done == ["the rest of the step"]


def test_where_ctrl_c_is_ignored_it_interrupts_all_the_same() -> None:
    """As in what a script starts with &."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(Terminated), TERMINATION.held(), TERMINATION.interruptible():
        terminate()


TWICE = """
import os, signal
from aipo.util.termination import TERMINATION
TERMINATION.install()
with TERMINATION.held():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""
FORK = """
import os, signal
from aipo.util.termination import TERMINATION
TERMINATION.install()
if (child := os.fork()) == 0:
    os.kill(os.getpid(), signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), TERMINATION.asked)
"""
CLOSED = """
import os, signal, sys
from aipo.util.termination import TERMINATION
TERMINATION.install()
with TERMINATION.held():
    sys.stdin.read()
    for number in signal.SIGHUP, signal.SIGHUP:
        os.kill(os.getpid(), number)
    print("the terminal is gone", flush=True)
    print("an error", file=sys.stderr, flush=True)
os._exit(TERMINATION.asked)
"""
IGNORED = """
import os, signal
from aipo.util.termination import TERMINATION
TERMINATION.install()
os.kill(os.getpid(), signal.SIGHUP)
print(TERMINATION.asked)
"""


def test_a_second_one_ends_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")


def test_a_fork_of_somebodys_code_ends_as_always() -> None:
    ended = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (f"{-signal.SIGTERM} None\n", "")


def test_a_terminal_that_closes_takes_nothing_with_it() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CLOSED], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    ) as child:
        os.close(theirs)
        os.close(ours)
        child.communicate()
    assert child.returncode == signal.SIGHUP


def test_nohup_goes_on() -> None:
    ended = subprocess.run(
        ["nohup", sys.executable, "-c", IGNORED],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert ended.stdout == "None\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_command_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: signal.Signals, code: int
) -> None:
    def app(**_: Any) -> int:
        os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(aipo.cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        aipo.cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err.splitlines() == [
        f"ended by {number.name}; finished traces and checkpoints are kept"
    ]
