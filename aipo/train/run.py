"""Training a configuration: take the folder, build, train, save, evaluate."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import ConfigError
from aipo.evaluate.run import evaluate_with
from aipo.evaluate.tables import table
from aipo.rollout.engine import freeze_gc
from aipo.run import RunFolder, recorded_end
from aipo.trace.store import TraceStore
from aipo.train.checkpoints import rollout_step_of, tidy
from aipo.train.ranks import SINGLE_PROCESS, FullWeights, RankedSource, Ranks, full_weights, join, leave
from aipo.train.resume import go_on_from, same_run, take_up
from aipo.util.console import Note, bars, print_line, print_warning, stage
from aipo.util.files import disk, write_json, write_text
from aipo.util.output import write_event
from aipo.util.termination import TERMINATION
from aipo.util.whole import written_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aipo.policies.tokenizer import HFTokenizer
    from aipo.train.sources import Course, RowSource, Sampler


def train_run(
    experiment: Experiment,
    *,
    resume: bool,
    evaluate_after: bool,
    console: Console,
    course: "Course | None" = None,
) -> None:
    """Trains an experiment's policy and leaves its run folder.

    Args:
        course: what it learns from; None = as its plan says.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    ranks = join(cpu=experiment.policy.device == "cpu", autocast=experiment.train.autocast)
    folder, console = RunFolder(experiment.out), console if ranks.is_main else Console(quiet=True)
    with ExitStack() as stack:
        if resume:
            take_up(folder, experiment)
        ranks.on_main(lambda: check(experiment, folder, ranks, resume=resume, course=course))
        ranks.on_main(lambda: stack.enter_context(RunFolder.taken(folder.path, resume=resume)))
        from aipo.train.sources import Course, live_source, load_policy, open_sampler  # torch takes its time

        course = course or Course(experiment)
        progress = stack.enter_context(bars(console))
        checkpoint = ranks.broadcast(lambda: go_on_from(folder, experiment, console) if resume else None)
        model = ranks.broadcast(lambda: experiment.build_model(stage(progress, experiment.policy.making)))
        ranks.on_main(lambda: check_rows_of_tags(experiment, model, ranks))
        ranks.on_main(lambda: record(experiment, folder, model, console, course.command))
        write_event(
            console, "started", command=course.command, run=str(folder.path), steps=experiment.train.steps
        )
        ranks.on_main(lambda: stack.enter_context(recorded_end(folder)))
        note, rollouts = stage(progress, "train", lines=None), stage(progress, "rollouts", lines=0)
        note(0, experiment.train.steps, "loading the policy")
        network, tokenizer, full = load_policy(course, folder, model, console, ranks)
        sampler = ranks.on_main(lambda: open_sampler(experiment, folder, model, full, tokenizer, stack))
        train_policy(
            experiment,
            folder,
            network,
            tokenizer,
            partial(
                live_source,
                course,
                folder,
                sampler,
                rollouts,
                partial(print_warning, console),
            ),
            note,
            lambda step, path: write_event(console, "checkpoint", step=step, folder=str(path)),
            checkpoint=checkpoint,
            ranks=ranks,
            full=full,
        )
        ranks.on_main(lambda: course.trained(sampler))
        if evaluate_after:
            ranks.on_main(TERMINATION.check)
            note = stage(progress, "evaluate")
            ranks.on_main(lambda: evaluate_trained(experiment, folder, sampler, note, console))
    print_line(console, f"run folder {folder.path}")
    write_event(console, "finished", command=course.command, run=str(folder.path), model=str(folder.model))
    leave(ranks)


def train_policy(
    experiment: Experiment,
    folder: RunFolder,
    network: "PreTrainedModel",
    tokenizer: "HFTokenizer",
    make_source: "Callable[[TraceStore], RowSource]",
    note: Note,
    on_checkpoint: Callable[[int, Path], None] = lambda *_: None,
    *,
    checkpoint: Path | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    full: FullWeights | None = None,
) -> None:
    """Trains `network` in place and saves it; the loop itself is TRL's.

    Args:
        make_source: where the rows come from, given where their traces are kept; for rank 0.
        on_checkpoint: called with the number of rollout steps behind each checkpoint, and its folder.
        checkpoint: goes on from it; None = begins anew.
        ranks: the processes that train it together, each with a network of its own.
        full: the network as rank 0 has it; by default the one that is trained.

    Raises:
        TrainError: settings that contradict each other, or a loss that is not finite.
    """
    from aipo.trace.token_stats import TokenStatsStore
    from aipo.train.callbacks import Follow
    from aipo.train.saving import write_card
    from aipo.train.schedule import train_arguments
    from aipo.train.trainer import AIPOTrainer

    train = experiment.train
    full = full or full_weights(network, ranks)
    token_stats = TokenStatsStore(folder.token_stats)
    store = TraceStore(folder.traces, decode=tokenizer.decode)

    def begin() -> None:
        step = rollout_step_of(checkpoint, train.optimizer_steps)
        store.begin(step)
        token_stats.begin(step)

    def described(draft: Path) -> None:
        write_card(draft, folder, experiment, rollout_step_of(draft, train.optimizer_steps))

    def saved(path: Path) -> None:
        tidy(folder, keep_weights=train.keep_weights)
        on_checkpoint(rollout_step_of(path, train.optimizer_steps), path)

    with TERMINATION.held(), disk("training", folder.path), store:
        ranks.on_main(begin)
        cpu = (ranks.device or network.device.type) == "cpu"
        trainer = AIPOTrainer(
            network,
            train_arguments(experiment, folder.checkpoints, cpu=cpu),
            RankedSource(ranks=ranks, source=ranks.on_main(lambda: make_source(store)), gather=full.gather),
            experiment.method,
            tokenizer=tokenizer.inner,
            scores_again=experiment.scores_again,
            metrics_file=folder.metrics,
            on_token_stats=token_stats.publish if train.token_stats else None,
            on_checkpoint=described,
            on_saved=saved,
            callbacks=[Follow(note, train.steps, train.optimizer_steps)],
            ranks=ranks,
        )
        freeze_gc()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with TERMINATION.held():
        full.gather()
        ranks.on_main(lambda: _save_model(experiment, folder, full.network, tokenizer))


