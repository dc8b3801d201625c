"""Row sources: where a trainer's rows come from, and what they are made with.

A trainer pulls: `rows(step)` gives the rows of one rollout step, `updated(version)` says that the weights have
moved. `TraceSource` is one source; a seat at `aipo.train.peers.coordinator` is another.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console
from transformers import PreTrainedModel

from aipo.config.build import Experiment
from aipo.config.build_policy import SyncedPolicy
from aipo.config.fit import warnings
from aipo.errors import TrainError
from aipo.method.credit import Credited
from aipo.method.step_rows import StepRows
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.agent_logprobs import check_scorers
from aipo.rollout.branching.waves import Grow
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.run_limits import commonest_error
from aipo.rollout.spec import RolloutSpec
from aipo.rollout.workers.pool import open_workers
from aipo.run import RunFolder, keep_tokenizer
from aipo.trace import Trace
from aipo.trace.store import TraceStore
from aipo.train.ranks import SINGLE_PROCESS, FullWeights, Ranks, full_weights
from aipo.train.rehearsal import NOTHING, Rehearsal, prepare, rehearsal_of
from aipo.util.console import Note, print_warning
from aipo.util.event_loop import LOOP


class RowSource(Protocol):
    """The seam between rollouts and the trainer."""

    @property
    def shared(self) -> bool:
        """Whether several trainers of this process wait for each other here."""
        ...

    def rows(self, step: int) -> StepRows:
        """The rows of rollout step `step`, counted from 0; called once for each."""
        ...

    def updated(self, version: int) -> None:
        """The weights are now `version` optimizer steps old; called once before training as well."""
        ...


@dataclass(kw_only=True)
class TraceSource:
    """Rows from the traces of a rollout step, which are new (live) or were recorded (offline training).

    Args:
        traces: rollout step → its traces. Behaviour log-probs are taken as they are.
        credit: gives advantages.
        keep: called with the rollout step and all its traces, once they have their advantages.
        make: credited traces and metrics of the step → its rows.
        advance: tells the policy its version.
        rehearsal: gives what is learned beside them.

    Raises:
        TrainError: every rollout of a step failed; with the most frequent reason.
    """

    traces: Callable[[int], Sequence[Trace]]
    credit: Callable[[Sequence[Trace]], Credited]
    keep: Callable[[int, Sequence[Trace]], None]
    make: Callable[[Credited, Mapping[str, float]], StepRows]
    advance: Callable[[int], None]
    shared: bool = False
    rehearsal: Callable[[], Rehearsal] = lambda: NOTHING

    def rows(self, step: int) -> StepRows:
        started = time.perf_counter()
        credited = self.credit(self.traces(step))
        traces = credited.traces
        self.keep(step, traces)
        if traces and all(trace.reward is None for trace in traces):
            raise TrainError(
                f"rollouts of step {step}: got {len(traces)} failed ones, allowed at least one with a reward. "
                f"{commonest_error(traces)}"
            )
        rows = self.make(credited, {"seconds/rows": time.perf_counter() - started})
        return self.rehearsal().beside(rows, step)

    def updated(self, version: int) -> None:
        self.advance(version)


Sampler = tuple[SyncedPolicy, RolloutEngine]
"""Of the main process: the policy that samples, and what makes rollouts with it."""


class Course:
    """What a run learns from: by default, what its plan has the policy sample. `aipo warmup` has another one.

    Args:
        command: that makes such runs.
    """

    def __init__(self, experiment: Experiment, command: str = "train") -> None:
        self.experiment, self.command = experiment, command

    def check(self) -> None:
        """Refuses what cannot work, before anything is made."""

    def specs(self, step: int) -> list[RolloutSpec]:
        """The rollouts of a rollout step."""
        return self.experiment.plan(self.experiment.tasks(step), step)

    def growth(self, vocabulary: int) -> Grow | None:
        """What says which rollouts a group gets next, given how many ids the tokenizer has; None = groups do not grow."""
        return self.experiment.growth(vocabulary)

    def engine(self, engine: RolloutEngine) -> RolloutEngine:
        """What makes these rollouts, given what makes the policy's own."""
        return engine

    def collected(self, traces: Sequence[Trace], engine: RolloutEngine) -> None:
        """Looks at the rollouts of a step before the policy is trained on them.

        Args:
            engine: makes the policy's own rollouts.
        """

    def trained(self, sampler: Sampler) -> None:
        """Looks at the trained policy."""


