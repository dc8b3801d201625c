"""Running a configuration: train, evaluate, leave a run folder."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from aipo.config.build import (
    Graphs,
    build,
    build_engine,
    build_env,
    build_graphs,
    build_guards,
    drawing,
    manifest,
)
from aipo.config.build_chat import scored_chats
from aipo.config.build_method import credit_of, loss_settings, plan_of, scored_again
from aipo.config.build_policy import adapted, build_model, build_network, build_tokenizer
from aipo.config.build_sampler import SyncedPolicy, open_policy
from aipo.config.load import Config, dump
from aipo.errors import ConfigError
from aipo.evaluate.run import evaluate_with, table
from aipo.method.plan import draw_tasks
from aipo.rollout.agent_logprobs import check_scorers
from aipo.rollout.demonstration import check_demonstrations
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.env import Env
from aipo.rollout.spec import RolloutSpec
from aipo.rollout.workers.pool import open_workers
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.ranks import SINGLE_PROCESS, RankedSource, Ranks, join, leave
from aipo.train.resume import generation_of, last_checkpoint, same_run, where_from
from aipo.train.whole import FullWeights, full_weights
from aipo.util.console import Note, bars, stage
from aipo.util.event_loop import LOOP
from aipo.util.files import disk, exclusive, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aipo.policies.tokenizer import HFTokenizer
    from aipo.train.sources import LiveSource, RowSource


def train_run(config: Config, *, resume: bool, evaluate_after: bool, console: Console) -> None:
    """Trains what `config` says into `config.run.out`.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    ranks = join(cpu=config.policy.device == "cpu")
    folder, console = RunFolder(config.run.out), console if ranks.is_main else Console(quiet=True)
    with ExitStack() as held:
        # Whatever is wrong with the configuration is said before the folder is taken and the policy is made.
        graphs = ranks.on_main(lambda: _checked(config, folder, ranks, resume=resume))
        ranks.on_main(lambda: _take(folder, held, resume=resume))
        progress = held.enter_context(bars(console))
        model = ranks.broadcast(lambda: _begin(config, graphs, folder, progress, console, resume=resume))
        network = adapted(config, build_network(config, model, device=ranks.home))
        whole, tokenizer = full_weights(network, ranks), build_tokenizer(model)
        ranks.on_main(lambda: keep_tokenizer(folder, tokenizer.inner.save_pretrained))
        sampler = ranks.on_main(
            lambda: held.enter_context(open_policy(config, whole.network, tokenizer, folder.path))
        )
        engine = ranks.on_main(lambda: _build(config, graphs, folder, sampler, model, held))
        train_policy(
            config,
            folder,
            network,
            tokenizer,
            partial(_live_source, config, folder, sampler, engine),
            stage(progress, "train"),
            resume=resume,
            ranks=ranks,
            whole=whole,
        )
        if evaluate_after:
            note = stage(progress, "evaluate")
            ranks.on_main(lambda: _evaluate(config, sampler, engine, folder, note, console))
    console.print(f"run folder {folder.path}", highlight=False, soft_wrap=True)
    leave(ranks)


def _checked(config: Config, folder: RunFolder, ranks: Ranks, *, resume: bool) -> Graphs:
    if ranks.sharded and config.policy.engine == "local":
        raise ConfigError(
            "policy.engine: got local and weights that are sharded over processes, allowed vllm (no process has all "
            "the weights that it would have to sample with), or data parallelism"
        )
    if ranks.sharded and config.policy.vllm.sync == "nccl":
        raise ConfigError(
            "policy.vllm.sync: got nccl and weights that are sharded over processes, allowed disk"
        )
    if resume:
        same_run(RunFolder.open(folder.path), config)
    graphs = build_graphs(config)
    scored_chats(config, graphs.chats)
    check_env(config, build_env(config))
    return graphs


def _take(folder: RunFolder, held: ExitStack, *, resume: bool) -> None:
    RunFolder.create(folder.path, resume=resume)
    held.enter_context(exclusive(folder.path))


def _begin(
    config: Config, graphs: Graphs, folder: RunFolder, progress: Progress, console: Console, *, resume: bool
) -> Path | str:
    if resume:
        console.print(where_from(folder, config.train.updates), highlight=False, soft_wrap=True)
    model = build_model(config, stage(progress, "policy"))
    _record(config, graphs, folder, model, console)
    return model


def _build(
    config: Config,
    graphs: Graphs,
    folder: RunFolder,
    sampler: SyncedPolicy,
    model: Path | str,
    held: ExitStack,
) -> RolloutEngine:
    built = build_engine(config, graphs, sampler.policy, run_id=folder.path.name)
    LOOP.run(check_scorers(built.chats, sampler.policy.tokenizer))
    return held.enter_context(
        open_workers(build(config).worker_builds(model, sampler.policy, built.run_id), built)
    )


