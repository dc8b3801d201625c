"""A whole warm-up: a policy that never asks, and asks afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, TrainError
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.run import train_run
from aipo.util.termination import TERMINATION, Terminated
from aipo.warmup.demonstrations import Demonstrations
from aipo.warmup.run import Warmup, supervised_settings, warm_up
from kit.commands import invoke
from kit.teachers import INSTRUCTION, config

QUIET = Console(quiet=True)
SMALL = [
    "policy.options={course: silent, steps: 100, batch: 16, carry: false}",
    "env.options={carry: false}",
    "env.mixture={hard: 1.0}",
    "agents.knowledge.options={carry: false}",
    "warmup.solo_mixture={easy_train: 1.0}",
    "warmup.steps=8",
    "warmup.batch=8",
    "warmup.learning_rate=3e-3",
    "warmup.probes=16",
    "rollout.max_tokens=48",
    "run.threads=1",
]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A warm-up from the command line, and what it said."""
    out = tmp_path_factory.mktemp("warm") / "run"
    said = invoke("warmup", "--config", "aipo_distil", f"run.out={out}", *SMALL, columns=100).output
    return RunFolder(out), said


def test_it_never_asks_before_and_asks_after(warm: tuple[RunFolder, str]) -> None:
    folder, said = warm
    asking = folder.read_warmup()
    assert asking["before"]["asking"] == 0.0 and asking["before"]["malformed"] is None
    assert asking["after"]["by_split"] == {"hard": asking["after"]["asking"]}
    assert asking["after"]["asking"] > 0.5 and asking["after"]["rollouts"] == 16
    assert "assisted rollouts that ask" in said and f"{asking['after']['asking']:.1%}" in said


def test_its_folder_is_that_of_any_run(warm: tuple[RunFolder, str]) -> None:
    folder, _ = warm
    assert (folder.model / "model.safetensors").is_file()
    assert folder.read_manifest()["command"] == "warmup"
    assert json.loads(folder.ended.read_text())["state"] == "finished"
    traces = list(TraceStore(folder.traces).read(0))
    assert {trace.kind for trace in traces} == {"taught"} and len(traces) == 64
    metrics = folder.read_metrics()
    assert metrics[0]["rollouts/taught"] == 64 and metrics[0]["tokens/policy"] == 0
    assert metrics[-2]["probability/agent"] > metrics[0]["probability/agent"]
    listed = invoke("traces", folder.path, "kind=taught", "step=0", "--json").output.splitlines()
    assert len(listed) == 30 and json.loads(listed[0])["kind"] == "taught"
    assert {one.kind for name in ("before", "after") for one in _probes(folder, name)} == {"assisted"}


def test_a_replay_takes_the_loss_and_refuses_to_run_the_graph_again(warm: tuple[RunFolder, str]) -> None:
    folder, _ = warm
    replayed = invoke("replay", "loss", folder.path, "--steps", "0..0", "--json").stdout
    (line,) = json.loads(replayed)["tables"][0]["rows"]
    assert float(line[2]) > 0 and line[4] == "100.0 %"  # |∇|, of which agents' and the teacher's tokens
    refused = invoke("replay", "check", folder.path, "step=0").output
    assert "got 'taught', which a teacher wrote in the policy's place" in " ".join(refused.split())


def _probes(folder: RunFolder, when: str) -> list[Trace]:
    return list(TraceStore(folder.evaluation_traces(f"asks-{when}")).read(0))


def test_what_it_is_asked_before_and_after_is_no_demonstration(warm: tuple[RunFolder, str]) -> None:
    folder, _ = warm
    probed = [sorted(trace.task_id for trace in _probes(folder, when)) for when in ("before", "after")]
    store = TraceStore(folder.traces)
    shown = {trace.task_id for step in range(8) for trace in store.read(step)}
    assert probed[0] == probed[1] and shown.isdisjoint(probed[0])


def test_demonstrations_without_a_reward_are_not_learned(tmp_path: Path) -> None:
    """With agents that are always wrong only the solo ones are right."""
    wrong = "agents.knowledge.options={error_rate: 1.0}"
    warm_up(config(tmp_path, wrong), resume=False, console=QUIET)
    folder = RunFolder(tmp_path / "run")
    traces = list(TraceStore(folder.traces).read(0))
    assert [trace.reward for trace in traces] == [0.0] * 6 + [1.0] * 2
    right = sum(len(part) for trace in traces[6:] for part in trace.segments if part.role == "teacher")
    assert sum(line["tokens/agent"] for line in folder.read_metrics()) == right


