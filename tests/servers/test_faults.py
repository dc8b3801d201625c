"""Whatever breaks in the middle of a run: the same number of steps is trained, and no trace is lost or there twice."""

import io
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import Experiment
from aipo.run import RunFolder
from aipo.trace import Fault, Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from kit.servers import Agents, Configure, VLLMProcess

STEPS, TASKS, GROUP = 3, 4, 4
SMALL = (
    f"train.steps={STEPS}",
    f"train.tasks_per_step={TASKS}",
    f"train.group_size={GROUP}",
    "train.minibatches=1",
    "train.passes=1",
    "train.gradient_accumulation=1",
    "train.save_every=1",
    "policy.vllm.deadline=300",
    "rollout.deadline=300",
)


def train(config: Experiment) -> None:
    train_run(config, resume=False, evaluate_after=False, console=Console(file=io.StringIO()))


def whole(config: Experiment, steps: int = STEPS) -> list[Trace]:
    """The run's traces, if none is lost or there twice and every step is trained."""
    folder = RunFolder(config.out)
    assert [line["step"] for line in folder.read_metrics()] == list(range(1, steps + 1))
    traces = list(TraceStore(folder.traces).read())
    assert Counter(trace.step for trace in traces) == dict.fromkeys(range(steps), TASKS * GROUP)
    assert len({trace.trace_id for trace in traces}) == len(traces)
    return traces


def test_the_policys_server_is_killed_in_the_middle_of_a_step_and_started_again(
    configure: Configure, vllm: VLLMProcess
) -> None:
    config = configure(*SMALL, "train.steps=3")
    journal = RunFolder(config.out).traces
    killed = threading.Event()

    def kill() -> None:
        # As soon as the second generation has a trace, when others of it are under way.
        while not any(name.startswith("step-00001") for name in map(str, _names(journal))):
            if killed.wait(0.01):
                return
        vllm.kill()
        killed.set()
        vllm.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        train(config)
        assert killed.is_set()
    finally:
        killed.set()
        killer.join()
    assert all(trace.error is None for trace in whole(config))


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize(
    ("kind", "share"), [("500", 0.2), ("half", 0.2), ("invalid", 0.2), ("hang", 0.2), ("hang", 1.0)]
)
def test_the_agents_server_fails(configure: Configure, agents: Agents, kind: str, share: float) -> None:
    agents.faults.kind, agents.faults.share = kind, share
    options = [f"agents.{name}.timeout=1.0" for name in ("knowledge", "verify", "reasoning")]
    config = configure(*SMALL, *options, "rollout.failure_limit=null", agents=agents)
    train(config)
    traces = whole(config)
    assert all(trace.error is None for trace in traces)
    assert agents.faults.done[kind] > 0
    down = [c.fault for trace in traces for c in trace.consults].count(Fault.UNAVAILABLE)
    assert down > 0 if share == 1.0 else down < sum(len(trace.consults) for trace in traces)


def begin(config: Experiment) -> "subprocess.Popen[bytes]":
    file = config.out.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    more = ["--resume"] if RunFolder(config.out).config.is_file() else []
    return subprocess.Popen(
        [sys.executable, "-m", "aipo.cli", "train", "--config", str(file), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end(process: "subprocess.Popen[bytes]", *codes: int) -> int:
    """Waits for the process, which ends with one of these codes."""
    _, said = process.communicate()
    assert process.returncode in codes, said.decode()
    return process.returncode


def test_the_trainer_is_killed_and_goes_on(configure: Configure) -> None:
    config = configure(*SMALL)
    folder = RunFolder(config.out)
    process = begin(config)
    while process.poll() is None and not (folder.checkpoints / "checkpoint-1").is_dir():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.kill()
    process.communicate()
    assert len(folder.read_metrics()) < STEPS
    end(begin(config), 0)
    whole(config)


def test_ctrl_c_at_20_random_moments(configure: Configure, tmp_path: Path) -> None:
    steps, interrupted, runs = 12, 0, 0
    moments = random.Random(0)
    while interrupted < 20:
        config = configure(*SMALL, f"train.steps={steps}", f"run.out={tmp_path / str(runs)}")
        process = begin(config)
        try:
            # From the start of Python until well into training; where it strikes does not decide the outcome.
            process.wait(moments.uniform(0.5, 15.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            interrupted += 1
        if end(process, 0, 130, -signal.SIGINT) == 0:
            whole(config, steps)
            runs += 1
    end(begin(config), 0)
    whole(config, steps)
