"""The results of a matrix: evaluations, metrics and costs of the finished runs, caveats, and results.csv."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from aipo.compare.matrix import Matrix, MatrixCell, Measure, log_of
from aipo.compare.sections import BEFORE
from aipo.errors import RunError
from aipo.evaluate.pass_at_k import pass_at_k
from aipo.evaluate.statistics import Sample, Scored
from aipo.run import RunFolder
from aipo.util.files import write_text
from aipo.util.text import visible

_FIELDS = (
    "arm",
    "seed",
    "split",
    "setting",
    "k",
    "value",
    "interval_low",
    "interval_high",
    "tasks",
    "failed",
)
_COSTS = ("generated_tokens", "agent_calls", "agent_tokens", "train_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of training, in all stages; evaluations are not counted.

    Args:
        generated_tokens: that the policy sampled.
        agent_calls: of agents' chat models, failed attempts included.
        agent_tokens: that agents, or demonstrations, put into contexts, in the policy's tokenizer.
        train_seconds: rollouts and optimizer steps.
    """

    generated_tokens: float = 0.0
    agent_calls: float = 0.0
    agent_tokens: float = 0.0
    train_seconds: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Cost":
        """The cost of one line of metrics.jsonl; the first optimizer step of a rollout step has its rollouts."""
        return cls(
            generated_tokens=_rollouts(row) * (row.get("length/policy") or 0.0),
            agent_calls=sum(value or 0.0 for name, value in row.items() if name.startswith("calls/")),
            agent_tokens=_rollouts(row) * (row.get("length/agent") or 0.0),
            train_seconds=row.get("step_time") or 0.0,
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in _COSTS})


def _rollouts(row: Mapping[str, Any]) -> float:
    """The number of rollouts of all kinds; a failed rollout is also of a kind."""
    kinds = (
        (name, value) for name, value in row.items() if name.startswith("rollouts/") and value is not None
    )
    return sum(value for name, value in kinds if name != "rollouts/failed")


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm with one seed, trained and evaluated; or the policy before.

    Args:
        evaluation: split → setting → result, as its file has it.
        metrics: lines of metrics.jsonl, of all stages in order.
        versions: by name, the version of each package and the fingerprint of each file that its manifest has.
    """

    arm: str
    seed: int
    evaluation: Mapping[str, Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def costs(self) -> list[Cost]:
        """The cost up to each line of the metrics."""
        total, costs = Cost(), list[Cost]()
        for row in self.metrics:
            total += Cost.of(row)
            costs.append(total)
        return costs

    @property
    def cost(self) -> Cost:
        return self.costs[-1] if self.costs else Cost()

    def scores(self, measure: Measure) -> Mapping[str, Scored]:
        """pass@k of each task with at least k verdicts."""
        tasks = self.evaluation.get(measure.split, {}).get(measure.setting, {}).get("per_task", [])
        return {
            task["task_id"]: Scored(task["cluster"], _pass_at_k(task["verdicts"], task["correct"], measure.k))
            for task in tasks
            if task["verdicts"] >= measure.k
        }


_pass_at_k = cache(pass_at_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRun:
    """A run without results, and the reason as far as its log tells it."""

    arm: str
    seed: int
    why: str


@dataclass(frozen=True, kw_only=True)
class MatrixResults:
    """The results of a matrix so far.

    Args:
        finished: of the policy before and of the arms.
        missing: the runs without results.
    """

    finished: tuple[ArmResult, ...]
    missing: tuple[MissingRun, ...]

    def of(self, arm: str) -> list[ArmResult]:
        return [result for result in self.finished if result.arm == arm]

    @property
    def arms(self) -> list[str]:
        """Arms with at least one result, the policy before among them."""
        return list(dict.fromkeys(result.arm for result in self.finished))

    @property
    def gaps(self) -> list[tuple[str, list[int], str]]:
        """The missing runs by reason: an arm, its seeds that are missing for this reason, and the reason."""
        seeds: dict[tuple[str, str], list[int]] = {}
        for run in self.missing:
            seeds.setdefault((run.arm, run.why), []).append(run.seed)
        return [(arm, numbers, why) for (arm, why), numbers in seeds.items()]

    def sample(self, arm: str, measure: Measure) -> Sample:
        return {result.seed: result.scores(measure) for result in self.of(arm)}


def read_results(matrix: Matrix) -> MatrixResults:
    """Reads the results of the finished runs.

    Raises:
        RunError: a file is no evaluation, or two arms were asked different tasks with one seed.
    """
    finished: list[ArmResult] = []
    missing: list[MissingRun] = []
    for seed, experiment in matrix.before.items():
        folder = RunFolder(experiment.out)
        if folder.evaluation(BEFORE).is_file():
            finished.append(ArmResult(arm=BEFORE, seed=seed, evaluation=folder.read_evaluation(BEFORE)))
        else:
            missing.append(MissingRun(arm=BEFORE, seed=seed, why=_why(log_of(folder), begun=False)))
    for cell in matrix.cells:
        if cell.done:
            finished.append(_arm_result(cell))
        else:
            begun = any(stage.folder.config.is_file() for stage in cell.stages)
            missing.append(MissingRun(arm=cell.arm, seed=cell.seed, why=_why(cell.log, begun=begun)))
    _check_paired(finished)
    return MatrixResults(finished=tuple(finished), missing=tuple(missing))


def write_csv(path: Path, results: MatrixResults, measures: Iterable[Measure]) -> None:
    """One line for each arm, seed and measure.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIELDS, *_COSTS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(results, list(measures)))
    write_text(path, text.getvalue())


