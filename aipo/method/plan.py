"""The plan: which rollouts make up one group.

A plan is a function from the settings to the members of a group; `PLANS` names them. With some plans a group grows:
`GROWTHS` has the functions that say which rollouts it gets next, given those that have ended. The rollouts of a rollout
step depend only on the seed, the step and the policy, so a resumed run does what an uninterrupted one would have done.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from aipo.method.branching import branch
from aipo.method.settings import MethodSettings
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode, Trace


class Member(NamedTuple):
    """One rollout of a group; with `suppress`, its consult tags are masked."""

    mode: Mode
    suppress: bool = False


Plan = Callable[[MethodSettings, int], list[Member]]
"""The settings of a rollout step and the group size → the members of a group."""


def plan_rollouts(
    tasks: Sequence[Task], method: MethodSettings, *, step: int, steps: int, group_size: int, seed: int
) -> list[RolloutSpec]:
    """The rollouts of rollout step `step`, from 0, of `steps`: a group for each task, as `method.plan` says.

    A rollout's seed depends only on its place in the group.
    """
    grant = method.grant_at(step)
    members = PLANS[method.plan](method.at(step, steps), group_size)
    grows = method.plan in GROWTHS
    return [
        RolloutSpec(
            task=task,
            mode=mode,
            group_id=group,
            index=index,
            step=step,
            seed=derive_seed(seed, step, group, index),
            suppress=suppress,
            grant=grant if mode is Mode.ASSISTED else 1.0,
            forkable=grows and mode is Mode.ASSISTED,
        )
        for group, task in ((f"{step:05d}-{number:03d}", task) for number, task in enumerate(tasks))
        for index, (mode, suppress) in enumerate(members)
    ]


def independent(method: MethodSettings, group_size: int) -> list[Member]:
    """`group_size` independent rollouts of each task.

    The first `assist_share` of a group have agents, the rest are solo. The last `suppress_share` of the solo ones have
    the consult tags masked. Counts are rounded half up.
    """
    assisted = _part(method.assist_share, group_size)
    suppressed = _part(method.suppress_share, group_size - assisted)
    solo = group_size - assisted - suppressed
    return (
        [Member(Mode.ASSISTED)] * assisted
        + [Member(Mode.SOLO)] * solo
        + [Member(Mode.SOLO, suppress=True)] * suppressed
    )


def expert(method: MethodSettings, group_size: int) -> list[Member]:
    """As `independent`, but the last `demonstrations` of a group are an expert's solutions instead of rollouts.

    They share the group's baseline: LUFFY (2504.14945), with one demonstration and seven sampled rollouts.
    """
    demonstrations = method.demonstrations or 1
    sampled = independent(method, group_size - demonstrations)
    return sampled + [Member(Mode.EXPERT)] * demonstrations


def branching(method: MethodSettings, group_size: int) -> list[Member]:
    """The rollouts that a group begins with; `aipo.method.branching` says which ones it gets then."""
    return independent(method, method.branching.first_wave(group_size))


PLANS: dict[str, Plan] = {"independent": independent, "expert": expert, "branching": branching}


def grow_group(
    method: MethodSettings,
    specs: Sequence[RolloutSpec],
    traces: Sequence[Trace],
    *,
    steps: int,
    group_size: int,
    vocabulary: int,
) -> list[RolloutSpec]:
    """The rollouts that a group gets next, as `method.plan` says; none = it is complete.

    Args:
        specs, traces: of the group so far, all of which have ended.
        vocabulary: number of the tokenizer's ids.
    """

    def fresh(count: int) -> list[RolloutSpec]:
        first, members = specs[0], independent(method.at(specs[0].step, steps), count)
        return [
            replace(
                first,
                mode=mode,
                index=index,
                seed=derive_seed(first.seed, index),
                suppress=suppress,
                forkable=mode is Mode.ASSISTED,
            )
            for index, (mode, suppress) in enumerate(members, len(specs))
        ]

    return GROWTHS[method.plan](method, group_size, vocabulary, specs, traces, fresh)


Growth = Callable[
    [MethodSettings, int, int, Sequence[RolloutSpec], Sequence[Trace], Callable[[int], list[RolloutSpec]]],
    list[RolloutSpec],
]
"""Settings, group size, size of the vocabulary, rollouts of the group and their traces, and what makes fresh rollouts → the
rollouts that it gets next."""
GROWTHS: dict[str, Growth] = {"branching": lambda method, *group: branch(method.branching, *group)}


def _part(share: float, whole: int) -> int:
    # Decimal places such as 0.15 are not exact in binary: 0.15 * 10 is just below or above one half.
    return math.floor(round(share * whole, 9) + 0.5)