def live_source(
    course: Course,
    folder: RunFolder,
    sampler: Sampler,
    rollouts: Note,
    warn: Callable[[str], None],
    store: TraceStore,
) -> TraceSource:
    """Rows from the rollouts of a course, made as they are needed.

    Args:
        rollouts: told how many are done.
        warn: told, once, that the policy never asks.
        store: keeps their traces.
    """
    (policy, engine), experiment = sampler, course.experiment
    guard, maker = experiment.guards(folder.spending, warn), course.engine(engine)
    tags, grow = experiment.tags(policy.policy.tokenizer), course.growth(len(policy.policy.tokenizer))

    cached: dict[str, float] = {}

    def on_trace(trace: Trace) -> None:
        store.append(trace)
        guard(trace)

    def roll_out(step: int) -> list[Trace]:
        policy.refresh()
        prepare(experiment, folder, policy.policy, rollouts)
        specs, text = course.specs(step), f"step {step + 1}"
        traces = maker.run_sync(specs, on_trace, lambda done, total: rollouts(done, total, text), grow)
        count = len({(trace.group_id, trace.index) for trace in traces})
        rollouts(count, count, f"{text}, training on them")
        if grow is not None and (share := getattr(policy.policy, "cached_share", None)) is not None:
            cached["cached"] = share
        course.collected(traces, engine)
        policy.finish()  # or the step would learn from the few rollouts that were over by then
        return traces

    return TraceSource(
        traces=roll_out,
        credit=experiment.credit,
        keep=store.seal,
        make=lambda credited, metrics: experiment.rows(credited, tags, {**metrics, **cached}),
        advance=policy.advance,
        rehearsal=cache(partial(rehearsal_of, experiment, folder, policy.policy.tokenizer)),
    )


class LoadedPolicy(NamedTuple):
    """A policy that is to be trained. `full`: its weights as rank 0 has them."""

    network: PreTrainedModel
    tokenizer: HFTokenizer
    full: FullWeights


def load_policy(
    course: Course, folder: RunFolder, model: Path | str, console: Console, ranks: Ranks = SINGLE_PROCESS
) -> LoadedPolicy:
    """Loads the policy, warns of what does not fit it, and keeps its tokenizer in the run's folder."""
    experiment = course.experiment
    tokenizer = experiment.tokenizer(model)
    network = experiment.adapted(experiment.network(model, device=ranks.home), tokenizer)
    full = full_weights(network, ranks)

    def on_main() -> None:
        parameters = sum(one.numel() for one in network.parameters())
        for line in warnings(experiment, tokenizer, parameters, supervised=course.command != "train"):
            print_warning(console, line)
        keep_tokenizer(folder, tokenizer.inner.save_pretrained)

    ranks.on_main(on_main)
    return LoadedPolicy(network, tokenizer, full)


def open_sampler(
    experiment: Experiment,
    folder: RunFolder,
    model: Path | str,
    full: FullWeights,
    tokenizer: HFTokenizer,
    stack: ExitStack,
) -> Sampler:
    policy = stack.enter_context(experiment.open_policy(full.network, tokenizer, folder.path))
    engine = experiment.engine(policy.policy, run_id=folder.path.name)
    LOOP.run(check_scorers(engine.chats, tokenizer))
    builds = experiment.worker_builds(model, policy.policy, engine.run_id)
    return policy, stack.enter_context(open_workers(builds, engine))
