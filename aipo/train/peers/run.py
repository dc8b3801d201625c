"""Training several policies that learn together: one rollout phase for all of them, a trainer for each.

The steps are those of `aipo.train.run`, once for each policy. The folder of the run has what holds for all of them, and
in `policies/` a run folder for each: traces, metrics, checkpoints, model and evaluations are where those of a single
policy are, and everything that reads a run reads them.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aipo.config.build import Experiment
from aipo.config.build_policy import SyncedPolicy
from aipo.errors import ConfigError
from aipo.method.credit import Credited
from aipo.policies.tags import Tags
from aipo.rollout.engine import RolloutEngine
from aipo.run import RunFolder, recorded_end
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.checkpoints import last_checkpoints
from aipo.train.peers.abilities import Abilities
from aipo.train.peers.coordinator import Coordinator, Seat
from aipo.train.ranks import SINGLE_PROCESS, launched
from aipo.train.resume import take_up, where_from
from aipo.train.run import check, evaluate_trained, record, train_policy
from aipo.util.console import Note, bars, print_line, print_warning, stage
from aipo.util.output import write_event
from aipo.util.termination import TERMINATION

if TYPE_CHECKING:
    from aipo.method.step_rows import StepRows
    from aipo.train.sources import LoadedPolicy, TraceSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One of several policies that learn together.

    Args:
        experiment: with it as the only policy.
        checkpoint: goes on from it; None = begins anew.
        synced: what samples for it.
    """

    name: str
    experiment: Experiment
    folder: RunFolder
    checkpoint: Path | None
    loaded: "LoadedPolicy"
    synced: SyncedPolicy


def train_peers(experiment: Experiment, *, resume: bool, evaluate_after: bool, console: Console) -> None:
    """Trains an experiment's policies and leaves their run folder.

    Raises:
        AipoError: see `aipo.errors`; finished traces and checkpoints stay where they are.
    """
    folder = RunFolder(experiment.out)
    with ExitStack() as stack:
        if resume:
            take_up(folder, experiment)
        alone = {name: experiment.of_policy(name) for name in experiment.peers}
        check_all(experiment, alone, folder, resume=resume)
        folders = [folder, *map(folder.of_policy, experiment.peers)]
        for one in folders:
            begun = resume and one.config.is_file()
            stack.enter_context(RunFolder.taken(one.path, resume=begun))
        progress = stack.enter_context(bars(console))
        found = last_checkpoints(folders[1:]) if resume else []
        for name, one in zip(experiment.peers if resume else (), found, strict=True):
            print_line(console, f"{name}: {where_from(one, experiment.train.optimizer_steps)}")
        models = {name: one.build_model(stage(progress, name)) for name, one in alone.items()}
        record(experiment, folder, _named(models), console, "train")
        for name, one in alone.items():
            record(one, folder.of_policy(name), models[name], Console(quiet=True), "train")
        write_event(console, "started", command="train", run=str(folder.path), steps=experiment.train.steps)
        for one in folders:
            stack.enter_context(recorded_end(one))
        checkpoints = [one.path for one in found] or [None] * len(models)
        peers = [
            _open(name, alone[name], folder.of_policy(name), model, checkpoint, stack, console)
            for (name, model), checkpoint in zip(models.items(), checkpoints, strict=True)
        ]
        engine = experiment.engine({one.name: one.synced.policy for one in peers}, run_id=folder.path.name)
        rollouts = stage(progress, "rollouts", lines=0)
        phase = RolloutPhase(experiment, engine, folder, peers, rollouts, partial(print_warning, console))
        notes = {one.name: stage(progress, f"train {one.name}", lines=None) for one in peers}
        saved = partial(_tell_saved, console)
        with TERMINATION.held():
            phase.coordinator.train({one.name: partial(_train, one, phase, notes, saved) for one in peers})
        for one in peers if evaluate_after else ():
            TERMINATION.check()
            sampler = one.synced, one.experiment.engine(one.synced.policy, run_id=one.folder.path.name)
            evaluate_trained(
                one.experiment, one.folder, sampler, stage(progress, f"evaluate {one.name}"), console
            )
    print_line(console, f"run folder {folder.path}")
    models_of = {one.name: str(one.folder.model) for one in peers}
    write_event(console, "finished", command="train", run=str(folder.path), models=models_of)


