"""Evaluation into a run folder: every split, solo and with agents."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import ConfigError, RunError
from aipo.evaluate.choice import SETTINGS, PolicyChoice
from aipo.evaluate.endpoint import Endpoint
from aipo.evaluate.pass_at_k import evaluate
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.run_limits import commonest_error
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Mode, Trace
from aipo.trace.store import TraceStore
from aipo.util.console import Note, NumberTable, bars, number_table, print_warning, stage
from aipo.util.files import write_json
from aipo.util.output import write_event

Warn = Callable[[str], None]


def evaluate_folder(
    run: Path | None,
    config_name: str | None,
    overrides: Iterable[str],
    *,
    name: str,
    console: Console,
    endpoint: Endpoint | None = None,
) -> None:
    """Evaluates the policy of a run folder, or the untrained one of a configuration (by default `aipo_distil`), or a served
    model on the configuration's environment.

    Raises:
        ConfigError: more than one policy is named, or `name` is no plain word.
        RunError: no trained policy in the run, no run there, an untrained policy's evaluation would go into
            a run's folder, or there is one of that name already.
    """
    choice = PolicyChoice(run=run, config=config_name, endpoint=endpoint)
    experiment = choice.load(overrides)
    experiment.check_env(training=False)
    if run is None and endpoint is None:
        experiment.check_model()
    folder = RunFolder(run or experiment.out)
    _check(folder, name, trained=run is not None)
    file = str(folder.evaluation(name))
    write_event(console, "started", command="eval", file=file)
    run_id, text_only = f"{folder.path.name}-{name}", endpoint is not None and endpoint.text_only
    with folder.evaluation_taken(name), bars(console) as progress:
        note, warn = stage(progress, "evaluate"), partial(print_warning, console)
        note(0, 1, "loading the policy")
        with choice.open(
            experiment, folder.path, progress, run_id=run_id, suppressed=not text_only
        ) as engine:
            freeze_gc()
            if not text_only:
                tokenizer: Any = engine.policies["policy"].tokenizer
                keep_tokenizer(folder, tokenizer.inner.save_pretrained)
            result = evaluate_with(experiment, engine, folder, name, note, warn, choice.settings)
    console.print(table(result))
    console.print(f"written to {file}", highlight=False, soft_wrap=True)
    write_event(console, "evaluation", file=file, results=result)
    write_event(console, "finished", command="eval", file=file, results=result)


def _check(folder: RunFolder, name: str, *, trained: bool) -> None:
    """Refuses an evaluation that cannot be written, before time is spent on it."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"--name: got {name!r}, allowed letters, digits, - and _")
    if not trained and folder.config.is_file():
        raise RunError(
            f"eval: got run.out={folder.path}, which holds a run, and an untrained policy, "
            f"allowed --run {folder.path} or another run.out"
        )
    file = folder.evaluation(name)
    if file.exists():
        raise RunError(f"--name: got {name!r}, which {file} holds already, allowed a new name")


def evaluate_with(
    experiment: Experiment,
    engine: RolloutEngine,
    folder: RunFolder,
    name: str,
    note: Note,
    warn: Warn,
    modes: Mapping[str, tuple[Mode, bool]] = SETTINGS,
    *,
    needs_verdict: bool = True,
) -> dict[str, dict[str, Any]]:
    """Every split under every setting; written to evaluations/NAME.json as split → setting → result.

    The first rollout of each task is kept in evaluations/NAME/ as a trace to look at. `warn` is told of failed rollouts
    and of a policy that never asks.

    Raises:
        RunError: all rollouts failed, and a verdict is needed; says why.
    """
    evaluation = experiment.evaluation
    splits, settings = evaluation.splits, evaluation.settings
    sizes = {split: len(engine.env.tasks(split)) * evaluation.samples for split in splits}
    total = sum(sizes.values()) * len(settings)
    done = 0
    results: dict[str, dict[str, Any]] = {split: {} for split in splits}
    decode = engine.policies["policy"].tokenizer.decode
    kept: list[Trace] = []
    guard = experiment.guards(folder.spending, warn)
    with TraceStore(folder.evaluation_traces(name), decode=decode) as store:

        def keep_first(trace: Trace) -> None:
            if trace.index == 0:
                store.append(trace)
                kept.append(trace)
            guard(trace)

        def progress(finished: int, _: int) -> None:
            note(done + finished, total, f"{split}, {setting}")

        store.begin(0)
        for split, setting in product(splits, settings):
            mode, suppress = modes[setting]
            result = evaluate(
                engine,
                engine.env.tasks(split),
                mode=mode,
                suppress=suppress,
                samples=evaluation.samples,
                ks=evaluation.ks,
                seed=experiment.seed,
                on_trace=keep_first,
                progress=progress,
            )
            results[split][setting] = asdict(result)
            done += sizes[split]
        store.seal(0, kept)
    failed = sum(r["counts"]["failed"] for of_split in results.values() for r in of_split.values())
    if failed:
        errors = [trace for trace in kept if trace.error is not None]
        said = f"{failed} of {total} rollouts failed. {commonest_error(errors) if errors else ''}"
        if failed == total and needs_verdict:
            raise RunError(f"evaluation {name!r}: {said}; allowed one with a verdict. Traces: {store.folder}")
        warn(said)
    write_json(folder.evaluation(name), results)
    return results


def table(result: dict[str, dict[str, Any]]) -> NumberTable:
    """pass@k of every split and setting, with 95 % intervals, and how many rollouts failed."""
    ks = sorted({k for settings in result.values() for r in settings.values() for k in r["pass_at"]}, key=int)
    rows = [
        (
            f"{split}, {setting}",
            *(cell(r["pass_at"].get(k), r["interval"].get(k)) for k in ks),
            str(r["counts"]["failed"]),
        )
        for split, settings in result.items()
        for setting, r in settings.items()
    ]
    return number_table(("split, setting", *(f"pass@{k}" for k in ks), "failed"), rows)


def cell(value: float | None, interval: Sequence[float] | None) -> str:
    """A number and its interval, as tables show them."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