def _evaluate(
    config: Config,
    sampler: SyncedPolicy,
    engine: RolloutEngine,
    folder: RunFolder,
    note: Note,
    console: Console,
) -> None:
    sampler.refresh()
    console.print(table(evaluate_with(config, engine, folder, "after", note)))


def check_env(config: Config, env: Env) -> None:
    """Refuses a configuration that asks for splits or demonstrations which the environment does not have.

    Raises:
        ConfigError: names the splits, or says which one is too large for a step; or there are no demonstrations.
        TaskError: of some task there is none.
    """
    for key, names in (("env.mixture", config.env.mixture), ("evaluate.splits", config.evaluate.splits)):
        unknown = [name for name in names if name not in env.splits()]
        if unknown:
            raise ConfigError(f"{key}: got {unknown}, allowed {list(env.splits())}")
    draw_tasks(env, config.env.mixture, config.train.tasks_per_step, step=0, seed=config.run.seed)
    if config.method.plan == "expert":
        check_demonstrations(env, config.env.mixture)


def train_policy(
    config: Config,
    folder: RunFolder,
    network: "PreTrainedModel",
    tokenizer: "HFTokenizer",
    make_source: "Callable[[TraceStore], RowSource]",
    note: Note,
    *,
    resume: bool,
    ranks: Ranks = SINGLE_PROCESS,
    whole: FullWeights | None = None,
) -> None:
    """Trains `network` in place and saves it; the loop itself is TRL's.

    Args:
        make_source: where the rows come from, given where their traces are kept; for rank 0.
        ranks: the processes that train it together, each with a network of its own.
        whole: the network as rank 0 has it; by default the one that is trained.

    Raises:
        TrainError: settings that contradict each other, or a loss that is not finite.
    """
    from aipo.policies.weights import save_snapshot
    from aipo.trace.token_stats import TokenStatsStore
    from aipo.train.callbacks import Follow
    from aipo.train.schedule import train_arguments
    from aipo.train.trainer import AIPOTrainer

    train, method = config.train, config.method
    whole = whole or full_weights(network, ranks)
    token_stats = TokenStatsStore(folder.token_stats)
    store = TraceStore(folder.traces, decode=tokenizer.decode)

    def begin() -> Path | None:
        checkpoint = last_checkpoint(folder) if resume else None
        store.begin(generation_of(checkpoint, train.updates))
        token_stats.begin(generation_of(checkpoint, train.updates))
        return checkpoint

    with disk("training", folder.path), store:
        checkpoint = ranks.broadcast(begin)
        trainer = AIPOTrainer(
            network,
            train_arguments(config, folder.checkpoints, cpu=(ranks.device or network.device.type) == "cpu"),
            RankedSource(ranks=ranks, source=ranks.on_main(lambda: make_source(store)), gather=whole.gather),
            loss_settings(config),
            tokenizer=tokenizer.inner,
            recompute=scored_again(config),
            max_mismatch=method.max_mismatch,
            scale_by_active=method.scale_by_active,
            metrics_file=folder.metrics,
            on_token_stats=token_stats.publish if train.token_stats else None,
            callbacks=[Follow(note, train.steps, train.updates)],
            ranks=ranks,
        )
        freeze_gc()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with disk("saving the policy", folder.path):
        whole.gather()
        ranks.on_main(lambda: save_snapshot(whole.network, folder.model))
        ranks.on_main(lambda: tokenizer.inner.save_pretrained(folder.model))


def _live_source(
    config: Config, folder: RunFolder, sampler: SyncedPolicy, engine: RolloutEngine, store: TraceStore
) -> "LiveSource":
    from aipo.train.sources import LiveSource

    watch = build_guards(config, folder.spending)

    def keep_and_watch(trace: Trace) -> None:
        store.append(trace)
        watch(trace)

    def run(specs: list[RolloutSpec], on_trace: Callable[[Trace], None]) -> list[Trace]:
        traces = engine.run_sync(specs, on_trace)
        sampler.check()  # or the step would learn from the few rollouts that were over by then
        return traces

    method, count, seed = config.method, config.train.tasks_per_step, config.run.seed
    draw = partial(draw_tasks, engine.env, config.env.mixture, count, seed=seed)
    return LiveSource(
        draw=lambda step: draw(step=step),
        plan=plan_of(config),
        run=run,
        credit=credit_of(config),
        keep=store.seal,
        advance=sampler.advance,
        refresh=sampler.refresh,
        distilled=method.distil_weight > 0,
        tag_ids=engine.forbidden_ids,
        suppress=method.distil_suppress,
        agents=tuple(config.agents),
        on_trace=keep_and_watch,
    )


def _record(config: Config, graphs: Graphs, folder: RunFolder, model: Path | str, console: Console) -> None:
    made_of = manifest(config, graphs, model)
    write_text(folder.config, dump(config))
    write_json(folder.manifest, made_of)
    write_json(folder.graph, drawing(graphs.graph))
    for name, part in made_of["files"].items():
        console.print(f"{name:<20} {part['fingerprint']}  {part['file']}", highlight=False, soft_wrap=True)
