"""The measured step: the real trainer on made-up rows, with a stand-in for `torch.cuda`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

from aipo.config.build import Experiment, load_experiment
from aipo.doctor.check import Check, PolicyParts
from aipo.doctor.memory import GIB, Size
from aipo.doctor.step import check_step, made_up_rows
from aipo.method.rows import Code
from aipo.train.trainer import AIPOTrainer
from envs.miniature.model import cold_start


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of a GPU with 10 GiB free, where training takes 4 GiB."""
    calls: list[str] = []
    answers = {
        "mem_get_info": (10 * GIB, 80 * GIB),
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 4 * GIB,
        "empty_cache": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(
            torch.cuda, name, lambda name=name, answer=answer: (calls.append(name), answer)[1]
        )
    return calls


def config(*overrides: str) -> Experiment:
    small = ["train.tasks_per_step=1", "train.group_size=4", "train.minibatches=1", "rollout.max_tokens=24"]
    return load_experiment(
        "aipo_distil", [*small, "policy.device=cpu", "method.distil_suppress=false", *overrides]
    )


def measured(*overrides: str) -> Check:
    """Of the miniature's policy, hardly taught."""
    experiment, model = config(*overrides), cold_start(seed=0, steps=2)
    tokenizer, settings = experiment.tokenizer(model), PretrainedConfig()
    parts = PolicyParts(
        experiment=experiment, model=model, tokenizer=tokenizer, settings=settings, prompt=[1] * 16
    )
    return check_step(parts, Size(GIB, GIB))


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.beta=0.1", "train.gradient_accumulation=3", "train.passes=2"],
        ["method.suppress_share=0.5", "policy.engine=vllm", "method.max_mismatch=0.1"],
    ],
)
def test_the_peak_of_two_real_steps_is_said(
    cuda: list[str], monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    trainers: list[AIPOTrainer] = []
    train = AIPOTrainer.train
    monkeypatch.setattr(AIPOTrainer, "train", lambda self: (trainers.append(self), train(self)))
    check = measured(*overrides)
    assert (check.status, check.what) == ("ok", "measured memory")
    assert check.found == "a training step on rows of the longest length takes 4 GiB of 10 GiB that are free"
    assert cuda == ["mem_get_info", "reset_peak_memory_stats", "max_memory_allocated", "empty_cache"]
    (trainer,) = trainers
    assert trainer.state.global_step == 2
    assert not Path(str(trainer.args.output_dir)).exists()


def test_a_peak_near_the_limit_is_a_warning(cuda: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: round(9.5 * GIB))
    check = measured()
    assert (check.status, "train.activation_checkpointing" in check.advice) == ("warn", True)


@pytest.mark.parametrize(
    ("gpus", "status", "advice"), [(1, "fail", "more GPUs"), (4, "warn", "--num_processes 4")]
)
def test_no_memory_left(
    cuda: list[str], monkeypatch: pytest.MonkeyPatch, gpus: int, status: str, advice: str
) -> None:
    def full(_: AIPOTrainer) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AIPOTrainer, "train", full)
    monkeypatch.setattr("aipo.doctor.memory.on_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    check = measured("policy.engine=vllm")
    assert (check.status, check.found) == (status, "a training step runs out of memory, with 10 GiB free")
    assert advice in check.advice
    assert "empty_cache" in cuda


def test_rows_are_as_long_and_as_many_as_a_run_may_have() -> None:
    """4 rollouts and at most 2 distilled rows, over 3 micro-batches."""
    rows = made_up_rows(config("train.gradient_accumulation=3"), 50, 16)
    assert [(len(row), row.prompt_tokens, row.policy_tokens) for row in rows] == [(40, 16, 24)] * 2
    assert all(row.token_ids_T.min() > 0 and row.token_ids_T.max() < 50 for row in rows)
    assert not np.array_equal(rows[0].token_ids_T, rows[1].token_ids_T)
    assert (rows[0].codes_T == Code.POLICY).sum() == 24
    assert rows[0].forbidden_ids == ()
    for share in ("suppress_share=0.5", "suppress_share_end=0.5"):
        assert made_up_rows(config(f"method.{share}"), 50, 16)[0].forbidden_ids == (0,)
