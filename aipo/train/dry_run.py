"""`aipo train --dry-run`: checks what a run checks before it makes anything, and says what the run would make."""

from collections.abc import Iterator

from rich.console import Console

from aipo.config.build import Experiment
from aipo.config.fit import misfits
from aipo.run import RunFolder
from aipo.train.peers.run import check_all
from aipo.train.ranks import SINGLE_PROCESS
from aipo.train.resume import take_up
from aipo.train.run import check
from aipo.util.output import write_event


def dry_run(experiment: Experiment, *, resume: bool, evaluate_after: bool, console: Console) -> None:
    """Makes no folder, builds no policy and asks no server.

    Raises:
        AipoError: what `train_run` would raise before it makes anything.
    """
    folder = RunFolder(experiment.out)
    if resume:
        take_up(folder, experiment)
    alone = {name: experiment.of_policy(name) for name in experiment.peers}
    if alone:
        check_all(experiment, alone, folder, resume=resume)
    else:
        check(experiment, folder, SINGLE_PROCESS, resume=resume)
    for name, text in _plan(experiment, folder, resume=resume, evaluate_after=evaluate_after):
        console.print(f"{name:<12} {text}", highlight=False, markup=False, soft_wrap=True)
    console.print("nothing was made", highlight=False)
    write_event(console, "finished", command="train --dry-run", run=str(folder.path))


def _plan(
    experiment: Experiment, folder: RunFolder, *, resume: bool, evaluate_after: bool
) -> Iterator[tuple[str, str]]:
    train, rollout, evaluation = experiment.train, experiment.rollout, experiment.evaluation
    yield from (("dropped", line) for line in experiment.dropped)
    yield from (("warning", str(one)) for one in misfits(experiment))
    yield "run folder", f"{folder.path}, {'continued' if resume else 'new'}"
    for name in experiment.peers or ("policy",):
        policy = (experiment.of_policy(name) if experiment.peers else experiment).policy
        yield name, f"{policy.model}, sampled by the engine {policy.engine}"
    yield "graph", f"{experiment.graph_name} with agents {', '.join(experiment.agents) or 'none'}"
    shares = ", ".join(f"{split} {share:g}" for split, share in experiment.mixture.items())
    yield "tasks", f"{experiment.env_name}: {shares}"
    count = train.steps * train.tasks_per_step * train.group_size
    yield (
        "rollouts",
        f"{train.steps} rollout steps x {train.tasks_per_step} tasks x {train.group_size} = {count:,}, "
        f"at most {rollout.max_tokens} tokens each",
    )
    yield (
        "updates",
        f"{train.steps} x {train.optimizer_steps} optimizer steps, learning rate {train.learning_rate:g}",
    )
    every = train.save_every
    yield (
        "checkpoints",
        "none" if every is None else f"every {every} rollout steps ({train.steps // every} in all)",
    )
    if evaluate_after:
        tasks = sum(len(experiment.env.tasks(split)) for split in evaluation.splits)
        yield (
            "evaluation",
            f"{', '.join(evaluation.splits)}: {tasks} tasks x {evaluation.samples} rollouts x "
            f"{len(evaluation.settings)} ({', '.join(evaluation.settings)})",
        )
    for name, file in experiment.graphs.files.items():
        yield "file", f"{name} {experiment.graphs.fingerprints[name]} {file}"
