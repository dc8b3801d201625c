"""What the runs of a matrix came to: evaluations, metrics and costs, as far as they are there; and results.csv."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from aipo.compare.matrix import BEFORE, Cell, Matrix, Measure, log_of
from aipo.errors import RunError
from aipo.evaluate.pass_at_k import pass_at_k
from aipo.evaluate.verdict import Sample, Scored
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
    """What training has taken, in all stages; evaluations are not counted.

    Args:
        generated_tokens: that the policy sampled.
        agent_calls: of agents' chat models, failed attempts included.
        agent_tokens: that agents, or demonstrations, put into contexts, in the policy's tokenizer.
        train_seconds: rollouts and optimiser steps.
    """

    generated_tokens: float = 0.0
    agent_calls: float = 0.0
    agent_tokens: float = 0.0
    train_seconds: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Cost":
        """Of one line of metrics.jsonl; a generation's rollouts are told with its first optimiser step."""
        return cls(
            generated_tokens=_rollouts(row) * (row.get("length/policy") or 0.0),
            agent_calls=sum(value or 0.0 for name, value in row.items() if name.startswith("calls/")),
            agent_tokens=_rollouts(row) * (row.get("length/agent") or 0.0),
            train_seconds=row.get("step_time") or 0.0,
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in _COSTS})


def _rollouts(row: Mapping[str, Any]) -> float:
    """All kinds together; failed ones are of a kind, too."""
    kinds = (
        (name, value) for name, value in row.items() if name.startswith("rollouts/") and value is not None
    )
    return sum(value for name, value in kinds if name != "rollouts/failed")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm with one seed, trained and evaluated; or the policy before.

    Args:
        evaluation: split → setting → result, as its file has it.
        metrics: lines of metrics.jsonl, of all stages in order.
        made_of: by name, the version of each package and the fingerprint of each file that its manifest has.
    """

    arm: str
    seed: int
    evaluation: Mapping[str, Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]] = ()
    made_of: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def costs(self) -> list[Cost]:
        """What had been taken after each line of the metrics."""
        spent, costs = Cost(), list[Cost]()
        for row in self.metrics:
            spent += Cost.of(row)
            costs.append(spent)
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
class Missing:
    """A cell that is not finished, and what is known of the reason."""

    arm: str
    seed: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Everything that is there of a matrix.

    Args:
        found: of the policy before and of the arms.
        missing: what is not there yet.
    """

    found: tuple[Outcome, ...]
    missing: tuple[Missing, ...]

    def of(self, arm: str) -> list[Outcome]:
        return [outcome for outcome in self.found if outcome.arm == arm]

    @property
    def arms(self) -> list[str]:
        """Those of which something was found."""
        return list(dict.fromkeys(outcome.arm for outcome in self.found))

    @property
    def gaps(self) -> list[tuple[str, list[int], str]]:
        """What is missing: an arm, its seeds that lack for the same reason, and the reason."""
        seeds: dict[tuple[str, str], list[int]] = {}
        for one in self.missing:
            seeds.setdefault((one.arm, one.why), []).append(one.seed)
        return [(arm, those, why) for (arm, why), those in seeds.items()]

    def sample(self, arm: str, measure: Measure) -> Sample:
        return {outcome.seed: outcome.scores(measure) for outcome in self.of(arm)}


def read_outcomes(matrix: Matrix) -> Outcomes:
    """Reads what has finished.

    Raises:
        RunError: a file is no evaluation, or two arms were asked different tasks with one seed.
    """
    found: list[Outcome] = []
    missing: list[Missing] = []
    for seed, config in matrix.before.items():
        folder = RunFolder(config.run.out)
        if folder.evaluation(BEFORE).is_file():
            found.append(Outcome(arm=BEFORE, seed=seed, evaluation=folder.read_evaluation(BEFORE)))
        else:
            missing.append(Missing(arm=BEFORE, seed=seed, why=_why(log_of(folder), begun=False)))
    for cell in matrix.cells:
        if cell.done:
            found.append(_outcome(cell))
        else:
            begun = any(stage.folder.config.is_file() for stage in cell.stages)
            missing.append(Missing(arm=cell.arm, seed=cell.seed, why=_why(cell.log, begun=begun)))
    _check_paired(found)
    return Outcomes(found=tuple(found), missing=tuple(missing))


def write_csv(path: Path, outcomes: Outcomes, measures: Iterable[Measure]) -> None:
    """One line for each arm, seed and measure.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIELDS, *_COSTS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(outcomes, list(measures)))
    write_text(path, text.getvalue())


def _rows(outcomes: Outcomes, measures: Sequence[Measure]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes.found:
        costs = {name: round(getattr(outcome.cost, name), 1) for name in _COSTS}
        for m in measures:
            result = outcome.evaluation.get(m.split, {}).get(m.setting, {})
            value = result.get("pass_at", {}).get(str(m.k))
            if value is None:
                continue
            low, high = result["interval"].get(str(m.k)) or (None, None)
            yield {
                "arm": outcome.arm,
                "seed": outcome.seed,
                "split": m.split,
                "setting": m.setting,
                "k": m.k,
                "value": value,
                "interval_low": low,
                "interval_high": high,
                "tasks": result["tasks_at"][str(m.k)],
                "failed": result["counts"]["failed"],
                **costs,
            }


def _outcome(cell: Cell) -> Outcome:
    metrics = [row for stage in cell.stages for row in stage.folder.read_metrics()]
    evaluation = cell.folder.read_evaluation("after")
    made_of = _made_of(cell.folder.read_manifest())
    return Outcome(arm=cell.arm, seed=cell.seed, evaluation=evaluation, metrics=metrics, made_of=made_of)


def _made_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    files = {name: file["fingerprint"] for name, file in manifest.get("files", {}).items()}
    return {**manifest.get("packages", {}), **files}


def _why(log: Path, *, begun: bool) -> str:
    """The last words of a run's log, which are its error if it had one."""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    if not said:
        return "not run yet"
    return f"{'not finished' if begun else 'not begun'}; last said: {visible(said[-1].strip())}"


def _check_paired(found: Sequence[Outcome]) -> None:
    first: dict[tuple[int, str, str], tuple[str, list[str]]] = {}
    for outcome in found:
        for split, settings in outcome.evaluation.items():
            for setting, result in settings.items():
                tasks = [task["task_id"] for task in result["per_task"]]
                arm, others = first.setdefault((outcome.seed, split, setting), (outcome.arm, tasks))
                if tasks != others:
                    raise RunError(
                        f"comparison: got other tasks of split {split!r} in {outcome.arm} {outcome.seed} than in "
                        f"{arm} {outcome.seed}, allowed the same ones: they are paired"
                    )
