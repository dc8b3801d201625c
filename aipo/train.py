"""Running a configuration: train, evaluate, leave a run folder."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aipo.compose import (
    build_engine,
    build_graphs,
    build_model,
    build_policy,
    drawing,
    manifest,
)
from aipo.config import Config, dump, load_config
from aipo.evaluate import Evaluation, evaluate
from aipo.rollout import RolloutEngine
from aipo.run import RunFolder, write_json, write_text
from aipo.store import TraceStore
from aipo.trace import Mode

Note = Callable[[int, int, str], None]

SETTINGS: dict[str, tuple[Mode, bool]] = {
    "solo": (Mode.SOLO, False),
    "forbid": (Mode.SOLO, True),
    "assisted": (Mode.ASSISTED, False),
}


def train_run(config: Config, *, resume: bool, evaluate: bool, console: Console) -> None:
    """Trains what `config` says into `config.run.out`.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    folder = RunFolder.create(config.run.out, resume=resume)
    with bars(console) as progress:
        cold = progress.add_task("policy", total=None, note="")
        model = build_model(
            config,
            lambda step, steps, loss: progress.update(cold, completed=step, total=steps, note=f"loss {loss:.3f}"),
        )
        progress.update(cold, total=1, completed=1, note=str(model))
        policy = build_policy(config, model)
        engine = build_engine(config, policy, run_id=folder.path.name)
        _record(config, folder, model, console)
        train_policy(config, folder, policy, engine, progress, resume=resume)
        if evaluate:
            bar = progress.add_task("evaluate", total=None, note="")
            result = evaluate_with(
                config,
                engine,
                folder,
                "after",
                lambda done, total, note: progress.update(bar, completed=done, total=total, note=note),
            )
    if evaluate:
        console.print(table(result))
    console.print(f"run folder {folder.path}", highlight=False, soft_wrap=True)


def evaluate_folder(
    run: Path | None, config_name: str, overrides: Iterable[str], *, name: str, console: Console
) -> None:
    """Evaluates the policy of a run folder, or the untrained one of a configuration."""
    if run is not None:
        folder = RunFolder.open(run)
        config = load_config(str(folder.config), overrides)
        model: Path | str = folder.model
    else:
        config = load_config(config_name, overrides)
        folder = RunFolder(config.run.out)
        model = build_model(config)
    with bars(console) as progress:
        bar = progress.add_task("evaluate", total=None, note="")
        result = evaluate_policy(
            config,
            model,
            folder,
            name,
            lambda done, total, note: progress.update(bar, completed=done, total=total, note=note),
        )
    console.print(table(result))
    console.print(f"written to {folder.evaluation(name)}", highlight=False, soft_wrap=True)


def evaluate_policy(
    config: Config, model: Path | str, folder: RunFolder, name: str, note: Note
) -> dict[str, dict[str, Any]]:
    """Loads `model` and evaluates it; see `evaluate_with`."""
    engine = build_engine(config, build_policy(config, model), run_id=f"{folder.path.name}-{name}")
    return evaluate_with(config, engine, folder, name, note)


def evaluate_with(
    config: Config, engine: RolloutEngine, folder: RunFolder, name: str, note: Note
) -> dict[str, dict[str, Any]]:
    """Every split under every setting; written to evaluations/NAME.json as split → setting → result.

    The first rollout of each task is kept in evaluations/NAME/ as a trace to look at.
    """
    splits, settings = config.evaluate.splits, config.evaluate.settings
    sizes = {split: len(engine.env.tasks(split)) * config.evaluate.samples for split in splits}
    total = sum(sizes.values()) * len(settings)
    done = 0
    results: dict[str, dict[str, Any]] = {split: {} for split in splits}
    with TraceStore(folder.evaluation(name).with_suffix("")) as store:
        for split in splits:
            for setting in settings:
                mode, forbid = SETTINGS[setting]
                offset = done
                evaluation: Evaluation = evaluate(
                    engine,
                    engine.env.tasks(split),
                    mode=mode,
                    forbid=forbid,
                    samples=config.evaluate.samples,
                    ks=config.evaluate.ks,
                    seed=config.run.seed,
                    on_trace=lambda trace: store.append(trace) if trace.index == 0 else None,
                    progress=lambda n, _: note(offset + n, total, f"{split}, {setting}"),
                )
                results[split][setting] = evaluation.to_dict()
                done += sizes[split]
    # JSON has only string keys: go through it, so that callers see what readers of the file see.
    plain = json.loads(json.dumps(results))
    write_json(folder.evaluation(name), plain)
    return plain


def table(result: dict[str, dict[str, Any]]) -> Table:
    """pass@k of every split and setting, with 95 % intervals."""
    ks = sorted({k for settings in result.values() for r in settings.values() for k in r["pass_at"]}, key=int)
    made = Table("split", "setting", *(f"pass@{k}" for k in ks))
    for split, settings in result.items():
        for setting, r in settings.items():
            made.add_row(split, setting, *(_cell(r["pass_at"].get(k), r["interval"].get(k)) for k in ks))
    return made


def bars(console: Console) -> Progress:
    """Progress bars with a note behind each."""
    return Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _record(config: Config, folder: RunFolder, model: Path | str, console: Console) -> None:
    graphs = build_graphs(config)
    made_of = manifest(graphs, model)
    write_text(folder.config, dump(config))
    write_json(folder.manifest, made_of)
    write_json(folder.graph, drawing(graphs.graph))
    for name, part in made_of["files"].items():
        console.print(f"{name:<20} {part['fingerprint']}  {part['file']}", highlight=False, soft_wrap=True)
