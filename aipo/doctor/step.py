"""How much memory does a training step take on this GPU? It is measured: the real trainer takes steps on made-up rows."""

import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.doctor.memory import HEADROOM, SMALLER, gib, micro_batch_rows, suppresses
from aipo.method.batch import TokenTotals
from aipo.method.rows import Code, Row, SegmentInfo
from aipo.method.step_rows import StepRows
from aipo.policies.tokenizer import HFTokenizer
from aipo.trace import Role
from aipo.train.schedule import train_arguments
from aipo.train.trainer import AIPOTrainer

_WHAT = "measured memory"


class Cuda(Protocol):
    """What is asked of `torch.cuda`."""

    def mem_get_info(self) -> tuple[int, int]: ...
    def reset_peak_memory_stats(self) -> None: ...
    def max_memory_allocated(self) -> int: ...
    def empty_cache(self) -> None: ...


def check_step(
    experiment: Experiment, model: Path | str, tokenizer: HFTokenizer, prompt: int, cuda: Cuda
) -> Check:
    """Loads the policy, trains two optimiser steps on rows of the longest length, and says the peak of
    `max_memory_allocated`. The optimiser's state exists from the second step on. All is freed afterwards.

    Args:
        prompt: tokens of a long prompt.
        cuda: `torch.cuda`.
    """
    free, _ = cuda.mem_get_info()
    cuda.reset_peak_memory_stats()
    try:
        _train(experiment, model, tokenizer, prompt)
    except torch.OutOfMemoryError:
        return Check("fail", _WHAT, f"a training step runs out of memory, with {gib(free)} free", SMALLER)
    finally:
        peak = cuda.max_memory_allocated()
        gc.collect()
        cuda.empty_cache()
    found = f"a training step on rows of the longest length takes {gib(peak)} of {gib(free)} that are free"
    return Check("ok", _WHAT, found) if peak <= HEADROOM * free else Check("warn", _WHAT, found, SMALLER)


def _train(experiment: Experiment, model: Path | str, tokenizer: HFTokenizer, prompt: int) -> None:
    rows = made_up_rows(experiment, len(tokenizer), prompt)
    # A micro-batch is as large as in the run. Two of them show what gradients take beside activations.
    accumulation = min(2, experiment.train.gradient_accumulation)
    shorter = experiment.with_settings(
        {
            "train.steps": 2,
            "train.minibatches": 1,
            "train.passes": 1,
            "train.gradient_accumulation": accumulation,
            "train.save_every": None,
            "run.report_to": (),
            "method.max_mismatch": None,  # made-up log-probs are not the network's
        }
    )
    step = StepRows(rows=rows * accumulation, totals=TokenTotals.of(rows * accumulation), active_share=1.0)
    network = experiment.adapted(experiment.network(model))
    with TemporaryDirectory() as folder:
        AIPOTrainer(
            network,
            train_arguments(shorter, Path(folder), cpu=network.device.type == "cpu"),
            _SameRows(step),
            shorter.method,
            tokenizer=tokenizer.inner,
            scores_again=shorter.scores_again,
        ).train()


def made_up_rows(experiment: Experiment, vocabulary: int, prompt: int) -> tuple[Row, ...]:
    """The rows of one micro-batch: random ids, a long prompt, and an answer of `rollout.max_tokens`."""
    answer = experiment.rollout.max_tokens
    random = np.random.default_rng(0)
    segments_T = np.repeat(np.array([0, 1], np.int32), [prompt, answer])
    return tuple(
        Row(
            trace_id=f"made up {number}",
            kind="sampled",
            token_ids_T=random.integers(1, vocabulary, prompt + answer, dtype=np.int32),
            codes_T=np.where(segments_T == 0, Code.PROMPT, Code.POLICY).astype(np.int8),
            behaviour_logprobs_T=np.where(segments_T == 0, np.nan, -1.0).astype(np.float32),
            segments_T=segments_T,
            segments=(
                SegmentInfo(Role.PROMPT, "prompt", "", None, False),
                SegmentInfo(Role.POLICY, "policy", "policy", 0, True),
            ),
            advantage=1.0,
            policy_tokens=answer,
            agent_tokens=0,
            forbidden_ids=(0,) if suppresses(experiment) else (),
        )
        for number in range(micro_batch_rows(experiment))
    )


class _SameRows:
    """A row source that gives the same rows in every rollout step."""

    shared = False

    def __init__(self, step: StepRows) -> None:
        self._step = step

    def rows(self, step: int) -> StepRows:
        return self._step

    def updated(self, version: int) -> None:
        pass
