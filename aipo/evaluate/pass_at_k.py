"""Evaluation: pass@k without or with agents, and its confidence interval.

An answer passes when its reward part `correct` is 1. A rollout that failed has no verdict: it counts
neither as right nor as wrong but is reported, and a task with fewer than k verdicts has no pass@k.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aipo.errors import ConfigError, one_of
from aipo.evaluate.statistics import bootstrap_interval
from aipo.rollout.engine import OnTrace, Progress, RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode, Trace

_PART = "correct"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one task: `correct` of `verdicts` answers passed; `failed` rollouts gave no verdict."""

    task_id: str
    cluster: str
    verdicts: int
    correct: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """pass@k over tasks, in plain types: writing it as JSON and reading it changes nothing.

    Args:
        mode: with agents or without.
        suppressed: the consult tags were masked.
        part: the reward part that decides; an answer passes when it is at least 1.
        samples: rollouts per task.
        pass_at: by k, the mean over the tasks with at least k verdicts; None if there is none.
        interval: by k, a 95 % interval that resamples clusters; None with fewer than two clusters.
        tasks_at: by k, how many tasks `pass_at` is the mean of.
        counts: tasks, rollouts, and rollouts with a verdict, that passed and that failed.
        stops: how many rollouts ended for which reason.
        per_task: in the order of the tasks.
    """

    mode: Mode
    suppressed: bool
    part: str
    samples: int
    pass_at: Mapping[str, float | None]
    interval: Mapping[str, list[float] | None]
    tasks_at: Mapping[str, int]
    counts: Mapping[str, int]
    stops: Mapping[str, int]
    per_task: list[TaskResult]


def evaluate(
    engine: RolloutEngine,
    tasks: Sequence[Task],
    *,
    mode: Mode,
    samples: int,
    ks: Sequence[int],
    seed: int,
    suppress: bool = False,
    on_trace: OnTrace = lambda trace: None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Runs `samples` rollouts of each task and counts how many pass.

    Args:
        ks: k of pass@k, each at most `samples`.
        on_trace: called with each trace as it ends.
        progress: called with how many rollouts are done, and of how many.

    Raises:
        ConfigError: no task, k outside of 1 to `samples`, or scored traces without the reward part `correct`.
    """
    if not tasks or not ks or min(ks) < 1 or max(ks) > samples:
        raise ConfigError(
            f"evaluation: got {len(tasks)} tasks, ks {list(ks)} and {samples} samples, "
            f"allowed at least one task and 1 <= k <= samples"
        )
    name = f"{mode.value}-suppressed" if suppress else mode.value
    groups = {f"{task.split}-{name}-{number:05d}": task for number, task in enumerate(tasks)}
    specs = [
        RolloutSpec(
            task=task,
            mode=mode,
            group_id=group,
            index=index,
            step=0,
            seed=derive_seed(seed, "evaluate", 0, group, index),
            suppress=suppress,
        )
        for group, task in groups.items()
        for index in range(samples)
    ]
    traces = [trace for trace in engine.run_sync(specs, on_trace, progress) if trace.policy == "policy"]
    by_group: dict[str, list[Trace]] = {group: [] for group in groups}
    for trace in traces:
        by_group[trace.group_id].append(trace)
    results = [_result(task, by_group[group]) for group, task in groups.items()]
    return Evaluation(
        mode=mode,
        suppressed=suppress,
        part=_PART,
        samples=samples,
        counts={
            "tasks": len(results),
            "rollouts": sum(task.verdicts + task.failed for task in results),
            **{
                name: sum(getattr(task, name) for task in results)
                for name in ("verdicts", "correct", "failed")
            },
        },
        stops=dict(Counter(trace.stop_reason.value for trace in traces)),
        per_task=results,
        **curves(results, ks, seed),
    )


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k answers passes, when c of n did: 1 - C(n-c, k) / C(n, k).

    Unbiased; as a product, so that nothing overflows (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Raises:
        ConfigError: not 0 <= c <= n or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ConfigError(f"pass@k: got n={n}, c={c}, k={k}, allowed 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def passed(trace: Trace) -> bool:
    """Whether the answer of a rollout that did not fail passes.

    Raises:
        ConfigError: it has no reward part `correct`.
    """
    if _PART not in trace.reward_parts:
        allowed = sorted(trace.reward_parts)
        raise ConfigError(one_of("reward part that decides", _PART, allowed, trace.trace_id))
    return trace.reward_parts[_PART] >= 1


def _result(task: Task, traces: Sequence[Trace]) -> TaskResult:
    judged = [trace for trace in traces if not trace.failed]
    return TaskResult(
        task_id=task.task_id,
        cluster=task.cluster or task.task_id,
        verdicts=len(judged),
        correct=sum(map(passed, judged)),
        failed=len(traces) - len(judged),
    )


def curves(results: Sequence[TaskResult], ks: Sequence[int], seed: int) -> dict[str, dict[str, Any]]:
    """`pass_at`, `interval` and `tasks_at` of an `Evaluation`."""
    pass_at: dict[str, float | None] = {}
    interval: dict[str, list[float] | None] = {}
    tasks_at: dict[str, int] = {}
    for k in ks:
        judged = [task for task in results if task.verdicts >= k]
        values = [pass_at_k(task.verdicts, task.correct, k) for task in judged]
        clusters = [task.cluster for task in judged]
        enough = len(set(clusters)) > 1
        tasks_at[str(k)] = len(judged)
        pass_at[str(k)] = float(np.mean(values)) if values else None
        interval[str(k)] = (
            list(bootstrap_interval(values, clusters, derive_seed(seed, k))) if enough else None
        )
    return {"pass_at": pass_at, "interval": interval, "tasks_at": tasks_at}
