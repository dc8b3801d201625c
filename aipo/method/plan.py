"""The plan: which rollouts make up one group, and which tasks a rollout step is about.

A plan is a function from the tasks of a rollout step to the rollouts to run; `PLANS` names them. The plan and the
draw of tasks depend only on the seed and the step, so a resumed run does what an uninterrupted one would have done.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aipo.errors import ConfigError, TaskError, one_of
from aipo.method.settings import MethodSettings
from aipo.rollout.env import Env, Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode

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


def draw_tasks(env: Env, mixture: Mapping[str, float], count: int, *, step: int, seed: int) -> list[Task]:
    """The `count` tasks of rollout step `step`, split by split in the order of `mixture`.

    Every step takes the same number from a split (largest remainder; the earlier split wins a tie). The tasks of a
    split are used in a random order without repetition, then in another random order, and so on.

    Args:
        mixture: share of each split; the shares sum to 1.
        step: from 0. The draw does not depend on earlier calls.

    Raises:
        ConfigError: shares outside [0, 1] or not summing to 1, an unknown split, or a split that
            `count` is too small for.
        TaskError: a split is empty.
    """
    drawn: list[Task] = []
    for split, number in _counts(env, mixture, count).items():
        tasks = env.tasks(split)
        if not tasks:
            raise TaskError(one_of(f"tasks of split {split!r}", 0, ">= 1", "the mixture"))
        places = range(step * number, (step + 1) * number)
        epochs = {place // len(tasks) for place in places}
        orders = {epoch: _order(len(tasks), seed, split, epoch) for epoch in epochs}
        drawn += [tasks[orders[place // len(tasks)][place % len(tasks)]] for place in places]
    return drawn


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


def _counts(env: Env, mixture: Mapping[str, float], count: int) -> dict[str, int]:
    for split, share in mixture.items():
        if split not in env.splits():
            raise ConfigError(one_of("split", split, sorted(env.splits()), "the mixture"))
        _check_share(share, f"share of split {split!r}")
    if not math.isclose(sum(mixture.values()), 1.0, abs_tol=1e-6):
        raise ConfigError(one_of("sum of shares", sum(mixture.values()), "1", f"the mixture {dict(mixture)}"))
    quotas = {split: share * count for split, share in mixture.items() if share > 0}
    counts = {split: math.floor(quota) for split, quota in quotas.items()}
    remainders = sorted(quotas, key=lambda split: counts[split] - quotas[split])
    for split in remainders[: count - sum(counts.values())]:
        counts[split] += 1
    for split, number in counts.items():
        if number == 0:
            raise ConfigError(
                one_of(f"tasks of split {split!r} in a step", 0, ">= 1", f"{count} tasks of {dict(mixture)}")
            )
    return counts


def _order(length: int, seed: int, split: str, epoch: int) -> list[int]:
    return np.random.default_rng(derive_seed(seed, "draw", split, epoch)).permutation(length).tolist()


def _part(share: float, whole: int, name: str) -> int:
    _check_share(share, name)
    # Decimal places such as 0.15 are not exact in binary: 0.15 * 10 is just below or above one half.
    return math.floor(round(share * whole, 9) + 0.5)


def _check_share(share: float, name: str) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(one_of(name, share, "0 to 1", "the configuration"))
