"""A configuration's method as functions: rewards to advantages, traces to rows, rows to a loss.

Live rollouts, stored ones and replays take the same functions from here.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from aipo.config.schema import Config
from aipo.method.credit import CREDITS, Credited
from aipo.method.plan import PLANS
from aipo.method.settings import MethodConfig
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Trace

if TYPE_CHECKING:
    from aipo.method.loss import LossSettings
    from aipo.method.step_rows import StepRows


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
    from aipo.method.step_rows import step_rows

    return step_rows(
        credited,
        distilled=config.method.distil_weight > 0,
        tag_ids=tag_ids,
        suppress=config.method.distil_suppress,
        agents=tuple(config.agents),
        metrics=metrics,
    )


def loss_settings(config: Config) -> "LossSettings":
    """Tokens to a loss.

    Raises:
        ConfigError: settings that contradict each other.
    """
    from aipo.method.loss import LossSettings

    method = config.method
    return LossSettings(
        objective=method.objective,
        clip_low=method.clip_low,
        clip_high=method.clip_high,
        clip_keeps_gradient=method.clip_keeps_gradient,
        denominator=method.denominator,
        beta=method.beta,
        **asdict(method.weighing),
        distil_weight=method.distil_weight,
        importance_mode=method.importance_mode,
        importance_cap=method.importance_cap,
    )


def scored_again(config: Config) -> bool:
    """Whether rows are scored by the trainer with the weights that sampled them, in every optimiser step: for a
    correction, for π_old of agents' tokens, for a limit on the drift, and wherever something else than the
    trainer's own network samples."""
    served = config.policy.engine == "vllm"
    return served or loss_settings(config).needs_trainer or config.method.max_mismatch is not None
