"""Explains the advantages of a group in sentences, and checks them against the recorded numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aipo.method.credit import group, reward
from aipo.method.settings import MethodSettings
from aipo.trace import Mode, StopReason, Trace
from aipo.trace.index import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """The rewards of a group: how many, their mean and unbiased standard deviation (None if they have none)."""

    count: int
    mean: float | None
    std: float | None

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> "Rewards":
        rewards = [trace.reward for trace in traces if trace.reward is not None]
        if not rewards:
            return cls(count=0, mean=None, std=None)
        mean = math.fsum(rewards) / len(rewards)
        squares = math.fsum((reward - mean) ** 2 for reward in rewards)
        std = math.sqrt(squares / (len(rewards) - 1)) if len(rewards) > 1 else None
        return cls(count=len(rewards), mean=mean, std=std)


def as_credited(summary: Summary) -> Trace:
    """A trace with only the fields that credit needs: a group may be too large to read whole.

    Raises:
        TraceError: a failed rollout has a reward or an advantage.
    """
    return Trace(
        trace_id=summary.trace_id,
        run_id="",
        group_id=summary.group_id,
        task_id=summary.task_id,
        step=summary.step,
        index=summary.index,
        mode=Mode.SOLO if summary.kind == "suppressed" else Mode(summary.kind),
        task={},
        seed=0,
        sampling={},
        segments=(),
        stop_reason=StopReason(summary.stop_reason),
        reward=summary.reward,
        advantage=summary.advantage,
    )


def explanation(traces: Sequence[Trace], method: Mapping[str, Any]) -> list[str]:
    """Sentences about the advantages of one group.

    Args:
        traces: all of the group.
        method: that part of the run's configuration.
    """
    if all(trace.advantage is None for trace in traces):
        return ["No rollout of this group has an advantage: they were only looked at, or none was scored."]
    match method.get("credit", "a method that the configuration does not name"):
        case "group":
            return _by_group(traces, method)
        case "reward":
            sentences = ["Advantage: the reward itself; no baseline is subtracted."]
            return _checked(sentences, traces, reward(traces, MethodSettings()).traces, "Every reward is 0")
        case other:
            return [f"Credit was given by {other}."]


def _by_group(traces: Sequence[Trace], method: Mapping[str, Any]) -> list[str]:
    std, negative = method.get("scale_by_std", False), method.get("negative_weight", 1.0)
    per_mode = method.get("per_mode_baseline", False)
    weighs = isinstance(negative, int | float) and 0 <= negative < math.inf
    if not isinstance(std, bool) or not isinstance(per_mode, bool) or not weighs:
        return [
            "config.yaml does not say how advantages came about: method: got "
            f"scale_by_std {std!r}, per_mode_baseline {per_mode!r}, negative_weight {negative!r}, "
            "allowed true or false, true or false, a finite number >= 0."
        ]
    sentences = [_baseline(traces, per_mode)]
    sentences.append(f"Advantage: reward − mean{', divided by the standard deviation' if std else ''}.")
    if negative != 1.0:
        sentences.append(f"Negative advantages count {negative:g} times.")
    settings = MethodSettings(scale_by_std=std, negative_weight=negative, per_mode_baseline=per_mode)
    credited = group(traces, settings).traces
    return _checked(sentences, traces, credited, "Rewards do not differ")


def _checked(
    sentences: Sequence[str], traces: Sequence[Trace], credited: Sequence[Trace], idle: str
) -> list[str]:
    """The sentences, and whether the recorded advantages are those of `credited`; `idle`: why all may be 0."""
    sentences = list(sentences)
    if all(not trace.advantage for trace in traces):
        sentences.append(f"{idle}: nothing is learned from this group.")
    if any(trace.advantage is None for trace in traces if trace.reward is not None):
        return [*sentences, "Not every scored rollout has an advantage yet: they were not checked."]
    if any(not _equal(a.advantage, b.advantage) for a, b in zip(traces, credited, strict=True)):
        sentences.append("The recorded advantages are not what this configuration gives.")
    return sentences


def _baseline(traces: Sequence[Trace], per_mode: bool) -> str:
    modes = list(dict.fromkeys(trace.mode for trace in traces if trace.reward is not None))
    if not per_mode or len(modes) < 2:
        of = Rewards.of(traces)
        both = ", which assisted and solo rollouts share" if len(modes) > 1 else ""
        return f"Baseline: the mean of {of.count} rewards{both}: {of.mean or 0.0:.3g}."
    means = ((mode, Rewards.of([t for t in traces if t.mode is mode])) for mode in modes)
    return "Baselines: " + ", ".join(f"{r.mean or 0.0:.3g} for {mode} rollouts" for mode, r in means) + "."


def _equal(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)
