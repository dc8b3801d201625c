"""The schedule of a run, in TRL's arguments.

A *generation* is what one call of `RowSource.rows` gives; it is one epoch of the trainer underneath. It
is trained in `updates` optimiser steps (times `iterations`), each of one or more micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import SaveStrategy
from trl.trainer.grpo_config import GRPOConfig

from aipo.config.build import Experiment
from aipo.errors import TrainError
from aipo.method.loss import LossSettings
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Row
from aipo.train.sources import RowSource

# TRL turns it on. transformers renamed it in the middle of the range that we support.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in GRPOConfig.__dataclass_fields__
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a generation is trained: passes over it, optimiser steps per pass, micro-batches per step."""

    iterations: int
    updates: int
    accumulation: int

    @classmethod
    def of(cls, args: GRPOConfig) -> "Schedule":
        """What TRL's arguments amount to.

        Raises:
            TrainError: an optimiser step would span two generations.
        """
        micro_batches, accumulation = int(args.steps_per_generation or 1), args.gradient_accumulation_steps
        if micro_batches % accumulation:
            raise TrainError(
                f"steps_per_generation: got {micro_batches}, allowed a multiple of "
                f"gradient_accumulation_steps={accumulation}"
            )
        return cls(args.num_iterations, micro_batches // accumulation, accumulation)

    @property
    def steps(self) -> int:
        """Optimiser steps per generation."""
        return self.iterations * self.updates

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a generation's rows are cut into; every iteration trains all of them."""
        return self.updates * self.accumulation

    def place(self, micro_step: int) -> int:
        """Where in its generation a micro-step is, from 0."""
        return micro_step % (self.steps * self.accumulation)

    def fresh(self, micro_batch: int) -> bool:
        """Whether a micro-batch is trained once, and with the weights that sampled it."""
        return self.iterations == 1 and micro_batch < self.accumulation

    def deal(
        self, rows: Sequence[Row], *, seed: int, generation: int, rank: int = 0, ranks: int = 1
    ) -> list[list[Row]]:
        """The rows of each micro-batch: shuffled, dealt out to the optimiser steps, and in each of them
        sorted by length, so that little is padding. Of a micro-batch each rank has every so many-th row, which
        gives all of them as much to do. Numbers need not divide: every row has its denominator."""
        order = np.random.default_rng([seed, generation]).permutation(len(rows))
        dealt: list[list[Row]] = []
        for of_update in np.array_split(order, self.updates):
            by_length = sorted(of_update.tolist(), key=lambda i: len(rows[i]))
            for of_batch in np.array_split(np.array(by_length, dtype=np.int64), self.accumulation):
                dealt.append([rows[i] for i in of_batch[rank::ranks]])
        return dealt


def arguments(
    output_dir: Path | str,
    *,
    generations: int,
    updates: int = 1,
    accumulation: int = 1,
    iterations: int = 1,
    learning_rate: float,
    max_completion_length: int,
    temperature: float = 1.0,
    save_every: int | None = None,
    seed: int = 0,
    autocast: bool = False,
    activation_checkpointing: bool = False,
    settings: LossSettings,
    **rest: Any,
) -> GRPOConfig:
    """TRL's arguments, with what this trainer needs and without what costs time.

    Args:
        generations: how often rows are asked for.
        updates: optimiser steps per generation and iteration (minibatches).
        accumulation: micro-batches per optimiser step.
        iterations: passes over each generation.
        max_completion_length: longest rollout after its prompt; `dr_grpo` divides by it.
        save_every: generations between checkpoints; None = none.
        autocast: compute in bfloat16; weights, gradients and optimiser keep their type.
        activation_checkpointing: keep only each layer's input for the backward pass, and compute the rest again.
        rest: any other argument of `trl.GRPOConfig`.
    """
    schedule = Schedule(iterations, updates, accumulation)
    defaults: dict[str, Any] = {
        # How many rows there are is the source's affair; TRL only wants numbers that divide.
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "steps_per_generation": schedule.micro_batches,
        "gradient_accumulation_steps": accumulation,
        "num_iterations": iterations,
        "max_steps": generations * schedule.steps,
        "learning_rate": learning_rate,
        "max_completion_length": max_completion_length,
        "temperature": temperature,
        **_of_settings(settings),
        "save_strategy": "no" if save_every is None else "steps",
        "save_steps": (save_every or 1) * schedule.steps,
        "seed": seed,
        "shuffle_dataset": False,
        "ignore_data_skip": True,
        "disable_dropout": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # would hide it; the trainer stops instead
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": autocast,
        _CHECKPOINTING: activation_checkpointing,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }
    return GRPOConfig(output_dir=str(output_dir), **(defaults | rest))


KEEP_CHECKPOINTS = 3


def train_arguments(experiment: Experiment, output_dir: Path, *, cpu: bool) -> GRPOConfig:
    """The schedule and the optimiser."""
    train, rollout = experiment.train, experiment.rollout
    updates = train.steps * train.optimizer_steps
    return arguments(
        output_dir,
        generations=train.steps,
        updates=train.minibatches,
        iterations=train.passes,
        accumulation=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        save_every=train.save_every,
        seed=experiment.seed,
        autocast=train.autocast,
        activation_checkpointing=train.activation_checkpointing,
        settings=experiment.loss,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(train.decay * updates), "decay_type": "linear"},
        warmup_steps=round(train.warmup * updates),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        report_to=list(experiment.report_to) or "none",
        use_cpu=cpu,
        save_total_limit=KEEP_CHECKPOINTS,
    )


