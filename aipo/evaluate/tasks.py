"""`aipo env`: the tasks of an environment, and its verdict on a text."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config import presets
from aipo.config.build import Experiment, load_experiment
from aipo.config.environment import DATA, environment_overrides
from aipo.errors import ConfigError, ScoreError
from aipo.rollout.env import Task, check_tasks, judge, weights_with_noted
from aipo.rollout.recorder import weighted
from aipo.util.console import line_table, print_line
from aipo.util.event_loop import LOOP
from aipo.util.imports import load, users_code
from aipo.util.output import print_result
from aipo.util.text import to_json

_CUT = (("question", 12), ("answer", 6), ("id", 8))


def choose_task(
    experiment: Experiment, split: str | None, index: int | None, seed: int | None
) -> tuple[str, int, Task]:
    """Split, number and task: the one of this number, or the one that a seed draws; by default the first of the first split.

    Raises:
        ConfigError: a number and a seed, or the split has no task of this number, or none at all.
        TaskError: no such split.
    """
    if index is not None and seed is not None:
        raise ConfigError(f"--index, --seed: got {index} and {seed}, allowed one of the two")
    splits = list(experiment.env.splits())
    if split is None and not splits:
        raise ConfigError("environment: got one without splits, allowed one that has tasks")
    split = split or splits[0]
    tasks = check_tasks(experiment.env, split, experiment.env_name)
    if not tasks:
        raise ConfigError(f"--split: got {split!r}, which has no tasks, allowed one of {splits} that has")
    index = random.Random(seed).randrange(len(tasks)) if seed is not None else index or 0
    if not 0 <= index < len(tasks):
        raise ConfigError(f"--index: got {index}, allowed 0 to {len(tasks) - 1} in split {split!r}")
    return split, index, tasks[index]


def environment(name: str, overrides: Iterable[str]) -> Experiment:
    """The experiment whose environment is meant.

    Args:
        name: a preset, a YAML file, or what `aipo.config.environment.environment_overrides` takes.

    Raises:
        ConfigError: it is none of these.
    """
    if name in presets() or (":" not in name and Path(name).is_file() and not name.endswith((".py", *DATA))):
        return load_experiment(name, overrides)
    # The preset is only there for what an environment does not need.
    return load_experiment("aipo_distil", [*environment_overrides(name), *overrides])


def show_splits(experiment: Experiment, console: Console) -> None:
    """Every split: how many tasks it has, and its first question."""
    env, file = experiment.env, load(experiment.env_name).file
    with users_code(f"tasks of {experiment.env_name}"):
        splits = {split: check_tasks(env, split, experiment.env_name) for split in env.splits()}
    rows = [(split, str(len(tasks)), tasks[0].prompt if tasks else "") for split, tasks in splits.items()]
    console.print(line_table(("split", "tasks", "question"), rows, width=console.width, cut=_CUT))
    print_line(console, f"{experiment.env_name} from {file}", "dim")
    counts = {
        split: {"tasks": len(tasks), "first": _values(tasks[0]) if tasks else None}
        for split, tasks in splits.items()
    }
    print_result(console, {"env": experiment.env_name, "file": str(file), "splits": counts})


def show_tasks(experiment: Experiment, split: str, *, limit: int, console: Console) -> None:
    """The first tasks of a split, a line each.

    Raises:
        TaskError: no such split.
    """
    with users_code(f"tasks of {experiment.env_name}"):
        tasks = check_tasks(experiment.env, split, experiment.env_name)
    rows = [(str(n), t.task_id, t.prompt, _text(t.answer)) for n, t in enumerate(tasks[:limit])]
    console.print(line_table(("index", "id", "question", "answer"), rows, width=console.width, cut=_CUT))
    print_line(console, f"{len(rows)} of {len(tasks)} tasks (--limit shows more, --index shows one)", "dim")
    shown = [_values(task) for task in tasks[:limit]]
    print_result(console, {"env": experiment.env_name, "split": split, "count": len(tasks), "tasks": shown})


def show_task(
    experiment: Experiment, split: str, index: int, task: Task, *, text: str | None, console: Console
) -> None:
    """The task with this number in its split, and the verdict on a text if there is one.

    Raises:
        AipoError: see `score_text`.
    """
    solution = getattr(experiment.env, "demonstration", lambda _: None)(task)
    result: dict[str, Any] = {"env": experiment.env_name, "split": split, "index": index}
    result |= {"task": _values(task), "demonstration": solution}
    lines = {
        "task": f"{split} {index}",
        "id": task.task_id,
        "question": task.prompt,
        "answer": _text(task.answer),
        "cluster": task.cluster,
        "metadata": to_json(result["task"]["metadata"]).decode() if task.metadata else "",
        "solution": solution or "",
    }
    if text is not None:
        verdict = result["score"] = score_text(experiment, task, text)
        parts = verdict["parts"] or {}
        reward = "none" if verdict["reward"] is None else f"{verdict['reward']:g}"
        lines |= {
            "text": text,
            "verdict": ", ".join(f"{name} {value:g}" for name, value in parts.items()) or "unscored",
            "reward": reward,
            "why": verdict["why"],
        }
    for name, value in lines.items():
        for number, line in enumerate(value.rstrip("\n").split("\n") if value else ()):
            print_line(console, f"{'' if number else name:<10}{line}")
    print_result(console, result)


def score_text(experiment: Experiment, task: Task, text: str) -> dict[str, Any]:
    """The verdict on `text`: `parts` and `reward` (None = unscored), and `why`.

    Raises:
        TaskError: the task has no answer to compare with.
        ConfigError: a reward part has no weight.
        TraceError: a reward part is not finite: a rollout would fail on it.
    """
    env = experiment.env
    try:
        with users_code(f"score of {experiment.env_name}"):
            parts, why = LOOP.run(judge(env, task, text))
    except ScoreError as error:
        parts, why = None, str(error)
    if parts is None:
        return {"parts": None, "reward": None, "why": why or "the environment could not score the answer"}
    weights = weights_with_noted(env, experiment.rollout.reward_weights)
    values, reward = weighted(parts, weights, f"the score of task {task.task_id!r}")
    return {"parts": values, "reward": reward, "why": why or ""}


def _values(task: Task) -> dict[str, Any]:
    """A task as a trace holds it, where NaN is null."""
    return json.loads(to_json(task))


def _text(answer: str | None) -> str:
    return "none" if answer is None else answer