def test_where_all_are_wrong_the_commonest_reason_is_said_and_they_can_be_looked_at(tmp_path: Path) -> None:
    words = ["warmup.teacher.model=kit.teachers:mistaken", f"warmup.teacher.instruction={INSTRUCTION}"]
    with pytest.raises(TrainError) as caught:
        words += ["warmup.assist_share=1.0", "rollout.max_tokens=128"]  # the notice is long
        warm_up(config(tmp_path, *words), resume=False, console=QUIET)
    said = str(caught.value)
    assert "got 8 without a reward" in said and "Most frequent verdict (8 times): {'correct': 0.0" in said
    assert "Most frequent notice (8 times): unknown: No agent oracle" in said
    assert len(list(TraceStore(tmp_path / "run" / "traces").read(0))) == 8


def test_where_all_fail_the_error_is_said(tmp_path: Path) -> None:
    words = ["warmup.teacher.model=kit.teachers:silent", f"warmup.teacher.instruction={INSTRUCTION}"]
    with pytest.raises(TrainError, match="allowed text that is not empty"):
        warm_up(config(tmp_path, *words), resume=False, console=QUIET)


def test_an_interrupted_run_goes_on_from_its_checkpoint_to_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["warmup.steps=2", "train.save_every=1"]
    warm_up(config(tmp_path, *words, f"run.out={tmp_path / 'whole'}"), resume=False, console=QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(Warmup, "specs", _until_the_second_step(Warmup.specs))
        with pytest.raises(KeyboardInterrupt):
            warm_up(config(tmp_path, *words), resume=False, console=QUIET)
    warm_up(config(tmp_path, *words), resume=True, console=QUIET)
    runs = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    weights = [(run.model / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] and runs[0].read_warmup() == runs[1].read_warmup()
    assert [len(list(TraceStore(runs[1].traces).read(step))) for step in (0, 1)] == [8, 8]


def _until_the_second_step(specs: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(self: Warmup, step: int) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return specs(self, step)

    return interrupted


def test_a_signal_that_came_while_it_was_trained_ends_it_before_the_last_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TERMINATION, "asked", SIGTERM)
    nobody: Any = (None, None)
    with pytest.raises(Terminated):
        Warmup(config(tmp_path), QUIET).trained(nobody)


def test_a_run_goes_on_and_only_with_the_command_that_made_it(tmp_path: Path) -> None:
    short, long = config(tmp_path, "train.save_every=1"), "warmup.steps=2"
    warm_up(short, resume=False, console=QUIET)
    before = RunFolder(tmp_path / "run").read_warmup()["before"]
    warm_up(config(tmp_path, "train.save_every=1"), resume=True, console=QUIET)
    assert RunFolder(tmp_path / "run").read_warmup()["before"] == before
    with pytest.raises(ConfigError, match=r"warmup\.steps: 2, was 1"):
        warm_up(config(tmp_path, long), resume=True, console=QUIET)
    with pytest.raises(ConfigError, match="got a run of `aipo warmup`, allowed `aipo warmup --resume`"):
        train_run(supervised_settings(short), resume=True, evaluate_after=False, console=QUIET)


def test_at_most_half_of_a_split_is_held_out_and_a_single_task_is_refused(tmp_path: Path) -> None:
    many = config(tmp_path, "warmup.probes=100000")
    assert len(Demonstrations(many).probes) == len(many.env.tasks("hard")) // 2
    code = tmp_path / "one.py"
    code.write_text(
        "from envs.miniature import Miniature\n\n\nclass One(Miniature):\n    def tasks(self, split):\n"
        "        return super().tasks(split)[:1]\n"
    )
    one = config(tmp_path, f"env.name={code}:One", "env.mixture={hard: 1.0}", "evaluate.splits=[hard]")
    with pytest.raises(ConfigError, match="at most one in each split"):
        _ = Demonstrations(one).probes


def test_the_settings_of_the_run_come_from_the_section_warmup() -> None:
    words = ["warmup.demonstrations=20", "warmup.batch=8", "warmup.passes=3", "warmup.learning_rate=1e-3"]
    made = supervised_settings(load_experiment("aipo_distil", words))
    assert (made.train.steps, made.train.tasks_per_step, made.train.group_size) == (10, 20, 1)
    assert (made.train.minibatches, made.train.passes, made.train.learning_rate) == (3, 3, 1e-3)
    assert (made.method.credit, made.method.coefficient, made.method.distil_weight) == (
        "reward",
        "constant",
        0.0,
    )
    assert supervised_settings(made).settings == made.settings
