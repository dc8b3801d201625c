"""`aipo try`: one question, answered on the terminal without and with agents."""

import json
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError, RunError, ScoreError, TaskError
from aipo.evaluate.endpoint import Endpoint
from aipo.evaluate.run import SETTINGS
from aipo.render.display import trace_text
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Env, Task
from aipo.rollout.spec import RolloutSpec
from aipo.run import RunFolder
from aipo.trace import Mode, Trace
from aipo.util.console import bars, print_line, stage
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
        settings: of `SETTINGS`; empty = solo and, where there are agents, assisted.

    Raises:
        ConfigError: more than one policy is named, or a setting that it cannot be tried under.
        RunError: the run has no trained policy.
    """
    named = [option for option, value in (("--run", run), ("--config", config)) if value is not None]
    if len(named) > 1 or (run is not None and endpoint is not None):
        raise ConfigError(
            "aipo try: got --run and another policy, allowed one of --run, --config, --endpoint"
        )
    folder = None if run is None else RunFolder.open(run)
    if folder is not None and not folder.model.is_dir():
        raise RunError(f"aipo try --run: got {run}, which has no trained policy yet, allowed a finished run")
    name = str(folder.config) if folder else config or "aipo"
    experiment = load_experiment(name, overrides, of_run=folder is not None).for_evaluation()
    text_only = endpoint is not None and endpoint.text_only
    allowed = ["solo"] if text_only or not experiment.agents else list(SETTINGS)
    chosen = settings or [setting for setting in ("solo", "assisted") if setting in allowed]
    if unknown := [setting for setting in chosen if setting not in allowed]:
        raise ConfigError(f"--setting: got {unknown}, allowed {allowed} here")
    task = find_task(experiment, question, answer)
    traces: list[Trace] = []
    with _engine(experiment, folder, endpoint, suppressed="suppressed" in chosen, console=console) as engine:
        engine = replace(engine, env=TriedEnv(engine.env, task))
        decode = engine.policies["policy"].tokenizer.decode
        for index, setting in enumerate(chosen):
            mode, suppress = (Mode.TEXT, False) if text_only else SETTINGS[setting]
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
                traces.append(trace)
                console.print(trace_text(trace, decode), soft_wrap=True)
                console.print()
        texts = [[decode(segment.token_ids) for segment in trace.segments] for trace in traces]
    expected = "no answer is expected" if task.answer is None else f"expected: {task.answer}"
    print_line(console, expected, "dim")
    records = [
        {**json.loads(trace.to_json()), "kind": trace.kind, "texts": of_trace}
        for trace, of_trace in zip(traces, texts, strict=True)
    ]
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


@contextmanager
def _engine(
    experiment: Experiment,
    folder: RunFolder | None,
    endpoint: Endpoint | None,
    *,
    suppressed: bool,
    console: Console,
) -> Generator[RolloutEngine]:
    with ExitStack() as stack:
        if endpoint is not None:
            policy = endpoint.open(experiment)
        else:
            progress = stack.enter_context(bars(console))
            model = (
                folder.model if folder else experiment.build_model(stage(progress, experiment.policy.making))
            )
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            network, tokenizer = experiment.network(model), experiment.tokenizer(model)
            sampler = stack.enter_context(experiment.open_policy(network, tokenizer, home))
            sampler.refresh()
            policy = sampler.policy
            progress.stop()
        yield experiment.engine(policy, run_id="try", forbidden_ids=None if suppressed else ())
