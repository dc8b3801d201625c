"""Credit: rewards become advantages.

A group is every rollout of one task in one rollout step. A failed rollout (reward None) counts in no baseline and gets
no advantage, which is not an advantage of 0. To add a way of giving credit, add a function to `CREDITS`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from aipo.method.settings import MethodSettings
from aipo.trace import Trace

_EPSILON = 1e-4  # as in TRL, so that a scaled advantage equals TRL's


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """Traces with their advantages, in the order in which they were given.

    Args:
        groups: baselines with at least one scored rollout.
        zero_variance_groups: those of them in which every advantage is 0, so that nothing is learned.
        active_share: share of the scored rollouts whose advantage is not 0; 0.0 when none was scored.
    """

    traces: tuple[Trace, ...]
    groups: int
    zero_variance_groups: int
    active_share: float


def assign_credit(traces: Sequence[Trace], method: MethodSettings) -> Credited:
    """Rewards to advantages, as `method.credit` says."""
    return CREDITS[method.credit](traces, method)


def group(traces: Sequence[Trace], method: MethodSettings) -> Credited:
    """A = R − mean of the group's R, divided by their standard deviation with `scale_by_std`.

    The deviation is the unbiased one plus 1e-4, as TRL has it. GRPO: DeepSeekMath (2402.03300), section 4.1; without
    the deviation: Dr. GRPO (2503.20783).

    `negative_weight` multiplies negative advantages. Below 1, solo failures push less on syntax that was right
    (measured on the miniature: 0.3). With `per_mode_baseline`, assisted and solo rollouts of a group each have a mean
    of their own. Otherwise they share one, and assisted successes count against solo failures.
    """

    def baseline(trace: Trace) -> Hashable:
        return (trace.group_id, trace.mode if method.per_mode_baseline else None)

    rewards: dict[Hashable, list[float]] = defaultdict(list)
    for trace in traces:
        if trace.reward is not None:
            rewards[baseline(trace)].append(trace.reward)

    def advantage(trace: Trace) -> float | None:
        if trace.reward is None:
            return None
        value = _advantage(trace.reward, rewards[baseline(trace)], method.scale_by_std)
        return value if value >= 0 else value * method.negative_weight

    return _credited(traces, advantage, baseline)


def reward(traces: Sequence[Trace], _: MethodSettings) -> Credited:
    """A = R, without a baseline. Where rewards are 0 or 1, only correct rollouts are learned.

    With a weight of 1 for every token this is supervised training on correct rollouts: on demonstrations, or on the
    policy's own rollouts as in STaR (2203.14465) and rejection sampling (2308.01825).
    """
    return _credited(traces, lambda trace: trace.reward, lambda trace: trace.group_id)


Credit = Callable[[Sequence[Trace], MethodSettings], Credited]
CREDITS: dict[str, Credit] = {"group": group, "reward": reward}


def _credited(
    traces: Sequence[Trace],
    advantage: Callable[[Trace], float | None],
    group_of: Callable[[Trace], Hashable],
) -> Credited:
    credited = tuple(replace(trace, advantage=advantage(trace)) for trace in traces)
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for trace in credited:
        if trace.advantage is not None:
            groups[group_of(trace)].append(trace.advantage)
    scored = [value for advantages in groups.values() for value in advantages]
    return Credited(
        traces=credited,
        groups=len(groups),
        zero_variance_groups=sum(not any(advantages) for advantages in groups.values()),
        active_share=sum(value != 0 for value in scored) / max(len(scored), 1),
    )


def _advantage(reward: float, rewards_G: Sequence[float], scale_by_std: bool) -> float:
    if max(rewards_G) == min(rewards_G):  # the mean of equal floats need not equal them
        return 0.0
    mean = math.fsum(rewards_G) / len(rewards_G)
    if not scale_by_std:
        return reward - mean
    variance = math.fsum((other - mean) ** 2 for other in rewards_G) / (len(rewards_G) - 1)
    return (reward - mean) / (math.sqrt(variance) + _EPSILON)
