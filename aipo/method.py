"""A configuration's method as functions: rewards to advantages, traces to rows, rows to a loss.

Live rollouts, stored ones and replays take the same functions from here.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aipo.config import Config
from aipo.credit import CREDITS, Credited
from aipo.method_section import MethodConfig
from aipo.plan import PLANS, RolloutSpec
from aipo.task import Task
from aipo.trace import Trace

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

    from aipo.loss import LossSettings
    from aipo.source import StepRows

KEEP_CHECKPOINTS = 3


def credit_of(config: Config) -> Callable[[Sequence[Trace]], Credited]:
    """Rewards to advantages."""
    credit = CREDITS[config.method.credit]
    return partial(credit, **_own_settings(config, credit))


def plan_of(config: Config) -> Callable[[Sequence[Task], int], list[RolloutSpec]]:
    """Tasks and generation to the rollouts to be made."""
    plan = PLANS[config.method.plan]
    size, seed, own = config.train.group_size, config.run.seed, _own_settings(config, plan)

    def planned(tasks: Sequence[Task], step: int) -> list[RolloutSpec]:
        share = config.method.assist_share_at(step, config.train.steps)
        return plan(tasks, step=step, group_size=size, seed=seed, **own | {"assist_share": share})

    return planned


def _own_settings(config: Config, choice: Callable[..., Any]) -> dict[str, Any]:
    """Those settings of the method that `choice` has an argument for; one that is not set keeps its default."""
    settings = {name: getattr(config.method, name) for name in MethodConfig.model_fields}
    taken = inspect.signature(choice).parameters
    return {name: value for name, value in settings.items() if name in taken and value is not None}


def rows_of_step(
    config: Config, credited: Credited, tag_ids: tuple[int, ...], metrics: Mapping[str, float] | None = None
) -> "StepRows":
    """Credited traces as the rows of one generation.

    Args:
        tag_ids: ids of the consult tags, which distilled rows may be trained without.
        metrics: to be logged besides the generation's own.
    """
    from aipo.source import step_rows

    return step_rows(
        credited,
        distilled=config.method.distil > 0,
        tag_ids=tag_ids,
        forbid=config.method.distil_forbid,
        agents=tuple(config.agents),
        metrics=metrics,
    )


def loss_settings(config: Config) -> "LossSettings":
    """Tokens to a loss.

    Raises:
        ConfigError: settings that contradict each other.
    """
    from aipo.loss import LossSettings

    method = config.method
    return LossSettings(
        objective=method.objective,
        clip_low=method.clip_low,
        clip_high=method.clip_high,
        clip_keeps_gradient=method.clip_keeps_gradient,
        denominator=method.denominator,
        beta=method.kl,
        **asdict(method.weighing),
        distil_weight=method.distil,
        correction=method.correction,
        importance_cap=method.correction_cap,
    )


def scored_again(config: Config) -> bool:
    """Whether rows are scored by the trainer with the weights that sampled them, in every optimiser step: for a
    correction, for π_old of agents' tokens, for a limit on the drift, and wherever something else than the
    trainer's own network samples."""
    served = config.policy.engine == "vllm"
    return served or loss_settings(config).needs_trainer or config.method.max_drift is not None


def train_arguments(config: Config, output_dir: Path, *, cpu: bool) -> "GRPOConfig":
    """The schedule and the optimiser."""
    from aipo.schedule import arguments

    train = config.train
    updates = train.steps * train.updates
    return arguments(
        output_dir,
        generations=train.steps,
        updates=train.minibatches,
        iterations=train.passes,
        accumulation=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        max_completion_length=config.rollout.max_tokens,
        temperature=config.rollout.temperature,
        save_every=train.save_every,
        seed=config.run.seed,
        autocast=train.autocast,
        activation_checkpointing=train.activation_checkpointing,
        settings=loss_settings(config),
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(train.decay * updates), "decay_type": "linear"},
        warmup_steps=round(train.warmup * updates),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        report_to=list(config.run.report_to) or "none",
        use_cpu=cpu,
        save_total_limit=KEEP_CHECKPOINTS,
    )
