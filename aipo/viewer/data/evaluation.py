"""An evaluation for pages: its samples task by task, and its scores.

samples.jsonl has every sample. Of an evaluation from before it was written only the traces that were kept are known.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from aipo.compare.sections import SETTINGS
from aipo.evaluate.samples import SampleResult
from aipo.trace import StopReason
from aipo.trace.index import TraceIndex
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_files import Scores, Splits, TaskScore
from aipo.viewer.data.run_summary import section

_KEPT = """SELECT coalesce(task->>'split', ''), kind, task_id, "index", TRY_CAST(reward_parts->>'correct' AS DOUBLE),
reward, reason, stop_reason, error, trace_id, policy_tokens, agent_tokens, len(agents), seconds
FROM traces WHERE policy = 'policy' ORDER BY step, group_id, "index" """

_POLICY = ("run", "config", "endpoint", "model", "version")
_SAMPLING = {"samples": "samples", "temperature": "temperature", "max_tokens": "most tokens"}


class TaskKey(NamedTuple):
    """A task of a data set."""

    split: str
    task_id: str


class AskedTask(NamedTuple):
    """What was asked, and the answer that is expected; None where no trace was kept."""

    question: str | None
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSamples:
    """One task under one setting.

    Args:
        score: of all samples.
        samples: those that are known, by index.
    """

    score: TaskScore
    samples: Sequence[SampleResult] = ()

    @property
    def share(self) -> float | None:
        """Of right verdicts; None without any."""
        return self.score.correct / self.score.verdicts if self.score.verdicts else None

    @property
    def has_wrong(self) -> bool:
        return self.score.correct < self.score.verdicts


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    """What an evaluation has measured so far.

    Args:
        finished: its scores are written.
        scores: by split and setting; before it has finished, the share of right verdicts so far as pass@1.
        tasks: by setting, in the order of the data set.
        done, planned: numbers of samples; None where nobody wrote it down.
        facts: of its setup, by name.
    """

    finished: bool
    scores: Splits
    tasks: Mapping[TaskKey, Mapping[str, TaskSamples]]
    done: int
    planned: int | None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def settings(self) -> list[str]:
        """Those that it has, in their usual order."""
        used = {setting for settings in self.tasks.values() for setting in settings}
        return [setting for setting in SETTINGS if setting in used]

    @cached_property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(key.split for key in self.tasks))

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """The values of each label of tasks, such as their level."""
        values: defaultdict[str, set[str]] = defaultdict(set)
        for settings in self.tasks.values():
            for result in settings.values():
                for name, value in result.score.labels.items():
                    values[name].add(value)
        return {name: sorted(some) for name, some in sorted(values.items())}


def view_of(run: RunView) -> EvaluationView:
    """An evaluation as its files are now.

    Raises:
        RunError: a file of it cannot be read.
        TraceError: a file of traces cannot be read.
    """
    stored: Splits = run.evaluations().get(run.evaluation or "", {})
    samples = run.samples() or list(_kept(run.index))
    tasks = _tasks(stored, samples)
    setup = run.setup()
    planned = _planned(setup)
    return EvaluationView(
        finished=bool(stored),
        scores=stored or _so_far(tasks),
        tasks=tasks,
        done=len(samples),
        planned=planned,
        facts=_facts(setup),
    )


def questions(run: RunView, results: Iterable[TaskSamples]) -> list[AskedTask]:
    """The question of each task, from a trace that was kept."""
    traces = [[sample.trace_id for sample in result.samples if sample.kept][:1] for result in results]
    query = "SELECT trace_id, question, answer FROM summaries WHERE list_contains(?, trace_id)"
    rows = run.index.all(query, [[trace_id for ids in traces for trace_id in ids]])
    known = {trace_id: AskedTask(*rest) for trace_id, *rest in rows}
    return [known.get(ids[0], AskedTask(None, None)) if ids else AskedTask(None, None) for ids in traces]


def _kept(index: TraceIndex) -> Iterator[SampleResult]:
    """The samples whose traces an evaluation has kept, from before it wrote samples.jsonl."""
    for split, kind, task_id, number, correct, reward, reason, stop, error, trace_id, *sizes in index.all(
        _KEPT
    ):
        tokens, agent_tokens, consults, seconds = sizes
        yield SampleResult(
            split=split,
            setting="solo" if kind not in SETTINGS else kind,
            task_id=task_id,
            index=number,
            correct=correct,
            reward=reward,
            answer=None,
            stop=StopReason(stop),
            error=error,
            reason=reason,
            trace_id=trace_id,
            kept=True,
            tokens=tokens,
            agent_tokens=agent_tokens,
            consults=consults,
            calls=0,
            call_tokens_in=0,
            call_tokens_out=0,
            dollars=None,
            seconds=seconds,
        )


def _tasks(stored: Splits, samples: Sequence[SampleResult]) -> dict[TaskKey, dict[str, TaskSamples]]:
    """What the file of scores says of each task, beside its samples; where it says nothing, what the samples say."""
    known: defaultdict[tuple[TaskKey, str], list[SampleResult]] = defaultdict(list)
    for sample in samples:
        known[TaskKey(sample.split, sample.task_id), sample.setting].append(sample)
    tasks: defaultdict[TaskKey, dict[str, TaskSamples]] = defaultdict(dict)
    for split, settings in stored.items():
        for setting, scores in settings.items():
            for score in scores.per_task:
                key = TaskKey(split, score.task_id)
                own = sorted(known.pop((key, setting), ()), key=lambda sample: sample.index)
                tasks[key][setting] = TaskSamples(score=score, samples=own)
    for (key, setting), own in known.items():
        own.sort(key=lambda sample: sample.index)
        tasks[key][setting] = TaskSamples(score=_score(key.task_id, own), samples=own)
    return dict(tasks)


def _score(task_id: str, samples: Sequence[SampleResult]) -> TaskScore:
    verdicts = [sample for sample in samples if sample.correct is not None]
    return TaskScore(
        task_id=task_id,
        verdicts=len(verdicts),
        correct=sum(sample.passed for sample in verdicts),
        failed=len(samples) - len(verdicts),
    )


def _so_far(tasks: Mapping[TaskKey, Mapping[str, TaskSamples]]) -> Splits:
    """The share of right verdicts, as far as there are any."""
    shares: defaultdict[tuple[str, str], list[TaskSamples]] = defaultdict(list)
    for key, settings in tasks.items():
        for setting, result in settings.items():
            shares[key.split, setting].append(result)
    scores: defaultdict[str, dict[str, Scores]] = defaultdict(dict)
    for (split, setting), results in shares.items():
        values = [share for result in results if (share := result.share) is not None]
        counts = {"tasks": len(results), "failed": sum(result.score.failed for result in results)}
        scores[split][setting] = Scores(pass_at={1: fmean(values)} if values else {}, counts=counts)
    return scores


def _planned(setup: Mapping[str, Any]) -> int | None:
    """The number of samples that a setup asks for; None where it does not say."""
    try:
        return sum(
            one["tasks"]["count"] * one["samples"] * len(one["settings"])
            for one in section(setup, "datasets").values()
        ) or None  # fmt: skip
    except (KeyError, TypeError):
        return None


def _facts(setup: Mapping[str, Any]) -> dict[str, str]:
    """The suite, the policy and how it was sampled."""
    policy, datasets = section(setup, "policy"), section(setup, "datasets")
    facts = {"suite": setup.get("suite"), **{name: policy.get(name) for name in _POLICY}}
    for key, name in _SAMPLING.items():
        facts[name] = _by_split({split: section(datasets, split).get(key) for split in datasets})
    return {name: str(value) for name, value in facts.items() if value is not None}


def _by_split(values: Mapping[str, object]) -> str | None:
    """'4', or 'math500 4, aime24 16' where the data sets differ; None where nobody wrote it down."""
    if len(set(map(str, values.values()))) > 1:
        return ", ".join(f"{split} {value}" for split, value in values.items())
    value = next(iter(values.values()), None)
    return None if value is None else str(value)
