"""An exam: every split under every setting, alone and with agents, written into a run folder."""

from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aipo.compose import build_engine, build_graphs, build_model, build_policy
from aipo.config import Config, load_config
from aipo.evaluate import evaluate
from aipo.progress import Note, bars, stage
from aipo.rollout import RolloutEngine, settle
from aipo.run import RunFolder, write_json
from aipo.store import TraceStore
from aipo.trace import Mode, Trace

SETTINGS: dict[str, tuple[Mode, bool]] = {
    "solo": (Mode.SOLO, False),
    "forbid": (Mode.SOLO, True),
    "assisted": (Mode.ASSISTED, False),
}


def evaluate_folder(
    run: Path | None, config_name: str, overrides: Iterable[str], *, name: str, console: Console
) -> None:
    """Evaluates the policy of a run folder, or the untrained one of a configuration."""
    with bars(console) as progress:
        if run is not None:
            folder = RunFolder.open(run)
            config = load_config(str(folder.config), overrides)
            model: Path | str = folder.model
        else:
            config = load_config(config_name, overrides)
            folder = RunFolder(config.run.out)
            model = build_model(config, stage(progress, "policy"))
        result = evaluate_policy(config, model, folder, name, stage(progress, "evaluate"))
    console.print(table(result))
    console.print(f"written to {folder.evaluation(name)}", highlight=False, soft_wrap=True)


def evaluate_policy(
    config: Config, model: Path | str, folder: RunFolder, name: str, note: Note
) -> dict[str, dict[str, Any]]:
    """Loads `model` and evaluates it; see `evaluate_with`."""
    policy = build_policy(config, model)
    engine = build_engine(config, build_graphs(config), policy, run_id=f"{folder.path.name}-{name}")
    settle()
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

        def keep_first(trace: Trace) -> None:
            if trace.index == 0:
                store.append(trace)

        store.begin(0)
        for split, setting in product(splits, settings):
            mode, forbid = SETTINGS[setting]
            evaluation = evaluate(
                engine,
                engine.env.tasks(split),
                mode=mode,
                forbid=forbid,
                samples=config.evaluate.samples,
                ks=config.evaluate.ks,
                seed=config.run.seed,
                on_trace=keep_first,
                progress=partial(_shift, note, done, total, f"{split}, {setting}"),
            )
            results[split][setting] = evaluation.to_dict()
            done += sizes[split]
    write_json(folder.evaluation(name), results)
    return results


def _shift(note: Note, offset: int, total: int, what: str, done: int, _: int) -> None:
    note(offset + done, total, what)


def table(result: dict[str, dict[str, Any]]) -> Table:
    """pass@k of every split and setting, with 95 % intervals."""
    ks = sorted({k for settings in result.values() for r in settings.values() for k in r["pass_at"]}, key=int)
    made = Table("split", "setting", *(f"pass@{k}" for k in ks))
    for split, settings in result.items():
        for setting, r in settings.items():
            made.add_row(split, setting, *(_cell(r["pass_at"].get(k), r["interval"].get(k)) for k in ks))
    return made


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
