"""Running a configuration: train, evaluate, leave a run folder."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aipo.compose import (
    Graphs,
    build_engine,
    build_env,
    build_graphs,
    build_guards,
    drawing,
    manifest,
)
from aipo.config import Config, dump, load_config
from aipo.errors import ConfigError
from aipo.exam import evaluate_with, table
from aipo.method import credit_of, loss_settings, scored_again, train_arguments
from aipo.models import build_model, build_network, build_tokenizer
from aipo.plan import PLANS, draw_tasks
from aipo.progress import Note, bars, stage
from aipo.rollout import RolloutEngine, settle
from aipo.run import RunFolder, alone, disk, keep_tokenizer, write_json, write_text
from aipo.sampler import Sampler, open_sampler
from aipo.store import TraceStore
from aipo.task import Env
from aipo.trace import Trace
from aipo.workers import open_workers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from aipo.policies.tokenizer import HFTokenizer
    from aipo.source import LiveSource, RowSource

_MAY_CHANGE = (
    "run.out",
    "run.threads",
    "run.report_to",
    "train.save_every",
    "train.lessons",
    "rollout.spending_limit",
    "rollout.outage_limit",
    "rollout.concurrency",
    "rollout.workers",
    "method.max_drift",
    "evaluate.",
)
"""Settings that a resumed run may change: none of them changes what is learned."""


def train_run(config: Config, *, resume: bool, evaluate_after: bool, console: Console) -> None:
    """Trains what `config` says into `config.run.out`.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    folder = RunFolder(config.run.out)
    if resume:
        same_run(RunFolder.open(folder.path), config)
    # Whatever is wrong with the configuration is said before the folder is taken and the policy is made.
    graphs, env = build_graphs(config), build_env(config)
    _check_splits(config, env)
    RunFolder.create(folder.path, resume=resume)
    with alone(folder.path), bars(console) as progress:
        if resume:
            console.print(_where_from(folder, config.train.minibatches), highlight=False, soft_wrap=True)
        model = build_model(config, stage(progress, "policy"))
        _record(config, graphs, folder, model, console)
        network, tokenizer = build_network(config, model), build_tokenizer(model)
        keep_tokenizer(folder, tokenizer.inner.save_pretrained)
        with ExitStack() as stack:
            sampler = stack.enter_context(open_sampler(config, network, tokenizer, folder.path))
            built = build_engine(config, graphs, sampler.policy, run_id=folder.path.name)
            engine = stack.enter_context(open_workers(config, built, model))
            source = partial(_live_source, config, folder, sampler, engine)
            note = stage(progress, "train")
            train_policy(config, folder, network, tokenizer, source, note, resume=resume)
            if evaluate_after:
                sampler.refresh()
                result = evaluate_with(config, engine, folder, "after", stage(progress, "evaluate"))
                console.print(table(result))
    console.print(f"run folder {folder.path}", highlight=False, soft_wrap=True)


def _where_from(folder: RunFolder, minibatches: int) -> str:
    checkpoint = _last_checkpoint(folder)
    if checkpoint is None:
        return "no checkpoint yet: from the start; traces so far are set aside in traces/__superseded"
    step = _generation(checkpoint, minibatches)
    return f"from {checkpoint.name}, step {step}; later traces are set aside in traces/__superseded"


