"""Finished runs of a matrix that nobody has trained: evaluations and metrics with known numbers."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aipo.compare.matrix import Matrix, MatrixCell, read_matrix
from aipo.compare.sections import BEFORE
from aipo.evaluate.pass_at_k import TaskResult, curves
from aipo.util.files import write_json, write_text

STEPS = 40
ARMS = """
seeds: [10, 11]
set: [evaluate.samples=4, "evaluate.ks=[1, 2, 4]"]
reference: grpo
arms:
  grpo: {config: grpo}
  twice: {stages: [{config: aipo}, {config: grpo}]}
  aipo: {config: aipo}
"""


def result(rate: float, seed: int, split: str, *, facts: int, samples: int, ks: tuple[int, ...]) -> Any:
    """One evaluation of a policy that knows each of `facts` with chance `rate`; two tasks a fact."""
    rng = random.Random(f"{seed} {split}")
    tasks: list[TaskResult] = []
    for fact in range(facts):
        chance = min(1.0, max(0.0, rate + rng.uniform(-0.15, 0.15))) if 0 < rate < 1 else rate
        for number in range(2):
            right = sum(rng.random() < chance for _ in range(samples))
            names = {"task_id": f"{split} {fact}+{number}", "cluster": f"{fact}"}
            tasks.append(TaskResult(**names, verdicts=samples, correct=right, failed=0))
    return {
        **curves(tasks, ks, seed, samples=samples),
        "counts": {"failed": 0},
        "per_task": [asdict(task) for task in tasks],
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
            "consults/knowledge": 0.25 if agents else 0.0,
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
        lines = [f"{json.dumps(row)}\n" for row in metrics(rate, cell.seed, agents=agents)]
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
    for seed, cell in matrix.before.items():
        write_text(Path(cell.stages[0].name), cell.stages[0].experiment.to_yaml())
        write_json(cell.folder.evaluation(BEFORE), evaluation(0.0, seed, **size))


def make_matrix(folder: Path, text: str, rates: Mapping[str, float] | None = None, **size: int) -> Matrix:
    """The matrix of a text, finished where there are rates."""
    matrix = read_matrix(matrix_file(folder, text))
    if rates is not None:
        finish_all(matrix, rates, **size)
    return matrix


def matrix_file(folder: Path, text: str) -> Path:
    """A matrix file that writes into `folder`/out."""
    file = folder / "matrix.yaml"
    write_text(file, f"out: {folder / 'out'}\n{text}")
    return file
