"""Credit: rewards become advantages.

A group is every rollout of one task in one rollout step; of several policies, each has a group of its own. A failed
rollout (reward None) counts in no baseline and gets no advantage, which is not an advantage of 0. To add a way of giving
credit, add a function to `CREDITS`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from aipo.method.settings import MethodSettings
from aipo.trace import Role, Segment, Trace

_EPSILON = 1e-4  # as in TRL, so that a scaled advantage equals TRL's


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """Traces with their advantages, in the order in which they were given.

    Args:
        baselines: of each trace, by which baseline it was measured; equal ones are the same.
    """

    traces: tuple[Trace, ...]
    baselines: tuple[Hashable, ...]

    def of_policy(self, name: str) -> Self:
        """The part of one policy, for its trainer."""
        pairs = zip(self.traces, self.baselines, strict=True)
        own = [(trace, baseline) for trace, baseline in pairs if trace.policy == name]
        return replace(self, traces=tuple(t for t, _ in own), baselines=tuple(b for _, b in own))

    @property
    def groups(self) -> int:
        """Number of baselines with at least one scored rollout."""
        return len(self._advantages)

    @property
    def zero_variance_groups(self) -> int:
        """How many of them have no other advantage than 0, so that nothing is learned."""
        return sum(not any(advantages) for advantages in self._advantages.values())

    @property
    def active_share(self) -> float:
        """Share of the scored rollouts whose advantage is not 0; 0.0 when none was scored."""
        scored = [value for advantages in self._advantages.values() for value in advantages]
        return sum(value != 0 for value in scored) / max(len(scored), 1)

    @property
    def _advantages(self) -> Mapping[Hashable, list[float]]:
        groups: dict[Hashable, list[float]] = defaultdict(list)
        for trace, baseline in zip(self.traces, self.baselines, strict=True):
            if trace.advantage is not None:
                groups[baseline].append(trace.advantage)
        return groups


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
    return _against_mean(traces, [trace.reward for trace in traces], method)


def calibrated(traces: Sequence[Trace], method: MethodSettings) -> Credited:
    """`group` on calibrated rewards R̄ (perception calibration, ILR 2509.26306, equation 5). Of m policies, policy i has

        R̄ = R + Σ clip((R − mean R_l) / (max R_l − min R_l), −1/(m−1), 1/(m−1)) over the other policies l,

    where R_l are the rewards of policy l for the same task. With one policy it is `group`.

    The paper leaves open what holds where all R_l are equal. Here it is the limit of the term: its sign times its bound. A
    policy whose rollouts of the task all failed adds nothing.
    """
    rewards: dict[Hashable, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trace in traces:
        if trace.reward is not None:
            rewards[_group_of(trace, method)][trace.policy].append(trace.reward)
    peers = len({trace.policy for trace in traces}) - 1

    def calibrate(trace: Trace) -> float | None:
        if trace.reward is None:
            return None
        of_task = rewards[_group_of(trace, method)]
        terms = (
            _perceived(trace.reward, of_task[peer], 1 / peers) for peer in of_task if peer != trace.policy
        )
        return math.fsum([trace.reward, *terms])

    return _against_mean(traces, [calibrate(trace) for trace in traces], method)


def _perceived(reward: float, rewards_of_peer: Sequence[float], bound: float) -> float:
    low, high = min(rewards_of_peer), max(rewards_of_peer)
    if low == high:
        return bound * ((reward > high) - (reward < low))
    mean = math.fsum(rewards_of_peer) / len(rewards_of_peer)
    return min(max((reward - mean) / (high - low), -bound), bound)


def reward(traces: Sequence[Trace], _: MethodSettings) -> Credited:
    """A = R, without a baseline. Where rewards are 0 or 1, only correct rollouts are learned.

    With a weight of 1 for every token this is supervised training on correct rollouts: on demonstrations, or on the
    policy's own rollouts as in STaR (2203.14465) and rejection sampling (2308.01825).
    """
    return Credited(
        traces=tuple(replace(trace, advantage=trace.reward) for trace in traces),
        baselines=tuple((trace.group_id, trace.policy) for trace in traces),
    )


def branch(traces: Sequence[Trace], method: MethodSettings) -> Credited:
    """As `group`, for groups whose rollouts share tokens because some were forked from others: ARPO (2507.19849).

    `method.attribution` is `soft` where a shared token has the advantage of each rollout in that rollout's row, and `hard`
    where it has the mean over the rollouts that share it, in all of their rows. With equal ratios and denominators both have
    the same gradient.
    """
    credited = group(traces, method)
    if method.attribution == "soft":
        return credited
    groups: dict[str, list[Trace]] = defaultdict(list)
    for trace in credited.traces:
        groups[trace.group_id].append(trace)
    hard = tuple(_with_means(trace, groups[trace.group_id]) for trace in credited.traces)
    return replace(credited, traces=hard)


def node(traces: Sequence[Trace], method: MethodSettings) -> Credited:
    """As `group`; but what the policy wrote in a node is measured against the rollouts of the group in which it wrote in that
    node: A = R − mean of their R, for the tokens of that node.

    Groups by task and agent: AT-GRPO (2510.11062), which also tells an agent's turns apart; here all turns of a node are
    one.
    """
    credited = group(traces, method)
    pairs = list(zip(credited.traces, credited.baselines, strict=True))
    rewards: dict[Hashable, list[float]] = defaultdict(list)
    for trace, baseline in pairs:
        if (reward := trace.reward) is not None:
            for name in _nodes(trace):
                rewards[baseline, name].append(reward)

    def of_nodes(trace: Trace, baseline: Hashable) -> Trace:
        if (reward := trace.reward) is None:
            return trace
        values = {name: _weighted(reward, rewards[baseline, name], method) for name in _nodes(trace)}
        segments = (
            replace(s, advantage=values[s.source]) if s.role is Role.POLICY else s for s in trace.segments
        )
        return replace(trace, segments=tuple(segments))

    return replace(credited, traces=tuple(of_nodes(*pair) for pair in pairs))


def _nodes(trace: Trace) -> list[str]:
    """The nodes in which the policy wrote."""
    return [*dict.fromkeys(part.source for part in trace.segments if part.role is Role.POLICY)]


def _with_means(trace: Trace, group: Sequence[Trace]) -> Trace:
    """The trace whose segments have the mean advantage of all in the group that share them."""
    if trace.advantage is None:
        return trace
    lineages = {other.trace_id: _lineage(other, group) for other in group}
    mine = lineages[trace.trace_id]
    shared = [
        (_shared_tokens(mine, lineages[other.trace_id]), other.advantage)
        for other in group
        if other.advantage is not None
    ]
    segments: list[Segment] = []
    before = 0
    for piece in trace.segments:
        together = [advantage for tokens, advantage in shared if tokens > before]
        before += len(piece)
        mean = math.fsum(together) / len(together) if len(together) > 1 else None
        segments.append(replace(piece, advantage=mean))
    return replace(trace, segments=tuple(segments))


def _shared_tokens(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How many tokens two rollouts share because of forks, by their lineages; infinitely many with itself."""
    return max((min(one[name], other[name]) for name in one.keys() & other.keys()), default=0)


