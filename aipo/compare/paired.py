"""Two evaluations paired task by task: A is the first one, B the second; a difference is B − A.

A, B  →  tasks that both have  →  differences with intervals over tasks, and the tasks that changed

A task counts as right where at least half of its verdicts are right.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from aipo.errors import ConfigError, RunError
from aipo.evaluate.pass_at_k import TaskResult
from aipo.evaluate.statistics import Estimate, Scored, difference, estimate, judge, pass_at_k
from aipo.run import RunFolder
from aipo.util.text import counted

_SAMPLED = {"samples": "samples of each task", "temperature": "temperature", "max_tokens": "most tokens"}


class SplitSetting(NamedTuple):
    """A data set and the setting under which it was evaluated."""

    split: str
    setting: str

    def __str__(self) -> str:
        return f"{self.split}, {self.setting}"


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """An evaluation as its file has it.

    Args:
        label: what it is called in tables.
        results: split → setting → result.
    """

    label: str
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @cached_property
    def tasks(self) -> dict[SplitSetting, dict[str, TaskResult]]:
        """By data set and setting, the result of each task.

        Raises:
            RunError: something in `per_task` is no result of a task.
        """
        return {
            SplitSetting(split, setting): self._per_task(SplitSetting(split, setting))
            for split, settings in self.results.items()
            for setting in settings
        }

    def _per_task(self, place: SplitSetting) -> dict[str, TaskResult]:
        try:
            tasks = _tasks().validate_python(self.at(place).get("per_task"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (*place, "per_task", *first["loc"])))
            raise RunError(
                f"{where} of evaluation {self.label}: got {first['input']!r}: {first['msg']}, allowed what `aipo eval` has "
                "written"
            ) from error
        return {task.task_id: task for task in tasks}

    def at(self, place: SplitSetting) -> Mapping[str, Any]:
        return self.results[place.split][place.setting]


@cache
def _tasks() -> TypeAdapter[list[TaskResult]]:
    return TypeAdapter(list[TaskResult])


def find_evaluation(path: Path, name: str | None = None) -> StoredEvaluation:
    """The evaluation at `path`.

    Args:
        path: RUN/evaluations/NAME, with or without `.json`; or RUN, with the evaluation called `name` or one only.

    Raises:
        ConfigError: there is none, or RUN has several; says which.
        RunError: it has not finished, or its file is no evaluation.
    """
    folder, label = path, str(path)
    if path.parent.name == "evaluations":
        folder, name = path.parents[1], path.name.removesuffix(".json")
    else:
        names = sorted(file.stem for file in (path / "evaluations").glob("*.json") if file.name[0] != ".")
        if (name is None and len(names) != 1) or (name is not None and name not in names):
            got = f"{path} with {'no evaluation' if not names else f'the evaluations {names}'}"
            which = "" if name is None else f" and --name {name}"
            raise ConfigError(
                f"compare: got {got}{which}, allowed RUN/evaluations/NAME, or a run and with --name one of its evaluations"
            )
        name = name or names[0]
        label = f"{path}, {name}"
    run = RunFolder(folder)
    if not run.evaluation(name).is_file():
        begun = run.evaluation_traces(name).is_dir()
        got = f"{path}, which {'has not finished' if begun else 'is not there'}"
        raise RunError(f"compare: got {got}, allowed a finished evaluation, such as RUN/evaluations/NAME")
    return StoredEvaluation(label=label.removesuffix(".json"), results=run.read_evaluation(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPair:
    """One task that both evaluations have judged."""

    place: SplitSetting
    before: TaskResult
    after: TaskResult

    @property
    def change(self) -> float:
        """Of the share of right verdicts."""
        return _share(self.after) - _share(self.before)

    @property
    def turned(self) -> str | None:
        """`right` or `wrong` where it was the other before; None where it is as before."""
        before, after = (_share(task) >= 0.5 for task in (self.before, self.after))
        return None if before == after else "right" if after else "wrong"


def _share(task: TaskResult) -> float:
    return task.correct / task.verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMeasure:
    """One measure of both, over the tasks that both have.

    Args:
        name: such as `pass@4`.
        difference: its interval resamples clusters of tasks; it does not hold how seeds of training differ.
        verdict: `better` or `worse` where that interval leaves 0 out, else `tie`; None without an interval.
        tasks: how many.
    """

    place: SplitSetting
    name: str
    before: Estimate
    after: Estimate
    difference: Estimate
    verdict: str | None
    tasks: int


@dataclass(frozen=True, kw_only=True)
class PairedEvaluations:
    """What two evaluations come to, side by side.

    Args:
        measures: of every data set under every setting that both have.
        pairs: their tasks, in the order of A.
        caveats: reasons to doubt the numbers.
    """

    before: StoredEvaluation
    after: StoredEvaluation
    measures: Sequence[PairedMeasure]
    pairs: Sequence[TaskPair]
    caveats: Sequence[str]

    def turned(self, way: str) -> list[TaskPair]:
        """The tasks that turned `right` or `wrong`, the largest changes first."""
        return sorted((p for p in self.pairs if p.turned == way), key=lambda pair: -abs(pair.change))


def pair_evaluations(before: StoredEvaluation, after: StoredEvaluation) -> PairedEvaluations:
    """Pairs two evaluations over the tasks that both have judged.

    Raises:
        ConfigError: they have no task of one data set and setting in common.
        RunError: see `StoredEvaluation.tasks`.
    """
    places = [place for place in before.tasks if place in after.tasks]
    pairs = [pair for place in places for pair in _pairs(place, before, after)]
    if not pairs:
        has = " and ".join(f"{list(map(str, one.tasks))} in {one.label}" for one in (before, after))
        raise ConfigError(f"compare: got {has}, allowed two evaluations with tasks in common")
    return PairedEvaluations(
        before=before,
        after=after,
        measures=[measure for place in places for measure in _measures(place, before, after)],
        pairs=pairs,
        caveats=[*_caveats(before, after)],
    )


def _pairs(place: SplitSetting, before: StoredEvaluation, after: StoredEvaluation) -> Iterator[TaskPair]:
    others = after.tasks[place]
    for task_id, task in before.tasks[place].items():
        other = others.get(task_id)
        if other is not None and task.verdicts and other.verdicts:
            yield TaskPair(place=place, before=task, after=other)


def _measures(place: SplitSetting, *sides: StoredEvaluation) -> Iterator[PairedMeasure]:
    for name, score in _scores(place, *sides).items():
        before, after = (
            {
                task.task_id: Scored(task.cluster, value)
                for task in side.tasks[place].values()
                if (value := score(task)) is not None
            }
            for side in sides
        )
        tasks = [task_id for task_id in before if task_id in after]
        samples = [{0: {task_id: one[task_id] for task_id in tasks}} for one in (before, after)]
        estimates = [estimate(sample) for sample in samples]
        paired = difference(samples[1], samples[0])
        if estimates[0] is not None and estimates[1] is not None and paired is not None:
            yield PairedMeasure(
                place=place,
                name=name,
                before=estimates[0],
                after=estimates[1],
                difference=paired,
                verdict=judge(paired, runs=1),
                tasks=len(tasks),
            )


Score = Callable[[TaskResult], float | None]


def _scores(place: SplitSetting, *sides: StoredEvaluation) -> dict[str, Score]:
    """What both sides can be measured by: the value of one task, None where it has none. avg@n is pass@1 where every verdict
    is 0 or 1, and then no measure of its own."""
    tasks = [task for side in sides for task in side.tasks[place].values() if task.avg is not None]
    partly = any(abs((task.avg or 0.0) - _share(task)) > 1e-9 for task in tasks)
    samples = {str(side.at(place).get("samples")) for side in sides}
    return {
        **{f"pass@{k}": _pass_at(k) for k in _common("pass_at", place, *sides)},
        **({f"avg@{' and '.join(sorted(samples))}": lambda task: task.avg} if partly else {}),
        **{f"maj@{k}": _majority_at(k) for k in _common("maj_at", place, *sides)},
    }


def _common(key: str, place: SplitSetting, *sides: StoredEvaluation) -> list[int]:
    """Every k for which both sides have the number."""
    first, second = ({*map(int, side.at(place).get(key, ()))} for side in sides)
    return sorted(first & second)


def _pass_at(k: int) -> Score:
    return lambda task: pass_at_k(task.verdicts, task.correct, k) if task.verdicts >= k else None


def _majority_at(k: int) -> Score:
    return lambda task: task.majority_at(k) if task.verdicts >= k else None


def _caveats(before: StoredEvaluation, after: StoredEvaluation) -> Iterator[str]:
    sides = {"A": before, "B": after}
    for side, other in (("A", after), ("B", before)):
        if alone := [str(place) for place in sides[side].tasks if place not in other.tasks]:
            yield f"only {side} has {'; '.join(alone)}"
    for place in (place for place in before.tasks if place in after.tasks):
        a, b = before.at(place), after.at(place)
        for key, what in _SAMPLED.items():
            if key in a and key in b and a[key] != b[key]:
                yield f"{place}: {what}: {a[key]} in A, {b[key]} in B"
        first, second = before.tasks[place].keys(), after.tasks[place].keys()
        if first != second:
            yield (
                f"{place}: {counted(len(first - second), 'task')} only in A and {len(second - first)} only in B are left out"
            )
    for side, one in sides.items():
        tasks = [task for tasks in one.tasks.values() for task in tasks.values()]
        if failed := sum(task.failed for task in tasks):
            rollouts = failed + sum(task.verdicts for task in tasks)
            yield f"{side}: {failed} of {counted(rollouts, 'rollout')} have no verdict, and the numbers are those of the others"
