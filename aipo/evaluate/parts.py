"""The rollouts of an evaluation: those of one data set under one setting, and what they come to."""

import asyncio
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from aipo.errors import ConfigError, ScoreError, one_of
from aipo.evaluate.pass_at_k import Evaluation, TaskResult, Vote, by_label, curves
from aipo.evaluate.samples import SampleKey, SampleResult
from aipo.rollout.engine import OnTrace, Progress, RolloutEngine
from aipo.rollout.env import Env, Task
from aipo.rollout.spec import RolloutSpec, derive_seed
from aipo.trace import Mode, Trace
from aipo.util.event_loop import LOOP
from aipo.util.imports import users_code

_PART = "correct"
_COSTS = ("tokens", "agent_tokens", "consults", "calls", "call_tokens_in", "call_tokens_out", "seconds")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One data set under one setting: which rollouts it takes, and what they come to.

    Args:
        engine: for its environment and its sampling settings.
        setting: its name in results.
        samples: rollouts of each task.
        ks: k of pass@k and maj@k, each at most `samples`.
        keep: the traces of the first samples of each task that are kept.

    Raises:
        ConfigError: no task, or k outside of 1 to `samples`.
    """

    engine: RolloutEngine
    split: str
    tasks: Sequence[Task]
    setting: str
    mode: Mode
    suppress: bool
    samples: int
    ks: Sequence[int]
    seed: int
    keep: int = 1

    def __post_init__(self) -> None:
        if not self.tasks or not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples:
            raise ConfigError(
                f"evaluation: got {len(self.tasks)} tasks, ks {list(self.ks)} and {self.samples} samples, "
                f"allowed at least one task and 1 <= k <= samples"
            )

    @cached_property
    def groups(self) -> dict[str, Task]:
        """The task of each group of rollouts."""
        name = f"{self.mode.value}-suppressed" if self.suppress else self.mode.value
        return {f"{task.split}-{name}-{number:05d}": task for number, task in enumerate(self.tasks)}

    def key(self, task: Task, index: int) -> SampleKey:
        return SampleKey(self.split, self.setting, task.task_id, index)

    def sample_keys(self) -> list[SampleKey]:
        """Of all its samples."""
        return [self.key(task, index) for task in self.tasks for index in range(self.samples)]

    def specs(self, wanted: Container[SampleKey] | None = None) -> list[RolloutSpec]:
        """Its rollouts, or only those of these samples."""
        return [
            RolloutSpec(
                task=task,
                mode=self.mode,
                group_id=group,
                index=index,
                step=0,
                seed=derive_seed(self.seed, "evaluate", 0, group, index),
                suppress=self.suppress,
            )
            for group, task in self.groups.items()
            for index in range(self.samples)
            if wanted is None or self.key(task, index) in wanted
        ]

    def sample(self, trace: Trace) -> SampleResult:
        """What one of its rollouts came to.

        Raises:
            ConfigError: it has no reward part `correct`.
        """
        key = self.key(self.groups[trace.group_id], trace.index)
        return SampleResult.of(
            trace,
            key,
            correct=None if trace.failed else verdict(trace),
            answer=self._answer(trace),
            kept=trace.index < self.keep,
        )

    def result(self, samples: Sequence[SampleResult]) -> Evaluation:
        """The result of these samples of it."""
        by_task: dict[str, list[SampleResult]] = {task.task_id: [] for task in self.tasks}
        for sample in samples:
            by_task[sample.task_id].append(sample)
        all_votes = LOOP.run(self._votes(by_task))
        results = [
            _result(task, by_task[task.task_id], self._labels(task), votes)
            for task, votes in zip(self.tasks, all_votes, strict=True)
        ]
        dollars = [sample.dollars for sample in samples if sample.dollars is not None]
        return Evaluation(
            mode=self.mode,
            suppressed=self.suppress,
            part=_PART,
            samples=self.samples,
            temperature=self.engine.sampling.temperature,
            max_tokens=self.engine.sampling.max_tokens,
            counts={
                "tasks": len(results),
                "rollouts": sum(task.verdicts + task.failed for task in results),
                **{
                    name: sum(getattr(task, name) for task in results)
                    for name in ("verdicts", "correct", "failed")
                },
            },
            stops=dict(Counter(sample.stop.value for sample in samples)),
            cost={
                **{name: sum(getattr(sample, name) for sample in samples) for name in _COSTS},
                "dollars": math.fsum(dollars) if dollars else None,
            },
            by=by_label(results, self.ks, self.seed, samples=self.samples),
            per_task=results,
            **curves(results, self.ks, self.seed, samples=self.samples),
        )

    def _labels(self, task: Task) -> Mapping[str, str]:
        tell: Any = _method(self.engine.env, "labels")
        with users_code("labels of the environment"):
            return {} if tell is None else tell(task)

    def _answer(self, trace: Trace) -> str | None:
        read: Any = _method(self.engine.env, "answer")
        if trace.failed or read is None:
            return None
        with users_code("answer of the environment"):
            return read(self.groups[trace.group_id], _written(trace, self.engine))

    async def _votes(self, by_task: Mapping[str, Sequence[SampleResult]]) -> list[list[Vote]]:
        return await asyncio.gather(
            *(votes(self.engine.env, task, by_task[task.task_id]) for task in self.tasks)
        )


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
    """Runs `samples` rollouts of each task and counts how many pass; nothing is stored.

    Args:
        ks: k of pass@k, each at most `samples`.
        on_trace: called with each trace as it ends.
        progress: called with how many rollouts are done, and of how many.

    Raises:
        ConfigError: no task, k outside of 1 to `samples`, or scored traces without the reward part `correct`.
    """
    part = Part(
        engine=engine,
        split=tasks[0].split if tasks else "",
        tasks=tasks,
        setting="suppressed" if suppress else mode.value,
        mode=mode,
        suppress=suppress,
        samples=samples,
        ks=ks,
        seed=seed,
    )
    traces = engine.run_sync(part.specs(), on_trace, progress)
    return part.result([part.sample(trace) for trace in traces if trace.policy == "policy"])


def verdict(trace: Trace) -> float:
    """The reward part that decides, of a rollout that did not fail; its answer passes with at least 1.

    Raises:
        ConfigError: it has no reward part `correct`.
    """
    if _PART not in trace.reward_parts:
        allowed = sorted(trace.reward_parts)
        raise ConfigError(one_of("reward part that decides", _PART, allowed, trace.trace_id))
    return trace.reward_parts[_PART]


async def votes(env: Env, task: Task, samples: Sequence[SampleResult]) -> list[Vote]:
    """The different answers of samples with a verdict, the most frequent first. Two are the same where their texts are, or where
    `env.same` says so; where it cannot say, they are not."""
    same: Any = _method(env, "same")
    counts = Counter(s.answer for s in samples if s.answer is not None and s.correct is not None)
    right = Counter(s.answer for s in samples if s.passed)
    found: list[Vote] = []
    for answer, count in counts.most_common():
        place = len(found)
        for number, vote in enumerate(found):
            with suppress(ScoreError), users_code("same of the environment"):
                if same is not None and await same(task, vote.answer, answer):
                    place = number
                    break
        if place == len(found):
            found.append(Vote(answer=answer, count=count, right=right[answer]))
        else:
            vote = found[place]
            found[place] = Vote(
                answer=vote.answer, count=vote.count + count, right=vote.right + right[answer]
            )
    return sorted(found, key=lambda vote: -vote.count)


def _result(
    task: Task, samples: Sequence[SampleResult], labels: Mapping[str, str], votes: list[Vote]
) -> TaskResult:
    judged = [sample.correct for sample in samples if sample.correct is not None]
    return TaskResult(
        task_id=task.task_id,
        cluster=task.cluster or task.task_id,
        verdicts=len(judged),
        correct=sum(sample.passed for sample in samples),
        failed=len(samples) - len(judged),
        avg=fmean(judged) if judged else None,
        labels=labels,
        votes=votes,
    )


def _written(trace: Trace, engine: RolloutEngine) -> str:
    """What the policy wrote, without its requests as far as they can be cut out token by token."""
    tokenizer = engine.policies[trace.policy].tokenizer
    ends = {consult.request_segment: consult.request_start for consult in trace.consults}
    pieces = [
        piece.token_ids[: ends.get(number)]
        for number, piece in enumerate(trace.segments)
        if piece.role is trace.author
    ]
    ids = np.concatenate([np.empty(0, np.int32), *pieces])
    return tokenizer.decode(ids[ids != tokenizer.eos_id])


def _method(env: Env, name: str) -> Any:
    """A method that an environment may have; None where it has none."""
    method = getattr(env, name, None)
    return method if callable(method) else None