def _lineage(trace: Trace, group: Sequence[Trace]) -> dict[str, float]:
    """The rollouts that a trace stems from, and how many tokens it shares with each; itself first."""
    by_name = {other.trace_id: other for other in group}
    tokens, lineage = math.inf, {trace.trace_id: math.inf}
    while trace.forked and (parent := by_name.get(trace.parent_id or "")) is not None:
        tokens = min(tokens, trace.fork_token or 0)
        lineage[parent.trace_id] = tokens
        trace = parent
    return lineage


Credit = Callable[[Sequence[Trace], MethodSettings], Credited]
CREDITS: dict[str, Credit] = {
    "group": group,
    "reward": reward,
    "calibrated": calibrated,
    "branch": branch,
    "node": node,
}


def _group_of(trace: Trace, method: MethodSettings) -> Hashable:
    return trace.group_id, trace.mode if method.per_mode_baseline else None


def _against_mean(
    traces: Sequence[Trace], rewards: Sequence[float | None], method: MethodSettings
) -> Credited:
    baselines = [(trace.policy, _group_of(trace, method)) for trace in traces]
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for baseline, reward in zip(baselines, rewards, strict=True):
        if reward is not None:
            groups[baseline].append(reward)

    def advantage(reward: float | None, baseline: Hashable) -> float | None:
        return None if reward is None else _weighted(reward, groups[baseline], method)

    advantages = map(advantage, rewards, baselines)
    return Credited(
        traces=tuple(replace(t, advantage=value) for t, value in zip(traces, advantages, strict=True)),
        baselines=tuple(baselines),
    )


def _weighted(reward: float, rewards_G: Sequence[float], method: MethodSettings) -> float:
    value = _advantage(reward, rewards_G, method.scale_by_std)
    return value if value >= 0 else value * method.negative_weight


def _advantage(reward: float, rewards_G: Sequence[float], scale_by_std: bool) -> float:
    if max(rewards_G) == min(rewards_G):  # the mean of equal floats need not equal them
        return 0.0
    mean = math.fsum(rewards_G) / len(rewards_G)
    if not scale_by_std:
        return reward - mean
    variance = math.fsum((other - mean) ** 2 for other in rewards_G) / (len(rewards_G) - 1)
    return (reward - mean) / (math.sqrt(variance) + _EPSILON)