def _save_model(
    experiment: Experiment, folder: RunFolder, network: "PreTrainedModel", tokenizer: "HFTokenizer"
) -> None:
    from aipo.policies.weights import save_snapshot
    from aipo.train.saving import write_card

    with written_whole(folder.model, "saving the policy") as draft:
        save_snapshot(network, draft)
        tokenizer.inner.save_pretrained(draft)
        write_card(draft, folder, experiment, experiment.train.steps)


def check(
    experiment: Experiment, folder: RunFolder, ranks: Ranks, *, resume: bool, course: "Course | None" = None
) -> None:
    """Refuses what can be known to fail before the folder is taken and the policy is made.

    Raises:
        AipoError: see `aipo.errors`.
    """
    RunFolder.check(folder.path, resume=resume)
    if ranks.sharded and experiment.policy.engine == "local":
        raise ConfigError(
            "policy.engine: got local and weights that are sharded over processes, allowed vllm (no process has all "
            "the weights that it would have to sample with), or data parallelism"
        )
    if ranks.sharded and experiment.policy.vllm.sync == "nccl":
        raise ConfigError(
            "policy.vllm.sync: got nccl and weights that are sharded over processes, allowed disk"
        )
    if resume:
        same_run(RunFolder.open(folder.path), experiment, course.command if course else "train")
    from aipo.train.rehearsal import read_prompts
    from aipo.train.schedule import check_trackers

    check_trackers(experiment.report_to)
    experiment.check_machine()
    experiment.check_servers()
    experiment.check_grants()
    experiment.scored_chats()
    experiment.check_env()
    experiment.check_model()
    if experiment.rehearsal.prompts is not None:
        read_prompts(experiment.rehearsal.prompts)
    if course:
        course.check()


def check_rows_of_tags(experiment: Experiment, model: Path | str, ranks: Ranks) -> None:
    """Refuses rows of the tags' tokens beside an adapter, if two layers share them and several processes do, too: accelerate
    does not see that the layers are tied, and would cut their weights twice.

    Raises:
        ConfigError: so it is.
    """
    beside = ranks.sharded and experiment.policy.lora is not None and experiment.added_tags
    if beside and experiment.network_settings(model).get_text_config(decoder=True).tie_word_embeddings:
        raise ConfigError(
            f"policy.add_tags: got true with policy.lora and weights that are sharded over processes, and {str(model)!r} ties "
            "its embeddings, allowed data parallelism (accelerate launch --multi_gpu), policy.lora=null, or false"
        )


def record(
    experiment: Experiment, folder: RunFolder, model: Path | str, console: Console, command: str
) -> None:
    """Writes down what a run is made of, and says which files."""
    for line in experiment.dropped:
        print_line(console, f"dropped: {line}")
    manifest = experiment.manifest(model)
    manifest["preset"] = folder.read_manifest().get("preset", manifest["preset"])  # resumed from config.yaml
    manifest["command"] = command
    write_text(folder.config, experiment.to_yaml())
    write_json(folder.manifest, manifest)
    write_json(folder.graph, experiment.drawing())
    for name, part in manifest["files"].items():
        print_line(console, f"{name:<20} {part['fingerprint']}  {part['file']}")


def evaluate_trained(
    experiment: Experiment, folder: RunFolder, sampler: "Sampler", note: Note, console: Console
) -> None:
    """Evaluates what was trained, into the run's folder."""
    policy, engine = sampler
    policy.refresh()
    warn = partial(print_warning, console)
    with folder.evaluation_taken("after"):
        results = evaluate_with([experiment], engine, folder, "after", note, warn, needs_verdict=False)
    console.print(table(results))
    write_event(console, "evaluation", file=str(folder.evaluation("after")), results=results)
