"""How much memory does a training step take on this GPU? It is measured: the real trainer takes steps on made-up rows."""

import gc
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from aipo.config.build import Experiment
from aipo.doctor.check import Check, PolicyParts
from aipo.doctor.memory import SMALLER, Size, gib, too_large
from aipo.method.batch import TokenTotals
from aipo.method.rows import Code, Row, SegmentInfo
from aipo.method.step_rows import StepRows
from aipo.trace import Role
from aipo.train.schedule import train_arguments
from aipo.train.trainer import AIPOTrainer

_WHAT = "measured memory"
# Share of the free memory that the peak may take; fragments need some, too.
_HEADROOM = 0.9


def check_step(parts: PolicyParts, size: Size) -> Check:
    """Loads the policy, trains two optimizer steps on rows of the longest length, and says the peak of
    `max_memory_allocated`. The optimizer's state exists from the second step on. All is freed afterwards.
    """
    free, _ = torch.cuda.mem_get_info()
    torch.cuda.reset_peak_memory_stats()
    try:
        _train(parts)
    except torch.OutOfMemoryError:
        found = f"a training step runs out of memory, with {gib(free)} free"
        return too_large(parts.experiment, size, _WHAT, found)
    finally:
        peak = torch.cuda.max_memory_allocated()
        gc.collect()
        torch.cuda.empty_cache()
    found = f"a training step on rows of the longest length takes {gib(peak)} of {gib(free)} that are free"
    return Check("ok", _WHAT, found) if peak <= _HEADROOM * free else Check("warn", _WHAT, found, SMALLER)


def _train(parts: PolicyParts) -> None:
    experiment = parts.experiment
    rows = made_up_rows(experiment, len(parts.tokenizer), len(parts.prompt))
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
    source: Any = SimpleNamespace(shared=False, rows=lambda _: step, updated=lambda _: None)
    network = experiment.adapted(experiment.network(parts.model), parts.tokenizer)
    with TemporaryDirectory() as folder:
        AIPOTrainer(
            network,
            train_arguments(shorter, Path(folder), cpu=network.device.type == "cpu"),
            source,
            shorter.method,
            tokenizer=parts.tokenizer.inner,
            scores_again=shorter.scores_again,
        ).train()


def made_up_rows(experiment: Experiment, vocabulary: int, prompt: int) -> tuple[Row, ...]:
    """The most rows that a micro-batch has: random ids, a long prompt, and an answer of `rollout.max_tokens`."""
    train, method = experiment.train, experiment.method
    distils, exchanges = method.distil_weight > 0, method.agent_prompt == "solo"
    rows = train.tasks_per_step * train.group_size * (1 + method.assist_share_most * (distils + exchanges))
    # The logits of a row with suppressed tags are all in memory at once.
    suppresses = method.suppresses or (distils and method.distil_suppress)
    answer, random = experiment.rollout.max_tokens, np.random.default_rng(0)
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
                SegmentInfo(Role.PROMPT, "prompt", has_logprobs=False),
                SegmentInfo(Role.POLICY, "policy", has_logprobs=True),
            ),
            advantage=1.0,
            policy_tokens=answer,
            agent_tokens=0,
            forbidden_ids=(0,) if suppresses else (),
        )
        for number in range(math.ceil(rows / (train.minibatches * train.gradient_accumulation)))
    )
