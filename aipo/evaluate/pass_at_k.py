"""The numbers of an evaluation: pass@k, avg@k and maj@k of tasks, and their confidence intervals.

An answer passes when its reward part `correct` is 1. A rollout that failed has no verdict: it counts
neither as right nor as wrong but is reported, and a task with fewer than k verdicts has no pass@k.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from aipo.evaluate.statistics import bootstrap_interval, majority_at_k, pass_at_k
from aipo.rollout.spec import derive_seed
from aipo.trace import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One answer to a task: how many samples have it, and how many of these are right."""

    answer: str
    count: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one task: `correct` of `verdicts` answers passed; `failed` rollouts gave no verdict.

    Args:
        avg: mean of the reward part that decides; None without a verdict.
        labels: what the environment calls the task, such as its level.
        votes: the different answers, the most frequent first; none where the environment names no answers.
    """

    task_id: str
    cluster: str
    verdicts: int
    correct: int
    failed: int
    avg: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    votes: list[Vote] = field(default_factory=list[Vote])

    def majority_at(self, k: int) -> float:
        counts, right = [vote.count for vote in self.votes], [vote.right for vote in self.votes]
        return majority_at_k(counts, right, self.verdicts, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One data set under one setting, in plain types: writing it as JSON and reading it changes nothing.

    Args:
        mode: with agents or without.
        suppressed: the consult tags were masked.
        part: the reward part that decides; an answer passes when it is at least 1.
        samples: rollouts per task.
        temperature, max_tokens: as it was sampled.
        pass_at: by k, the mean over the tasks with at least k verdicts; None if there is none.
        interval: by k, a 95 % interval that resamples clusters; None with fewer than two clusters.
        tasks_at: by k, how many tasks `pass_at` is the mean of.
        avg_at, avg_interval: by the number of samples, the mean of the part that decides, over samples and then tasks.
        maj_at, maj_interval: by k > 1, how often the most frequent of k answers is right; empty without answers.
        counts: tasks, rollouts, and rollouts with a verdict, that passed and that failed.
        stops: how many rollouts ended for which reason.
        cost: tokens, calls and seconds of all rollouts; see `aipo.evaluate.samples.SampleResult`. Seconds are never twice the
            same, so it is not compared.
        by: label → its value → `tasks` and the curves of those tasks.
        per_task: in the order of the tasks.
    """

    mode: Mode
    suppressed: bool
    part: str
    samples: int
    temperature: float
    max_tokens: int
    pass_at: Mapping[str, float | None]
    interval: Mapping[str, list[float] | None]
    tasks_at: Mapping[str, int]
    avg_at: Mapping[str, float | None]
    avg_interval: Mapping[str, list[float] | None]
    maj_at: Mapping[str, float | None]
    maj_interval: Mapping[str, list[float] | None]
    counts: Mapping[str, int]
    stops: Mapping[str, int]
    cost: Mapping[str, float | None] = field(compare=False)
    by: Mapping[str, Mapping[str, Mapping[str, Any]]]
    per_task: list[TaskResult]


def curves(
    results: Sequence[TaskResult], ks: Sequence[int], seed: int, *, samples: int
) -> dict[str, dict[str, Any]]:
    """The numbers of an `Evaluation` by k: `pass_at`, `avg_at`, `maj_at`, their intervals, and `tasks_at`.

    Args:
        samples: rollouts per task.
    """
    voted = [k for k in ks if k > 1] if any(task.votes for task in results) else []
    at: dict[str, dict[str, Any]] = {
        "pass_at": {},
        "interval": {},
        "tasks_at": {str(k): sum(task.verdicts >= k for task in results) for k in ks},
        "avg_at": {},
        "avg_interval": {},
        "maj_at": {},
        "maj_interval": {},
    }

    def add(values: str, intervals: str, k: int, least: int, value: Callable[[TaskResult], float]) -> None:
        judged = [task for task in results if task.verdicts >= least]
        numbers, clusters = [value(task) for task in judged], [task.cluster for task in judged]
        enough = len(set(clusters)) > 1
        at[values][str(k)] = fmean(numbers) if numbers else None
        at[intervals][str(k)] = (
            [*bootstrap_interval(numbers, clusters, derive_seed(seed, k))] if enough else None
        )

    for k in ks:
        add("pass_at", "interval", k, k, lambda task, k=k: pass_at_k(task.verdicts, task.correct, k))
    add("avg_at", "avg_interval", samples, 1, lambda task: task.avg or 0.0)
    for k in voted:
        add("maj_at", "maj_interval", k, k, lambda task, k=k: task.majority_at(k))
    return at


def by_label(
    results: Sequence[TaskResult], ks: Sequence[int], seed: int, *, samples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """`Evaluation.by`. A label with another value for every task groups nothing and is left out."""
    names = dict.fromkeys(name for task in results for name in task.labels)
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        tasks: dict[str, list[TaskResult]] = {}
        for task in results:
            if name in task.labels:
                tasks.setdefault(task.labels[name], []).append(task)
        if any(len(alike) > 1 for alike in tasks.values()):
            grouped[name] = {
                value: {"tasks": len(alike), **curves(alike, ks, seed, samples=samples)}
                for value, alike in sorted(tasks.items())
            }
    return grouped
