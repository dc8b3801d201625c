"""Rows for a trainer, the trainer of them, and what it left."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from aipo.method.batch import TokenTotals
from aipo.method.rows import distil, rows_of
from aipo.method.settings import MethodSettings
from aipo.method.step_rows import StepRows
from aipo.policies.tags import Tags
from aipo.trace import Trace
from aipo.train.schedule import trl_arguments
from aipo.train.trainer import AIPOTrainer
from kit import tiny
from kit.handmade import agent, consult, policy, prompt, trace


def rollout(i: int, rng: np.random.Generator, *, advantage: float | None = None) -> Trace:
    """2-4 prompt tokens, 2-8 policy tokens; the advantage is never 0 unless it is given."""
    ids = rng.integers(2, tiny.VOCABULARY, 12).tolist()
    begin, length = int(rng.integers(2, 5)), int(rng.integers(2, 9))
    if advantage is None:
        advantage = float(rng.choice([-1.0, 0.5, 1.0]))
    logprobs = -2.5 - 0.5 * rng.random(length)
    return trace(
        prompt(*ids[:begin]),
        policy(*ids[4 : 4 + length], logprobs=logprobs.tolist()),
        trace_id=f"t{i}",
        advantage=advantage,
    )


def helped(i: int, rng: np.random.Generator, advantage: float) -> Trace:
    """An assisted rollout that can be distilled: id 13 is the tag. The agent's log-probs are not known."""
    ids = rng.integers(2, 13, 10).tolist()
    return trace(
        prompt(*ids[:2]),
        policy(*ids[2:4], 13, ids[4], logprobs=(-2.5 - 0.5 * rng.random(4)).tolist()),
        agent(*ids[5:7]),
        policy(*ids[7:], logprobs=(-2.5 - 0.5 * rng.random(3)).tolist()),
        trace_id=f"h{i}",
        consults=(consult(1, 2, 2),),
        advantage=advantage,
    )


def step(*traces: Trace, active_share: float = 1.0, **metrics: float) -> StepRows:
    rows = tuple(row for one in traces for row in rows_of(one))
    return StepRows(rows=rows, totals=TokenTotals.of(rows), active_share=active_share, metrics=metrics)


def steps(count: int, rows: int) -> list[StepRows]:
    rng = np.random.default_rng(0)
    return [step(*(rollout(i, rng) for i in range(rows))) for _ in range(count)]


def nothing() -> StepRows:
    """A rollout step in which no rollout has an advantage."""
    rng = np.random.default_rng(0)
    return step(*(rollout(i, rng, advantage=0.0) for i in range(4)), active_share=0.0)


def mixed(seed: int = 0) -> StepRows:
    """Rollouts alone and with an agent, better and worse than their group, and two distilled rows."""
    rng = np.random.default_rng(seed)
    traces = [rollout(i, rng, advantage=(1.0, -0.5, 0.0)[i % 3]) for i in range(6)]
    traces += [helped(i, rng, advantage) for i, advantage in enumerate((0.8, -0.6, 1.2))]
    sampled = step(*traces)
    distilled = [row for one in traces if (row := distil(one, Tags((13,)))) is not None]
    return StepRows(rows=(*sampled.rows, *distilled), totals=sampled.totals, active_share=1.0)


def trainer(
    folder: Path,
    given: Sequence[StepRows],
    *,
    kind: type[AIPOTrainer] = AIPOTrainer,
    model: PreTrainedModel | None = None,
    method: MethodSettings | None = None,
    shared: bool = False,
    how: dict[str, Any] | None = None,
    **args: Any,
) -> AIPOTrainer:
    """A trainer of a tiny model on given rows.

    Args:
        how: more arguments of the trainer.
        args: of `trl_arguments`.
    """
    method = method or tiny.method()
    size = {"rollout_steps": len(given), "learning_rate": 1e-2, "max_completion_length": 16}
    return kind(
        tiny.model() if model is None else model,
        trl_arguments(folder, method, **(size | args)),
        tiny.Rows(given, shared=shared),
        method,
        **({"tokenizer": tiny.tokenizer()} | (how or {})),
    )


class OnStep(TrainerCallback):
    """Does something after each optimizer step."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._act()


def weights(trained: AIPOTrainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trained.model.named_parameters()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics that a trainer logged."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
