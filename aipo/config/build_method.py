"""A configuration's method as functions: rewards to advantages, traces to rows, rows to a loss.

Live rollouts, stored ones and replays take the same functions from here.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aipo.config.schema import Config
from aipo.method.credit import Credited, assign_credit
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Trace

if TYPE_CHECKING:
    from aipo.method.step_rows import StepRows


def credit_of(config: Config) -> Callable[[Sequence[Trace]], Credited]:
    """Rewards to advantages."""
    return partial(assign_credit, method=config.method)


def plan_of(config: Config) -> Callable[[Sequence[Task], int], list[RolloutSpec]]:
    """Tasks and rollout step to the rollouts to be made."""
    train, seed = config.train, config.run.seed

    def planned(tasks: Sequence[Task], step: int) -> list[RolloutSpec]:
        return plan_rollouts(
            tasks, config.method, step=step, steps=train.steps, group_size=train.group_size, seed=seed
        )

    return planned


def rows_of_step(
    config: Config, credited: Credited, tag_ids: tuple[int, ...], metrics: Mapping[str, float] | None = None
) -> "StepRows":
    """Credited traces as the rows of one rollout step."""
    from aipo.method.step_rows import step_rows

    agents = tuple(config.agents)
    return step_rows(credited, config.method, tag_ids=tag_ids, agents=agents, metrics=metrics)


def loss_settings(config: Config) -> MethodSettings:
    """What the loss takes."""
    return config.method


def scored_again(config: Config) -> bool:
    """Whether the trainer scores rows with the weights that sampled them, in every optimizer step."""
    return config.policy.engine == "vllm" or config.method.scores_again
