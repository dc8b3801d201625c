"""`aipo try`: one question, answered on the terminal without and with agents."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import ConfigError, ScoreError, TaskError
from aipo.evaluate.choice import PolicyChoice
from aipo.evaluate.endpoint import Endpoint
from aipo.render.display import trace_text
from aipo.rollout.env import Env, Task, reason_for
from aipo.rollout.spec import RolloutSpec
from aipo.util.console import bars, print_line
from aipo.util.output import print_result


@dataclass(frozen=True, slots=True)
class TriedEnv:
    """The environment of one question: scores as `env` does, or not at all where nobody knows the answer."""

    env: Env
    task: Task

    def splits(self) -> tuple[str, ...]:
        return (self.task.split,)

    def tasks(self, split: str) -> Sequence[Task]:
        """The question, whatever the split."""
        return (self.task,)

    def score(self, task: Task, text: str) -> Any:
        """See `aipo.rollout.env.Env.score`.

        Raises:
            ScoreError: no answer is expected.
        """
        if task.answer is None:
            raise ScoreError("no answer is expected: --answer gives one")
        return self.env.score(task, text)

    def explain(self, task: Task, text: str) -> str:
        """See `aipo.rollout.env.ExplainedEnv`."""
        return reason_for(self.env, task, text) or ""


def try_question(
    question: str,
    answer: str | None,
    *,
    run: Path | None,
    config: str | None,
    endpoint: Endpoint | None,
    overrides: Iterable[str],
    settings: Sequence[str],
    console: Console,
) -> None:
    """Rolls a question out and prints each trace in colour; nothing is stored.

    Args:
        answer: what the environment compares with; by default that of the environment's own task, if it asks this.
        settings: of `aipo.evaluate.choice.SETTINGS`; empty = solo and, where there are agents, assisted.

    Raises:
        ConfigError: more than one policy is named, or a setting that it cannot be tried under.
        RunError: the run has no trained policy.
    """
    choice = PolicyChoice(run=run, config=config, endpoint=endpoint)
    experiment = choice.load([*overrides, "rollout.workers=1"])
    allowed = [*choice.settings] if experiment.agents else ["solo"]
    chosen = settings or [setting for setting in ("solo", "assisted") if setting in allowed]
    if unknown := [setting for setting in chosen if setting not in allowed]:
        raise ConfigError(f"--setting: got {unknown}, allowed {allowed} here")
    task = find_task(experiment, question, answer)
    records: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as home,
        bars(console) as progress,
        choice.open(
            [experiment], Path(home), progress, run_id="try", suppressed="suppressed" in chosen
        ) as engine,
    ):
        progress.stop()
        engine = replace(engine, env=TriedEnv(engine.env, task))
        decode = engine.policies["policy"].tokenizer.decode
        for index, setting in enumerate(chosen):
            mode, suppress = choice.settings[setting]
            spec = RolloutSpec(
                task=task,
                mode=mode,
                group_id="try",
                index=index,
                step=0,
                seed=experiment.seed,
                suppress=suppress,
            )
            for trace in engine.run_sync([spec], lambda _: None):
                console.print(trace_text(trace, decode), soft_wrap=True)
                console.print()
                texts = [decode(segment.token_ids) for segment in trace.segments]
                records.append({**json.loads(trace.to_json()), "kind": trace.kind, "texts": texts})
    expected = "no answer is expected" if task.answer is None else f"expected: {task.answer}"
    print_line(console, expected, "dim")
    print_result(console, {"question": task.prompt, "answer": task.answer, "traces": records})


def find_task(experiment: Experiment, question: str, answer: str | None) -> Task:
    """The environment's own task, if it asks this question; else a new one that ends as its questions do."""
    env = experiment.env
    splits = dict.fromkeys((*experiment.mixture, *experiment.evaluation.splits))
    end = ""
    for split in (split for split in splits if split in env.splits()):
        try:
            tasks = env.tasks(split)
        except TaskError:  # a data set that is not here: then nothing is known of its questions
            continue
        for task in tasks:
            end = task.prompt[len(task.prompt.rstrip()) :]
            if task.prompt.strip() == question.strip():
                return task if answer is None else replace(task, answer=answer)
    return Task(task_id="try", prompt=question.strip() + end, answer=answer, split="try")