def same_run(folder: RunFolder, config: Config) -> None:
    """Refuses to go on with other settings than those that the run began with.

    Raises:
        ConfigError: names the settings that differ.
    """
    before, now = (_flat(c.model_dump(mode="json")) for c in (load_config(str(folder.config)), config))
    keys = sorted(before.keys() | now.keys())
    changed = [k for k in keys if not k.startswith(_MAY_CHANGE) and before.get(k) != now.get(k)]
    if changed:
        differences = "; ".join(f"{k}: {now.get(k)!r}, was {before.get(k)!r}" for k in changed)
        raise ConfigError(
            f"--resume with other settings: got {differences}, allowed those of {folder.config} "
            f"(--config {folder.config} takes them all)"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _check_splits(config: Config, env: Env) -> None:
    for key, names in (("env.mixture", config.env.mixture), ("evaluate.splits", config.evaluate.splits)):
        unknown = [name for name in names if name not in env.splits()]
        if unknown:
            raise ConfigError(f"{key}: got {unknown}, allowed {list(env.splits())}")
    draw_tasks(env, config.env.mixture, config.train.tasks_per_step, step=0, seed=config.run.seed)


def train_policy(
    config: Config,
    folder: RunFolder,
    network: "PreTrainedModel",
    tokenizer: "HFTokenizer",
    make_source: "Callable[[TraceStore], RowSource]",
    note: Note,
    *,
    resume: bool,
) -> None:
    """Trains `network` in place and saves it; the loop itself is TRL's.

    Args:
        make_source: where the rows come from, given where their traces are kept.

    Raises:
        TrainError: settings that contradict each other, or a loss that is not finite.
    """
    from aipo.lesson import LessonStore
    from aipo.trainer import AIPOTrainer

    train, method = config.train, config.method
    checkpoint = _last_checkpoint(folder) if resume else None
    lessons = LessonStore(folder.lessons)
    store = TraceStore(folder.traces, decode=tokenizer.decode)
    with disk("training", folder.path), store:
        store.begin(_generation(checkpoint, train.minibatches))
        lessons.begin(_generation(checkpoint, train.minibatches))
        trainer = AIPOTrainer(
            network,
            train_arguments(config, folder.checkpoints, cpu=network.device.type == "cpu"),
            make_source(store),
            loss_settings(config),
            tokenizer=tokenizer.inner,
            recompute=scored_again(config),
            max_drift=method.max_drift,
            scale_by_active=method.scale_by_active,
            metrics_file=folder.metrics,
            on_lessons=lessons.publish if train.lessons else None,
            callbacks=[_follow(note, train.steps, train.minibatches)],
        )
        settle()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with disk("saving the policy", folder.path):
        network.save_pretrained(folder.model)
        tokenizer.inner.save_pretrained(folder.model)


def _live_source(
    config: Config, folder: RunFolder, sampler: Sampler, engine: RolloutEngine, store: TraceStore
) -> "LiveSource":
    from aipo.source import LiveSource

    watch = build_guards(config, folder.spending)

    def keep_and_watch(trace: Trace) -> None:
        store.append(trace)
        watch(trace)

    method, train, seed = config.method, config.train, config.run.seed
    draw = partial(draw_tasks, engine.env, config.env.mixture, train.tasks_per_step, seed=seed)
    plan = partial(
        PLANS[method.plan],
        group_size=train.group_size,
        assist_share=method.assist_share,
        forbid_share=method.forbid_share,
        seed=seed,
    )
    return LiveSource(
        draw=lambda step: draw(step=step),
        plan=lambda tasks, step: plan(tasks, step=step),
        run=engine.run_sync,
        credit=credit_of(config),
        keep=store.seal,
        advance=sampler.advance,
        refresh=sampler.refresh,
        distilled=method.distil > 0,
        tag_ids=engine.forbidden_ids,
        forbid=method.distil_forbid,
        agents=tuple(config.agents),
        on_trace=keep_and_watch,
    )


def _last_checkpoint(folder: RunFolder) -> Path | None:
    """The newest checkpoint; None when the run stopped before its first one, and begins anew."""
    from transformers.trainer_utils import get_last_checkpoint

    last = get_last_checkpoint(str(folder.checkpoints)) if folder.checkpoints.is_dir() else None
    return Path(last) if last else None


def _generation(checkpoint: Path | None, minibatches: int) -> int:
    """The generation that training starts with; checkpoints are named after optimiser steps."""
    return int(checkpoint.name.rpartition("-")[2]) // minibatches if checkpoint else 0


def _follow(note: Note, steps: int, minibatches: int) -> "TrainerCallback":
    from transformers import TrainerCallback

    shown = ("reward/solo", "reward/assisted", "reward/forbidden", "active_share")

    class Follow(TrainerCallback):
        """Moves the progress bar and shows a generation's rewards."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            parts = [f"{name.rpartition('/')[2]} {logs[name]:.2f}" for name in shown if name in (logs or {})]
            if parts:
                note(-(-state.global_step // minibatches), steps, "  ".join(parts))

    return Follow()


def _record(config: Config, graphs: Graphs, folder: RunFolder, model: Path | str, console: Console) -> None:
    made_of = manifest(graphs, model)
    write_text(folder.config, dump(config))
    write_json(folder.manifest, made_of)
    write_json(folder.graph, drawing(graphs.graph))
    for name, part in made_of["files"].items():
        console.print(f"{name:<20} {part['fingerprint']}  {part['file']}", highlight=False, soft_wrap=True)