def check_all(
    experiment: Experiment, alone: Mapping[str, Experiment], folder: RunFolder, *, resume: bool
) -> None:
    """Refuses what can be known to fail before the folder is taken and a policy is made.

    Raises:
        AipoError: see `aipo.errors`.
    """
    if (processes := launched()) > 1:
        raise ConfigError(
            f"policies: got {processes} processes of a launcher, allowed one with several policies"
        )
    check(experiment, folder, SINGLE_PROCESS, resume=resume)
    for one in alone.values():
        one.check_machine()
        one.check_servers()
        one.check_model()


class RolloutPhase:
    """Makes the rows of all policies, once for each rollout step.

    Args:
        rollouts: told how many rollouts are done.
        warn: told of what is odd.
    """

    def __init__(
        self,
        experiment: Experiment,
        engine: RolloutEngine,
        folder: RunFolder,
        peers: Sequence[Peer],
        rollouts: Note,
        warn: "partial[None]",
    ) -> None:
        self._experiment, self._engine, self._peers, self._rollouts = experiment, engine, peers, rollouts
        self._guard = experiment.guards(folder.spending, warn)
        self._abilities = Abilities(experiment, engine, folder.abilities, self._guard)
        self._stores: dict[str, TraceStore] = {}
        self._credited: Credited | None = None
        advance = {one.name: one.synced.advance for one in peers}
        self.coordinator = Coordinator(
            [*advance], self.rows, updated=lambda name, version: advance[name](version)
        )

    def seat(self, name: str, store: TraceStore) -> Seat:
        """The row source of one trainer, whose traces go to `store`."""
        self._stores[name] = store
        return self.coordinator.seat(name)

    def rows(self, step: int) -> "Mapping[str, StepRows]":
        """The rows of a rollout step, for each policy.

        Raises:
            Terminated: a signal to end came.
            TrainError: every rollout of a policy failed.
        """
        with TERMINATION.interruptible():
            credited = self._experiment.credit(self._roll_out(step))
        return {one.name: self._source(one, credited.of_policy(one.name)).rows(step) for one in self._peers}

    def _roll_out(self, step: int) -> list[Trace]:
        for one in self._peers:
            one.synced.refresh()
        text = f"step {step + 1}"
        abilities = self._abilities.at(
            step, lambda done, total: self._rollouts(done, total, f"{text}, abilities")
        )
        planned = self._experiment.plan(self._experiment.tasks(step), step)
        specs = [replace(spec, abilities=abilities) for spec in planned]
        traces = self._engine.run_sync(
            specs, self._keep, lambda done, total: self._rollouts(done, total, text)
        )
        self._rollouts(len(specs), len(specs), f"{text}, training on them")
        for one in self._peers:
            one.synced.finish()
        return traces

    def _keep(self, trace: Trace) -> None:
        self._stores[trace.policy].append(trace)
        self._guard(trace)

    def _source(self, peer: Peer, credited: Credited) -> "TraceSource":
        from aipo.train.sources import TraceSource  # torch takes its time

        others = [one.name for one in self._peers if one is not peer]
        return TraceSource(
            traces=lambda _: credited.traces,
            credit=lambda _: credited,
            keep=self._stores[peer.name].seal,
            make=lambda own, metrics: self._experiment.rows(own, Tags(), metrics, others),
            advance=peer.synced.advance,
        )


def _named(models: Mapping[str, Path | str]) -> str:
    return ", ".join(f"{name}: {model}" for name, model in models.items())


def _open(
    name: str,
    experiment: Experiment,
    folder: RunFolder,
    model: Path | str,
    checkpoint: Path | None,
    stack: ExitStack,
    console: Console,
) -> Peer:
    from aipo.train.sources import Course, load_policy  # torch takes its time

    loaded = load_policy(Course(experiment), folder, model, console)
    synced = stack.enter_context(experiment.open_policy(loaded.network, loaded.tokenizer, folder.path))
    return Peer(
        name=name, experiment=experiment, folder=folder, checkpoint=checkpoint, loaded=loaded, synced=synced
    )


def _train(peer: Peer, phase: RolloutPhase, notes: Mapping[str, Note], saved: "partial[None]") -> None:
    train_policy(
        peer.experiment,
        peer.folder,
        peer.loaded.network,
        peer.loaded.tokenizer,
        partial(phase.seat, peer.name),
        notes[peer.name],
        partial(saved, peer.name),
        checkpoint=peer.checkpoint,
    )


def _tell_saved(console: Console, name: str, step: int, path: Path) -> None:
    write_event(console, "checkpoint", policy=name, step=step, folder=str(path))
