"""The schedule of a run, and TRL's arguments for it.

A *rollout step* is one call of `RowSource.rows`; for TRL's trainer it is one epoch. Its rows are trained in `passes`
passes of `minibatches` *optimizer steps* each, and an optimizer step accumulates `gradient_accumulation` micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import SaveStrategy
from trl.trainer.grpo_config import GRPOConfig

from aipo.config.build import Experiment
from aipo.errors import ConfigError, TrainError
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Row
from aipo.method.settings import MethodSettings
from aipo.train.sources import RowSource

# TRL turns it on. transformers renamed it in the middle of the range that we support.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in GRPOConfig.__dataclass_fields__
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of a rollout step: its rows, micro-batches, minibatches and passes.

    Args:
        passes: how often all rows are trained.
        minibatches: optimizer steps per pass.
        gradient_accumulation: micro-batches per optimizer step.
    """

    passes: int
    minibatches: int
    gradient_accumulation: int

    @classmethod
    def of(cls, args: GRPOConfig) -> "Schedule":
        """The schedule that TRL's arguments describe.

        Raises:
            TrainError: an optimizer step would span two rollout steps.
        """
        micro_batches, accumulation = int(args.steps_per_generation or 1), args.gradient_accumulation_steps
        if micro_batches % accumulation:
            raise TrainError(
                f"steps_per_generation: got {micro_batches}, allowed a multiple of "
                f"gradient_accumulation_steps={accumulation}"
            )
        return cls(args.num_iterations, micro_batches // accumulation, accumulation)

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps per rollout step."""
        return self.passes * self.minibatches

    @property
    def micro_batches(self) -> int:
        """Micro-batches that the rows of a rollout step are cut into; every pass trains all of them."""
        return self.minibatches * self.gradient_accumulation

    def place(self, micro_step: int) -> int:
        """Index of a micro-step within its rollout step, from 0."""
        return micro_step % (self.optimizer_steps * self.gradient_accumulation)

    def fresh(self, micro_batch: int) -> bool:
        """Whether a micro-batch is trained only once, and with the weights that sampled it."""
        return self.passes == 1 and micro_batch < self.gradient_accumulation

    def deal(
        self, rows: Sequence[Row], *, seed: int, rollout_step: int, rank: int = 0, ranks: int = 1
    ) -> list[list[Row]]:
        """The rows of each micro-batch.

        Rows are shuffled, dealt out to the optimizer steps, and sorted by length within each, so that there is little
        padding. A rank gets every `ranks`-th row of a micro-batch, so that all ranks have about the same work. Numbers
        need not divide: every row has its denominator.
        """
        order = np.random.default_rng([seed, rollout_step]).permutation(len(rows))
        dealt: list[list[Row]] = []
        for minibatch in np.array_split(order, self.minibatches):
            by_length = np.array(sorted(minibatch.tolist(), key=lambda i: len(rows[i])), dtype=np.int64)
            micro_batches = np.array_split(by_length, self.gradient_accumulation)
            dealt += [[rows[i] for i in places[rank::ranks]] for places in micro_batches]
        return dealt


def trl_arguments(
    output_dir: Path | str,
    method: MethodSettings,
    *,
    rollout_steps: int,
    minibatches: int = 1,
    passes: int = 1,
    gradient_accumulation: int = 1,
    learning_rate: float,
    max_completion_length: int,
    save_every: int | None = None,
    autocast: bool = False,
    activation_checkpointing: bool = False,
    **rest: Any,
) -> GRPOConfig:
    """TRL's arguments, with what this trainer needs and without what costs time.

    Args:
        rollout_steps: how often rows are asked for.
        minibatches: optimizer steps per rollout step and pass.
        passes: passes over the rows of each rollout step.
        gradient_accumulation: micro-batches per optimizer step.
        max_completion_length: longest rollout after its prompt; `dr_grpo` divides by it.
        save_every: rollout steps between checkpoints; None = no checkpoints.
        autocast: compute in bfloat16; weights, gradients and optimizer keep their type.
        activation_checkpointing: keep only each layer's input for the backward pass, and compute the rest again.
        rest: any other argument of `trl.GRPOConfig`.
    """
    schedule = Schedule(passes, minibatches, gradient_accumulation)
    defaults: dict[str, Any] = {
        # The source decides how many rows there are; TRL only needs numbers that divide.
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "steps_per_generation": schedule.micro_batches,
        "gradient_accumulation_steps": gradient_accumulation,
        "num_iterations": passes,
        "max_steps": rollout_steps * schedule.optimizer_steps,
        "learning_rate": learning_rate,
        "max_completion_length": max_completion_length,
        **_in_trls_words(method),
        "save_strategy": "no" if save_every is None else "steps",
        "save_steps": (save_every or 1) * schedule.optimizer_steps,
        "seed": 0,
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


def train_arguments(experiment: Experiment, output_dir: Path, *, cpu: bool) -> GRPOConfig:
    """TRL's arguments for a configured run."""
    train, rollout = experiment.train, experiment.rollout
    optimizer_steps = train.steps * train.optimizer_steps
    return trl_arguments(
        output_dir,
        experiment.method,
        rollout_steps=train.steps,
        minibatches=train.minibatches,
        passes=train.passes,
        gradient_accumulation=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        save_every=train.save_every,
        seed=experiment.seed,
        autocast=train.autocast,
        activation_checkpointing=train.activation_checkpointing,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(train.decay * optimizer_steps), "decay_type": "linear"},
        warmup_steps=round(train.warmup * optimizer_steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        report_to=list(experiment.report_to) or "none",
        use_cpu=cpu,
    )


def check_trackers(names: Sequence[str]) -> None:
    """Can transformers' Trainer report to all of them?

    Raises:
        ConfigError: it does not know one, or its package is not installed.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK as TRACKERS

    for name in names if list(names) not in (["all"], ["none"]) else ():
        if name not in TRACKERS:
            raise ConfigError(f"run.report_to: got {name!r}, allowed some of {sorted(TRACKERS)}, or none: []")
        try:
            TRACKERS[name]()
        except Exception as error:  # each says in its own way what it lacks
            raise ConfigError(
                f"run.report_to: got {name!r}, which cannot be used here ({type(error).__name__}: {error}), allowed a "
                "tracker whose package is installed, or none: []"
            ) from error


def _in_trls_words(method: MethodSettings) -> dict[str, Any]:
    """The loss as TRL's arguments name it. Our own loss is computed; these are recorded in checkpoints."""
    return {"beta": method.beta, **OBJECTIVES[method.objective].trl(method.clip)}


_HONOURED: dict[str, Any] = {
    "use_vllm": False,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "off_policy_mask_threshold": None,
    "delta": None,
    "use_bias_correction_kl": True,
    "mask_truncated_completions": False,
    "sync_ref_model": False,
    "log_completions": False,
    "disable_dropout": True,
    "ignore_data_skip": True,
}
"""TRL's arguments that this trainer ignores or needs, with the only values that are allowed."""


def check_arguments(args: GRPOConfig, schedule: Schedule, method: MethodSettings, source: RowSource) -> None:
    """Refuses arguments that contradict the settings, or that the trainer does not honour.

    Raises:
        TrainError: names the argument.
    """
    for name, value in (_HONOURED | _in_trls_words(method)).items():
        if (got := getattr(args, name)) != value:
            raise TrainError(f"{name}: got {got!r}, allowed {value!r}, as trl_arguments sets it")
    if args.max_steps < 1:
        raise TrainError(f"max_steps: got {args.max_steps}, allowed 1 or more (else TRL counts epochs)")
    if source.shared and schedule.gradient_accumulation > 1:
        raise TrainError(
            f"gradient_accumulation_steps: got {schedule.gradient_accumulation}, allowed 1 when several trainers learn "
            "together (accelerate keeps this state once per process)"
        )
    if args.save_strategy != SaveStrategy.NO and args.save_steps % schedule.optimizer_steps:
        raise TrainError(
            f"save_steps: got {args.save_steps}, allowed a multiple of the {schedule.optimizer_steps} optimizer steps of "
            "a rollout step (a checkpoint does not hold rows)"
        )
