"""The plan: which rollouts make up one group.

A plan is a function from the tasks of a rollout step to the rollouts to run; `PLANS` names them. It depends only
on the seed and the step, so a resumed run does what an uninterrupted one would have done.
"""

import math
from collections.abc import Callable, Sequence

from aipo.errors import ConfigError, one_of
from aipo.method.settings import MethodSettings
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode
from aipo.util.section import check_share

Plan = Callable[..., list[RolloutSpec]]


def plan_rollouts(
    tasks: Sequence[Task], method: MethodSettings, *, step: int, steps: int, group_size: int, seed: int
) -> list[RolloutSpec]:
    """The rollouts of rollout step `step`, from 0, of `steps`, as `method.plan` says."""
    extra = {} if method.demonstrations is None else {"demonstrations": method.demonstrations}
    return PLANS[method.plan](
        tasks,
        step=step,
        group_size=group_size,
        assist_share=method.assist_share_at(step, steps),
        suppress_share=method.suppress_share,
        seed=seed,
        **extra,
    )


def independent(
    tasks: Sequence[Task],
    *,
    step: int,
    group_size: int,
    assist_share: float,
    suppress_share: float,
    seed: int,
) -> list[RolloutSpec]:
    """`group_size` independent rollouts of each task.

    The first `assist_share` of a group have agents, the rest are solo. The last `suppress_share` of the solo ones have
    the consult tags masked. Counts are rounded half up.

    Raises:
        ConfigError: a share outside [0, 1], or a group of less than one.
    """
    if group_size < 1:
        raise ConfigError(one_of("group size", group_size, ">= 1", "the plan 'independent'"))
    return _specs(tasks, _members(group_size, assist_share, suppress_share), step=step, seed=seed)


def expert(
    tasks: Sequence[Task],
    *,
    step: int,
    group_size: int,
    assist_share: float,
    suppress_share: float,
    seed: int,
    demonstrations: int = 1,
) -> list[RolloutSpec]:
    """As `independent`, but the last `demonstrations` of a group are an expert's solutions instead of rollouts.

    They share the group's baseline: LUFFY (2504.14945), with one demonstration and seven sampled rollouts.

    Raises:
        ConfigError: as `independent`, or no demonstration, or more than the group has room for.
    """
    if not 1 <= demonstrations <= group_size:
        allowed = f"1 to the group's size of {group_size}"
        raise ConfigError(one_of("demonstrations", demonstrations, allowed, "the plan 'expert'"))
    members = _members(group_size - demonstrations, assist_share, suppress_share)
    return _specs(tasks, [*members, *[(Mode.EXPERT, False)] * demonstrations], step=step, seed=seed)


PLANS: dict[str, Plan] = {"independent": independent, "expert": expert}


def _members(size: int, assist_share: float, suppress_share: float) -> list[tuple[Mode, bool]]:
    """Mode of each sampled rollout of a group, and whether the consult tags are masked."""
    assisted = _part(assist_share, size, "assist_share")
    suppressed = _part(suppress_share, size - assisted, "suppress_share")
    return [
        *[(Mode.ASSISTED, False)] * assisted,
        *[(Mode.SOLO, False)] * (size - assisted - suppressed),
        *[(Mode.SOLO, True)] * suppressed,
    ]


def _specs(
    tasks: Sequence[Task], members: Sequence[tuple[Mode, bool]], *, step: int, seed: int
) -> list[RolloutSpec]:
    """A group of `members` for each task. A rollout's seed depends only on its place in the group."""
    return [
        RolloutSpec(
            task=task,
            mode=mode,
            group_id=group,
            index=index,
            step=step,
            seed=derive_seed(seed, step, group, index),
            suppress=suppress,
        )
        for group, task in ((f"{step:05d}-{number:03d}", task) for number, task in enumerate(tasks))
        for index, (mode, suppress) in enumerate(members)
    ]


def _part(share: float, whole: int, name: str) -> int:
    check_share(share, name)
    # Decimal places such as 0.15 are not exact in binary: 0.15 * 10 is just below or above one half.
    return math.floor(round(share * whole, 9) + 0.5)