def _rows(results: MatrixResults, measures: Sequence[Measure]) -> Iterator[dict[str, Any]]:
    for result in results.finished:
        costs = {name: round(getattr(result.cost, name), 1) for name in _COSTS}
        for m in measures:
            measured = result.evaluation.get(m.split, {}).get(m.setting, {})
            value = measured.get("pass_at", {}).get(str(m.k))
            if value is None:
                continue
            low, high = measured["interval"].get(str(m.k)) or (None, None)
            yield {
                "arm": result.arm,
                "seed": result.seed,
                "split": m.split,
                "setting": m.setting,
                "k": m.k,
                "value": value,
                "interval_low": low,
                "interval_high": high,
                "tasks": measured["tasks_at"][str(m.k)],
                "failed": measured["counts"]["failed"],
                **costs,
            }


def _arm_result(cell: MatrixCell) -> ArmResult:
    metrics = [row for stage in cell.stages for row in stage.folder.read_metrics()]
    evaluation = cell.folder.read_evaluation("after")
    versions = _versions(cell.folder.read_manifest())
    return ArmResult(arm=cell.arm, seed=cell.seed, evaluation=evaluation, metrics=metrics, versions=versions)


def _versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    files = {name: file["fingerprint"] for name, file in manifest.get("files", {}).items()}
    return {**manifest.get("packages", {}), **files}


def _why(log: Path, *, begun: bool) -> str:
    """The last line of a run's log, which is its error if it had one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    if not lines:
        return "not run yet"
    return f"{'not finished' if begun else 'not begun'}; last said: {visible(lines[-1].strip())}"


def _check_paired(finished: Sequence[ArmResult]) -> None:
    first: dict[tuple[int, str, str], tuple[str, list[str]]] = {}
    for result in finished:
        for split, settings in result.evaluation.items():
            for setting, measured in settings.items():
                tasks = [task["task_id"] for task in measured["per_task"]]
                arm, others = first.setdefault((result.seed, split, setting), (result.arm, tasks))
                if tasks != others:
                    raise RunError(
                        f"comparison: got other tasks of split {split!r} in {result.arm} {result.seed} than in "
                        f"{arm} {result.seed}, allowed the same ones: they are paired"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One reason to doubt the numbers of an arm.

    Args:
        kind: `mixed`: its seeds ran with different versions or files. `apart`: it starts from another policy than the
            reference. `unscored`: some of its evaluated rollouts have no verdict.
    """

    kind: str
    arm: str
    text: str


def caveats(matrix: Matrix, results: MatrixResults) -> tuple[Caveat, ...]:
    """All caveats, kind by kind."""
    return (*_mixed(results), *_apart(matrix), *_unscored(results))


def _mixed(results: MatrixResults) -> Iterator[Caveat]:
    for arm in results.arms:
        versions = [result.versions for result in results.of(arm)]
        names = sorted({name for version in versions for name in version})
        if changed := [name for name in names if len({version.get(name) for version in versions}) > 1]:
            yield Caveat(kind="mixed", arm=arm, text=f"its seeds differ in {', '.join(changed)}")


def _apart(matrix: Matrix) -> Iterator[Caveat]:
    starts = {arm: matrix.cell(arm, matrix.seeds[0]).stages[0].experiment.policy for arm in matrix.arms}
    reference = starts[matrix.reference]
    for arm, policy in starts.items():
        if (policy.model, policy.options) != (reference.model, reference.options):
            text = f"it begins from another policy than {matrix.reference}: their difference is not the method's alone"
            yield Caveat(kind="apart", arm=arm, text=text)


def _unscored(results: MatrixResults) -> Iterator[Caveat]:
    for arm in results.arms:
        tasks = [
            task
            for result in results.of(arm)
            for settings in result.evaluation.values()
            for measured in settings.values()
            for task in measured["per_task"]
        ]
        if failed := sum(task["failed"] for task in tasks):
            rollouts = failed + sum(task["verdicts"] for task in tasks)
            text = f"{failed} of {rollouts} evaluated rollouts have no verdict, and its numbers are those of the others"
            yield Caveat(kind="unscored", arm=arm, text=text)
