"""The results of a matrix: evaluations, metrics and costs of the finished runs, caveats, and results.csv."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from aipo.compare.matrix import Matrix, MatrixCell, Measure
from aipo.compare.sections import BEFORE
from aipo.config.build import load_experiment
from aipo.errors import RunError
from aipo.evaluate.statistics import Sample, Scored, pass_at_k
from aipo.util.files import write_text
from aipo.util.text import visible

_COLUMNS = (
    *("arm", "seed", "split", "setting", "k"),
    *("value", "interval_low", "interval_high", "tasks", "failed"),
)

_ALSO_OF_A_KIND = ("rollouts/failed", "rollouts/forked")


class Cost(NamedTuple):
    """The cost of training, in all stages; evaluations are not counted.

    Args:
        generated_tokens: that the policy sampled.
        agent_calls: of agents' chat models, failed attempts included.
        agent_tokens: that agents, or demonstrations, put into contexts, in the policy's tokenizer.
        train_seconds: rollouts and optimizer steps.
        rollouts: of every kind.
        consults: requests to agents, also those to which nobody replied.
        agent_seconds: duration of the calls, of which many are made at the same time.
    """

    generated_tokens: float = 0.0
    agent_calls: float = 0.0
    agent_tokens: float = 0.0
    train_seconds: float = 0.0
    rollouts: float = 0.0
    consults: float = 0.0
    agent_seconds: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Cost":
        """The cost of one line of metrics.jsonl; the first optimizer step of a rollout step has its rollouts."""
        rollouts = sum(
            value or 0.0
            for name, value in row.items()
            if name.startswith("rollouts/") and name not in _ALSO_OF_A_KIND
        )

        def total(metric: str) -> float:
            return math.fsum(value or 0.0 for name, value in row.items() if name.startswith(f"{metric}/"))

        return cls(
            generated_tokens=rollouts * (row.get("length/policy") or 0.0),
            agent_calls=total("calls"),
            agent_tokens=rollouts * (row.get("length/agent") or 0.0),
            train_seconds=row.get("step_time") or 0.0,
            rollouts=rollouts,
            consults=(row.get("rollouts/assisted") or 0.0) * total("consults"),
            agent_seconds=total("call_seconds"),
        )


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm with one seed, trained and evaluated; or the policy before.

    Args:
        evaluation: split → setting → result, as its file has it.
        metrics: lines of metrics.jsonl, of all stages in order.
        versions: by name, the version of each package and the fingerprint of each file that its manifest has, and each agent's
            tags around thinking.
    """

    arm: str
    seed: int
    evaluation: Mapping[str, Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def costs(self) -> list[Cost]:
        """The cost up to each line of the metrics."""
        rows = map(Cost.of, self.metrics)
        return list(accumulate(rows, lambda total, cost: Cost(*map(add, total, cost))))

    @property
    def cost(self) -> Cost:
        return self.costs[-1] if self.costs else Cost()

    def under(self, measure: Measure) -> Mapping[str, Any]:
        """The result that has the measure; empty if there is none."""
        return self.evaluation.get(measure.split, {}).get(measure.setting, {})

    def pass_at(self, measure: Measure) -> float | None:
        return self.under(measure).get("pass_at", {}).get(str(measure.k))

    def interval(self, measure: Measure) -> tuple[float, float] | None:
        return self.under(measure).get("interval", {}).get(str(measure.k))

    def scores(self, measure: Measure) -> Mapping[str, Scored]:
        """pass@k of each task with at least k verdicts."""
        return {
            task["task_id"]: Scored(task["cluster"], _pass_at_k(task["verdicts"], task["correct"], measure.k))
            for task in self.under(measure).get("per_task", [])
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
    def gaps(self) -> list[str]:
        """The missing runs by arm and reason: 'floor 10, 11: not run yet'."""
        seeds: dict[tuple[str, str], list[str]] = {}
        for run in self.missing:
            seeds.setdefault((run.arm, run.why), []).append(str(run.seed))
        return [f"{arm} {', '.join(numbers)}: {why}" for (arm, why), numbers in seeds.items()]

    def sample(self, arm: str, measure: Measure) -> Sample:
        return {result.seed: result.scores(measure) for result in self.of(arm)}


def read_results(matrix: Matrix) -> MatrixResults:
    """Reads the results of the finished runs.

    Raises:
        RunError: a file is no evaluation, or two arms were asked different tasks with one seed.
    """
    cells = (*matrix.before.values(), *matrix.cells)
    finished = tuple(_arm_result(cell) for cell in cells if cell.done)
    missing = tuple(
        MissingRun(arm=cell.arm, seed=cell.seed, why=_why(cell)) for cell in cells if not cell.done
    )
    _check_paired(finished)
    return MatrixResults(finished=finished, missing=missing)


def write_csv(path: Path, results: MatrixResults, measures: Iterable[Measure]) -> None:
    """One line for each arm, seed and measure.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *Cost._fields])
    measures = list(measures)
    for result in results.finished:
        costs = [round(amount, 1) for amount in result.cost]
        for measure in measures:
            value, evaluated = result.pass_at(measure), result.under(measure)
            if value is None:
                continue
            names = (result.arm, result.seed, measure.split, measure.setting, measure.k)
            low, high = result.interval(measure) or (None, None)
            tasks, failed = evaluated["tasks_at"][str(measure.k)], evaluated["counts"]["failed"]
            writer.writerow([*names, value, low, high, tasks, failed, *costs])
    write_text(path, text.getvalue())


def _arm_result(cell: MatrixCell) -> ArmResult:
    manifest = cell.folder.read_manifest()
    files = {name: file["fingerprint"] for name, file in manifest.get("files", {}).items()}
    return ArmResult(
        arm=cell.arm,
        seed=cell.seed,
        evaluation=cell.folder.read_evaluation(cell.evaluation),
        metrics=[row for stage in cell.stages for row in stage.folder.read_metrics()],
        versions={**manifest.get("packages", {}), **files, **_thinking(cell)},
    )


def _thinking(cell: MatrixCell) -> dict[str, str]:
    """By agent, the tags around its thinking in each stage: a run of an older version goes on with those of then."""
    files = [Path(run.name) if cell.arm == BEFORE else run.folder.config for run in cell.stages]
    began = [load_experiment(str(file), of_run=True).agents for file in files if file.is_file()]
    names = {name for agents in began for name in agents}
    return {
        f"agents.{name}.thinking": str(
            [sorted(agents[name].thinking.items()) for agents in began if name in agents]
        )
        for name in names
    }


def _why(cell: MatrixCell) -> str:
    """The last line of a run's log, which is its error if it had one."""
    text = cell.log.read_text(encoding="utf-8", errors="replace").strip() if cell.log.is_file() else ""
    if not text:
        return "not run yet"
    begun = any(stage.run.config.is_file() for stage in cell.stages)
    return f"{'not finished' if begun else 'not begun'}; last said: {visible(text.splitlines()[-1])}"


def _check_paired(finished: Sequence[ArmResult]) -> None:
    first: dict[tuple[int, str, str], tuple[str, list[str]]] = {}
    for result in finished:
        for split, settings in result.evaluation.items():
            for setting, evaluated in settings.items():
                tasks = [task["task_id"] for task in evaluated["per_task"]]
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
        kind: `mixed`: its seeds ran with different versions, files or agents. `apart`: it starts from another policy than the
            reference. `unscored`: some of its evaluated rollouts have no verdict.
    """

    kind: str
    arm: str
    text: str


def caveats(matrix: Matrix, results: MatrixResults) -> tuple[Caveat, ...]:
    """All caveats, kind by kind."""
    arms = {arm: results.of(arm) for arm in (BEFORE, *matrix.arms)}
    return (*_mixed(arms), *_apart(matrix), *_unscored(arms))


def _mixed(arms: Mapping[str, Sequence[ArmResult]]) -> Iterator[Caveat]:
    for arm, results in arms.items():
        names = sorted({name for result in results for name in result.versions})
        if changed := [name for name in names if len({r.versions.get(name) for r in results}) > 1]:
            yield Caveat(kind="mixed", arm=arm, text=f"its seeds differ in {', '.join(changed)}")


def _apart(matrix: Matrix) -> Iterator[Caveat]:
    starts = {arm: matrix.cell(arm, matrix.seeds[0]).stages[0].experiment.policy for arm in matrix.arms}
    reference = starts[matrix.reference]
    for arm, policy in starts.items():
        if any(getattr(policy, key) != getattr(reference, key) for key in ("model", "options", "add_tags")):
            text = f"it begins from another policy than {matrix.reference}: their difference is not the method's alone"
            yield Caveat(kind="apart", arm=arm, text=text)


def _unscored(arms: Mapping[str, Sequence[ArmResult]]) -> Iterator[Caveat]:
    for arm, results in arms.items():
        tasks = [
            task
            for result in results
            for settings in result.evaluation.values()
            for evaluated in settings.values()
            for task in evaluated["per_task"]
        ]
        if failed := sum(task["failed"] for task in tasks):
            rollouts = failed + sum(task["verdicts"] for task in tasks)
            text = f"{failed} of {rollouts} evaluated rollouts have no verdict, and its numbers are those of the others"
            yield Caveat(kind="unscored", arm=arm, text=text)
