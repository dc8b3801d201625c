"""Finished runs of a matrix that nobody has trained: evaluations and metrics with known numbers."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aipo.compare.matrix import Matrix, MatrixCell
from aipo.compare.sections import BEFORE
from aipo.evaluate.pass_at_k import TaskResult, _curves
from aipo.run import RunFolder
from aipo.util.files import write_json, write_text

STEPS = 40
TWO_ARMS = """
seeds: [10, 11]
set: [evaluate.samples=4, "evaluate.ks=[1, 4]"]
arms:
  grpo: {config: grpo}
  twice: {stages: [{config: aipo}, {config: grpo}]}
"""


def result(rate: float, seed: int, split: str, *, facts: int, samples: int, ks: tuple[int, ...]) -> Any:
    """One evaluation of a policy that knows each of `facts` with chance `rate`; two tasks a fact."""
    rng = random.Random(f"{seed} {split}")
    tasks: list[TaskResult] = []
    for fact in range(facts):
        chance = min(1.0, max(0.0, rate + rng.uniform(-0.15, 0.15))) if 0 < rate < 1 else rate
        for number in range(2):
            right = sum(rng.random() < chance for _ in range(samples))
            name = f"{split} {fact}+{number}"
            tasks.append(
                TaskResult(task_id=name, cluster=f"{fact}", verdicts=samples, correct=right, failed=0)
            )
    pass_at, interval, tasks_at = _curves(tasks, ks, seed)
    return {
        "pass_at": {str(k): value for k, value in pass_at.items()},
        "interval": {str(k): list(ends) if ends else None for k, ends in interval.items()},
        "tasks_at": {str(k): count for k, count in tasks_at.items()},
        "counts": {"failed": 0},
        "per_task": [
            {name: getattr(task, name) for name in TaskResult.__dataclass_fields__} for task in tasks
        ],
    }


def evaluation(rate: float, seed: int, *, facts: int = 12, samples: int = 4) -> dict[str, Any]:
    """Held-out tasks at `rate`, easy ones at 0.9; with agents a little better."""
    ks = (1, 2, 4)
    size = {"facts": facts, "samples": samples, "ks": ks}
    return {
        split: {
            setting: result(min(1.0, own + plus), seed, split, **size)  # type: ignore[arg-type]
            for setting, plus in (("solo", 0.0), ("suppressed", -0.01), ("assisted", 0.08))
        }
        for split, own in (("heldout", rate), ("easy", 0.9))
    }


def metrics(rate: float, seed: int, *, agents: bool = True) -> list[dict[str, Any]]:
    """Two optimizer steps a rollout step; 64 rollouts of 20 tokens, and 8 calls of an agent where there are agents."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    for generation in range(STEPS // 2):
        right = 0.45 + (rate / 2) * generation / (STEPS // 2) + rng.uniform(-0.08, 0.08)
        first = {
            "step": 2 * generation + 1,
            "step_time": 2.0,
            "rollouts/solo": 32.0 if agents else 64.0,
            "rollouts/assisted": 32.0 if agents else 0.0,
            "rollouts/failed": 1.0,
            "reward_part/correct/solo": min(right, 1.0),
            "solo/easy_train": 0.9,
            "solo/hard": min(right, 1.0) / 2,
            "length/policy": 20.0 + seed / 10,
            "length/agent": 1.5 if agents else 0.0,
            "calls/knowledge": 8.0 if agents else 0.0,
        }
        first |= {"reward_part/correct/assisted": min(1.0, right + 0.2)} if agents else {}
        rows += [first, {"step": 2 * generation + 2, "step_time": 0.5}]
    return rows


def finish(cell: MatrixCell, rate: float, **size: int) -> None:
    """Leaves what a trained and evaluated cell leaves, as far as a comparison reads it."""
    for stage in cell.stages:
        folder = stage.folder
        write_text(folder.config, stage.experiment.to_yaml())
        agents = stage.experiment.method.assist_share > 0
        lines = [f"{_json(row)}\n" for row in metrics(rate, cell.seed, agents=agents)]
        write_text(folder.metrics, "".join(lines))
        write_json(
            folder.manifest,
            {"packages": {"torch": "2"}, "files": {"env": {"file": "e.py", "fingerprint": "1"}}},
        )
        write_json(folder.evaluation("after"), evaluation(rate, cell.seed, **size))


def finish_all(matrix: Matrix, rates: Mapping[str, float], **size: int) -> None:
    """Every cell, and the policy before; a seed moves the rate a little."""
    for cell in matrix.cells:
        finish(cell, rates[cell.arm] + random.Random(cell.name).uniform(-0.03, 0.03), **size)
    for seed, experiment in matrix.before.items():
        write_text(experiment.out.with_name(f"{experiment.out.name}.yaml"), experiment.to_yaml())
        write_json(RunFolder(experiment.out).evaluation(BEFORE), evaluation(0.0, seed, **size))


def matrix_file(folder: Path, text: str) -> Path:
    """A matrix file that writes into `folder`/out."""
    file = folder / "matrix.yaml"
    write_text(file, f"out: {folder / 'out'}\n{text}")
    return file


def _json(row: Mapping[str, Any]) -> str:
    import json

    return json.dumps(row)