def _of_settings(settings: LossSettings) -> dict[str, Any]:
    """The loss in TRL's words; ours is computed, and this is what a checkpoint says of it."""
    return {"beta": settings.beta, **OBJECTIVES[settings.objective].trl(settings.clip)}


_HONOURED: dict[str, Callable[[Any], bool]] = {
    "use_vllm": lambda value: value is False,
    "top_entropy_quantile": lambda value: value == 1.0,
    "entropy_coef": lambda value: value == 0.0,
    "use_adaptive_entropy": lambda value: not value,
    "off_policy_mask_threshold": lambda value: value is None,
    "delta": lambda value: value is None,
    "use_bias_correction_kl": bool,
    "mask_truncated_completions": lambda value: not value,
    "sync_ref_model": lambda value: not value,
    "log_completions": lambda value: not value,
    "max_steps": lambda value: value > 0,
    "disable_dropout": bool,
    "ignore_data_skip": bool,
}
"""TRL's arguments that this trainer ignores or needs, and which of their values are no lie."""


def check_arguments(
    args: GRPOConfig,
    schedule: Schedule,
    settings: LossSettings,
    source: RowSource,
    *,
    recompute: bool,
    limited: bool,
) -> None:
    """Refuses arguments that contradict each other, or that the trainer does not honour.

    Raises:
        TrainError: names the argument.
    """
    for name, fits in _HONOURED.items():
        if not fits(getattr(args, name)):
            raise TrainError(
                f"{name}: got {getattr(args, name)!r}, allowed what aipo.train.trainer.arguments sets"
            )
    for name, value in _of_settings(settings).items():
        if getattr(args, name) != value:
            raise TrainError(
                f"{name}: got {getattr(args, name)} in the arguments, allowed {value} as in the settings"
            )
    if source.shared and schedule.accumulation > 1:
        raise TrainError(
            f"gradient_accumulation_steps: got {schedule.accumulation}, allowed 1 when several trainers learn "
            "together (accelerate keeps this state once per process)"
        )
    if settings.importance_cap is not None and not recompute:
        raise TrainError("importance_cap: got a cap without recompute=True, allowed only together")
    if settings.needs_old and not recompute:
        raise TrainError(
            f"coefficient: got {settings.coefficient!r} with coefficient_trust={settings.coefficient_trust} and "
            "without recompute=True, allowed only together: it takes π_old of agents' tokens"
        )
    if limited and not recompute:
        raise TrainError("max_mismatch: got a limit without recompute=True, allowed only together")
    if args.save_strategy != SaveStrategy.NO and args.save_steps % schedule.steps:
        raise TrainError(
            f"save_steps: got {args.save_steps}, allowed a multiple of the {schedule.steps} optimiser steps of a "
            "generation (a checkpoint does not hold rows)"
        )
