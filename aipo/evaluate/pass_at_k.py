"""Evaluation: pass@k without or with agents, and its confidence interval.

An answer passes when its reward part `correct` is 1. A rollout that failed has no verdict: it counts
neither as right nor as wrong but is reported, and a task with fewer than k verdicts has no pass@k.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aipo.errors import ConfigError, one_of
from aipo.evaluate.statistics import bootstrap_interval
from aipo.rollout.engine import OnTrace, RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode, Trace


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
    """pass@k over tasks.

    Args:
        mode: with agents or without.
        suppress: the consult tags were masked.
        part: the reward part that decides; an answer passes when it is at least 1.
        samples: rollouts per task.
        pass_at: by k, the mean over the tasks with at least k verdicts; None if there is none.
        interval: by k, a 95 % interval that resamples clusters; None with fewer than two clusters.
        tasks_at: by k, how many tasks `pass_at` is the mean of.
        per_task: in the order of the tasks.
        stops: how many rollouts ended for which reason.
    """

    mode: Mode
    suppress: bool
    part: str
    samples: int
    pass_at: Mapping[int, float | None]
    interval: Mapping[int, tuple[float, float] | None]
    tasks_at: Mapping[int, int]
    per_task: tuple[TaskResult, ...]
    stops: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Tasks, rollouts, and rollouts with a verdict, that passed and that failed."""
        verdicts = sum(task.verdicts for task in self.per_task)
        failed = sum(task.failed for task in self.per_task)
        return {
            "tasks": len(self.per_task),
            "rollouts": verdicts + failed,
            "verdicts": verdicts,
            "correct": sum(task.correct for task in self.per_task),
            "failed": failed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, so that writing and reading it changes nothing."""
        return {
            "mode": self.mode.value,
            "suppressed": self.suppress,
            "part": self.part,
            "samples": self.samples,
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            "interval": {str(k): list(ends) if ends else None for k, ends in self.interval.items()},
            "tasks_at": {str(k): count for k, count in self.tasks_at.items()},
            "counts": self.counts,
            "stops": dict(self.stops),
            "per_task": [
                {name: getattr(task, name) for name in TaskResult.__dataclass_fields__}
                for task in self.per_task
            ],
        }


def evaluate(
    engine: RolloutEngine,
    tasks: Sequence[Task],
    *,
    mode: Mode,
    samples: int,
    ks: Sequence[int],
    seed: int,
    suppress: bool = False,
    part: str = "correct",
    policy: str = "policy",
    step: int = 0,
    on_trace: OnTrace | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs `samples` rollouts of each task and counts how many pass.

    Args:
        ks: k of pass@k, each at most `samples`.
        part: the reward part that decides.
        policy: whose traces are judged, where a graph runs several policies.
        step: recorded with the traces.
        on_trace: called with each trace as it ends.
        progress: called with how many rollouts are done, and of how many.

    Raises:
        ConfigError: no task, k outside of 1 to `samples`, or scored traces without `part`.
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
            step=step,
            seed=derive_seed(seed, "evaluate", step, group, index),
            suppress=suppress,
        )
        for group, task in groups.items()
        for index in range(samples)
    ]
    finished: set[tuple[str, int]] = set()

    def note(trace: Trace) -> None:
        if on_trace is not None:
            on_trace(trace)
        if progress is not None and (trace.group_id, trace.index) not in finished:
            finished.add((trace.group_id, trace.index))
            progress(len(finished), len(specs))

    traces = [trace for trace in engine.run_sync(specs, note) if trace.policy == policy]
    by_group: dict[str, list[Trace]] = {group: [] for group in groups}
    for trace in traces:
        by_group[trace.group_id].append(trace)
    results = tuple(_result(task, by_group[group], part) for group, task in groups.items())
    pass_at, interval, tasks_at = _curves(results, ks, seed)
    return Evaluation(
        mode=mode,
        suppress=suppress,
        part=part,
        samples=samples,
        pass_at=pass_at,
        interval=interval,
        tasks_at=tasks_at,
        per_task=results,
        stops=dict(Counter(trace.stop_reason.value for trace in traces)),
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


def _result(task: Task, traces: Iterable[Trace], part: str) -> TaskResult:
    verdicts: list[bool] = []
    failed = 0
    for trace in traces:
        if trace.failed:
            failed += 1
        elif part in trace.reward_parts:
            verdicts.append(trace.reward_parts[part] >= 1)
        else:
            raise ConfigError(
                one_of("reward part that decides", part, sorted(trace.reward_parts), trace.trace_id)
            )
    return TaskResult(
        task_id=task.task_id,
        cluster=task.cluster or task.task_id,
        verdicts=len(verdicts),
        correct=sum(verdicts),
        failed=failed,
    )


def _curves(
    results: Sequence[TaskResult], ks: Sequence[int], seed: int
) -> tuple[dict[int, float | None], dict[int, tuple[float, float] | None], dict[int, int]]:
    pass_at: dict[int, float | None] = {}
    interval: dict[int, tuple[float, float] | None] = {}
    tasks_at: dict[int, int] = {}
    for k in ks:
        judged = [task for task in results if task.verdicts >= k]
        values = [pass_at_k(task.verdicts, task.correct, k) for task in judged]
        clusters = [task.cluster for task in judged]
        enough = len(set(clusters)) > 1
        tasks_at[k] = len(judged)
        pass_at[k] = float(np.mean(values)) if values else None
        interval[k] = bootstrap_interval(values, clusters, derive_seed(seed, k)) if enough else None
    return pass_at, interval, tasks_at
