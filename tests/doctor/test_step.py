"""The measured step: the real trainer on made-up rows, with a stand-in for `torch.cuda`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.check import Check
from aipo.doctor.memory import GIB
from aipo.doctor.step import check_step, made_up_rows
from aipo.method.rows import Code
from aipo.train.trainer import AIPOTrainer
from envs.miniature.model import cold_start


@dataclass
class StandInCuda:
    """A GPU with 10 GiB free, which says what is asked of it."""

    peak: float = 4
    calls: list[str] = field(default_factory=list)

    def mem_get_info(self) -> tuple[int, int]:
        self.calls.append("mem_get_info")
        return 10 * GIB, 80 * GIB

    def reset_peak_memory_stats(self) -> None:
        self.calls.append("reset_peak_memory_stats")

    def max_memory_allocated(self) -> int:
        self.calls.append("max_memory_allocated")
        return round(self.peak * GIB)

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


def config(*overrides: str) -> Experiment:
    small = ["train.tasks_per_step=1", "train.group_size=4", "train.minibatches=1", "rollout.max_tokens=24"]
    return load_experiment("aipo", [*small, "policy.device=cpu", "method.distil_suppress=false", *overrides])


@pytest.fixture(scope="module")
def policy() -> Path:
    """The miniature's policy, hardly taught."""
    return cold_start(seed=0, steps=2)


def measured(policy: Path, cuda: StandInCuda, *overrides: str) -> Check:
    experiment = config(*overrides)
    return check_step(experiment, policy, experiment.tokenizer(policy), 16, cuda)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.beta=0.1", "train.gradient_accumulation=3", "train.passes=2"],
        ["method.suppress_share=0.5", "policy.engine=vllm", "method.max_mismatch=0.1"],
    ],
)
def test_the_peak_of_two_real_steps_is_said(
    policy: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    trainers: list[AIPOTrainer] = []
    train = AIPOTrainer.train
    monkeypatch.setattr(AIPOTrainer, "train", lambda self: (trainers.append(self), train(self)))
    cuda = StandInCuda()
    check = measured(policy, cuda, *overrides)
    assert (check.status, check.what) == ("ok", "measured memory")
    assert check.found == "a training step on rows of the longest length takes 4 GiB of 10 GiB that are free"
    assert cuda.calls == ["mem_get_info", "reset_peak_memory_stats", "max_memory_allocated", "empty_cache"]
    (trainer,) = trainers
    assert trainer.state.global_step == 2
    assert not Path(str(trainer.args.output_dir)).exists()


def test_a_peak_near_the_limit_is_a_warning(policy: Path) -> None:
    check = measured(policy, StandInCuda(peak=9.5))
    assert (check.status, "train.activation_checkpointing" in check.advice) == ("warn", True)


def test_no_memory_left_is_a_failure(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: AIPOTrainer) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AIPOTrainer, "train", full)
    cuda = StandInCuda()
    check = measured(policy, cuda)
    assert (check.status, check.found) == ("fail", "a training step runs out of memory, with 10 GiB free")
    assert cuda.calls[-1] == "empty_cache"


def test_rows_are_as_long_and_as_many_as_a_run_may_have() -> None:
    """4 rollouts and at most 2 distilled rows, over 3 micro-batches."""
    rows = made_up_rows(config("train.gradient_accumulation=3"), 50, 16)
    assert [(len(row), row.prompt_tokens, row.policy_tokens) for row in rows] == [(40, 16, 24)] * 2
    assert all(row.token_ids_T.min() > 0 and row.token_ids_T.max() < 50 for row in rows)
    assert not np.array_equal(rows[0].token_ids_T, rows[1].token_ids_T)
    assert (rows[0].codes_T == Code.POLICY).sum() == 24
    assert rows[0].forbidden_ids == ()
    assert made_up_rows(config("method.suppress_share=0.5"), 50, 16)[0].forbidden_ids == (0,)
