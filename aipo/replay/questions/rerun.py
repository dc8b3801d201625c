"""`aipo replay check`, `score` and `graph`: recorded rollouts run again, compared with what they were."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import ConfigError, RunError
from aipo.replay.checkpoints import Choice, Weights, load_weights
from aipo.replay.engine import TracePair, vanished
from aipo.replay.output import ReplayReport, default_out, finish, list_left_out, print_left_out
from aipo.replay.questions.before_after import BeforeAfter
from aipo.replay.questions.check import NO_TRACE, Divergence, absence, divergence
from aipo.replay.recordings import Recordings
from aipo.replay.restore import Restored, prompt_files, recorded_experiment, restore
from aipo.rollout.engine import freeze_gc
from aipo.rollout.run_limits import CostLimit
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import parse_filter
from aipo.util.console import Note, bars, print_line, stage, within
from aipo.util.output import print_result
from aipo.util.text import counted

_LINES = 20
DIVERGED = 1
"""Exit code of a check that found a difference."""
_UNUSED = ("train", "method", "evaluate", "rollout.suppress_tags", "rollout.failure_limit")
"""Settings of training, and one that a rollout takes from its recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySource:
    """The traces to replay (a run, one of its evaluations, or a folder of traces), and under which configuration.

    Args:
        config: a configuration to use instead of the run's.
        prompts: a folder of prompts to use instead of those that the configuration names.
    """

    path: Path
    filters: Sequence[str] = ()
    overrides: Sequence[str] = ()
    config: Path | None = None
    prompts: Path | None = None

    def recordings(self) -> Recordings:
        """The traces; a RunError if there are none. What cannot be read may have matched: it is left out by name."""
        recordings = Recordings(path=self.path, where=parse_filter(self.filters))
        if next(iter(recordings), None) is None and not recordings.left_out:
            words = " ".join(self.filters)
            raise RunError(f"traces: got none in {recordings.folder} with {words}, allowed one or more")
        return recordings

    def experiment(self, recordings: Recordings, *, live: bool = False) -> Experiment:
        """The experiment to replay with; a ConfigError for an override that would change nothing."""
        for word in self.overrides:
            key = word.partition("=")[0]
            if any(f"{key}.".startswith(f"{name}.") for name in _UNUSED):
                raise ConfigError(
                    f"setting to run recorded rollouts again with: got {key!r}, which changes nothing here "
                    "(forbidden tokens are those of each recording, and nothing is learned), "
                    f"allowed any but {', '.join(_UNUSED)}"
                )
        words = self.overrides
        if self.prompts is not None:
            files = prompt_files(recorded_experiment(recordings, words, file=self.config), self.prompts)
            prompts = [f"{key}={json.dumps(str(file.resolve()))}" for key, file in files.items()]
            words = [*prompts, *words]
        return recorded_experiment(recordings, words, file=self.config, live=live)


def check_traces(source: ReplaySource, console: Console) -> int:
    """Runs every trace through its own graph again, with no model to ask. The exit code."""
    recordings = source.recordings()
    restored = restore(recordings, source.experiment(recordings), run_id=f"{recordings.run.path.name}-check")
    divergences: list[Divergence] = []
    changed: set[str] = set()
    files, count, began = restored.built.graphs.fingerprints, 0, time.perf_counter()
    with bars(console) as progress:
        for traces, pairs in _walk(restored, stage(progress, "check"), lambda _: None):
            count += len(traces)
            divergences += [d for d in map(divergence, _of(traces, pairs)) if d]
            divergences += map(absence, vanished(traces, pairs))
            for trace in traces:
                changed |= {
                    name for name, then in trace.fingerprints.items() if files.get(name, then) != then
                }
    _print_check(count, divergences, changed, time.perf_counter() - began, console)
    code = print_left_out(recordings, console)
    result = {
        "question": "check",
        "traces": count,
        "identical": count - len(divergences),
        "divergences": [asdict(one) for one in divergences],
        "changed_files": sorted(changed),
        "left_out": list_left_out(recordings),
    }
    print_result(console, result)
    return DIVERGED if divergences else code


def score_traces(source: ReplaySource, *, out: Path | None, console: Console) -> int:
    """Scores what was recorded again: another environment, other weights, other parts. The exit code."""
    recordings = source.recordings()
    experiment = source.experiment(recordings)
    out = out or default_out(recordings.run, "score")
    restored = restore(recordings, experiment, run_id=out.name)
    compared = BeforeAfter(seed=experiment.seed)
    with restored.folder("score", out) as folder, bars(console) as progress:
        _keep(folder, restored, compared, stage(progress, "score"))
    return _finish(compared.report_score(), compared, folder, recordings, console)


def replay_graph(
    source: ReplaySource, *, policy: str | None, frozen: bool, out: Path | None, console: Console
) -> int:
    """Runs recorded rollouts through an edited graph or prompts: live from where they ask something else.

    Args:
        policy: whose weights go on: `nearest`, `start`, `model` or a folder; default: the trained ones.
    """
    if frozen and policy is not None:
        raise ConfigError(f"--policy: got {policy!r} with --frozen, allowed one of the two: nobody samples")
    recordings = source.recordings()
    experiment = source.experiment(recordings, live=not frozen)
    name = policy or ("model" if recordings.run.model.is_dir() else "start")
    policies = recordings.by_policy if not frozen else {}
    alone = {one: experiment.of_policy(one) if experiment.peers else experiment for one in policies}
    choices = {one: Choice.of(of_one, alone[one], name, source.overrides) for one, of_one in policies.items()}
    out = out or default_out(recordings.run, "graph")
    restored = restore(recordings, experiment, run_id=out.name, live=not frozen, as_configured=True)

    def weights_of(step: int) -> dict[str, Weights]:
        return {one: choice.at(step) for one, choice in choices.items()}

    paths = [weights.path for weights in weights_of(0).values()]
    live = ", ".join(paths) or None  # what is named wrongly is said before the folder is taken
    compared = BeforeAfter(seed=experiment.seed)
    versions: dict[int, int | None] = {}
    with restored.folder("graph", out, live) as folder, bars(console) as progress:
        note = stage(progress, "replay")
        if frozen:
            _keep(folder, restored, compared, note)
        else:
            for weights, steps in groupby(recordings.steps(), key=weights_of):
                of_weights = list(steps)
                going_on = {
                    one: load_weights(alone[one], of_one, policies[one]) for one, of_one in weights.items()
                }
                [own] = [weights[one] for one, of_one in policies.items() if of_one is recordings]
                versions |= dict.fromkeys(of_weights, _version(own, recordings, experiment))
                live_replay = replace(restored, replay=replace(restored.replay, live=going_on))
                _keep(folder, live_replay, compared, note, of_weights)
    unused: list[str] = []
    if source.prompts is not None:  # a file may be misspelled
        used = set(prompt_files(experiment, source.prompts).values())
        files = (path for path in source.prompts.iterdir() if path.is_file() and path not in used)
        unused = sorted(path.name for path in files if not path.name.startswith("."))
    report = compared.report_graph(versions, unused, _edited_rules(restored))
    return _finish(report, compared, folder, recordings, console)


def _edited_rules(restored: Restored) -> dict[str, str]:
    """Agents whose prompt is another one than in the recording and whose chat model follows rules: what these read."""
    graphs, [first, *_] = restored.built.graphs, next(iter(restored.recordings))
    return {
        name: heeds
        for name, chat in graphs.chats.items()
        if (heeds := getattr(chat.model, "heeds", None)) is not None
        and graphs.fingerprints.get(f"prompts.{name}") != first.fingerprints.get(f"prompts.{name}")
    }


def _finish(
    report: ReplayReport, compared: BeforeAfter, folder: RunFolder, recordings: Recordings, console: Console
) -> int:
    """Failed replays are left out by name, except where a frozen replay needed a live call: that is its result."""
    for failed in compared.failed():
        if not failed.stopped:
            recordings.leave_out(failed.source_id, failed.trace.error)
    return finish(report, recordings, console, folder)


def _walk(
    restored: Restored, note: Note, on_pair: Callable[[TracePair], None], steps: Sequence[int] | None = None
) -> Iterator[tuple[list[Trace], list[TracePair]]]:
    """Replays step by step: the recorded traces, and the pairs of all policies of their rollouts."""
    freeze_gc()
    recordings = restored.recordings
    every = recordings.steps()
    for step in every if steps is None else steps:
        at = every.index(step)
        if traces := recordings.read(step):
            rollouts = recordings.rollouts(step)
            yield traces, restored.replay.run(rollouts, on_pair, within(note, at, len(every), f"step {step}"))
        note(at + 1, len(every), f"step {step}")


def _of(traces: Sequence[Trace], pairs: Sequence[TracePair]) -> list[TracePair]:
    """The pairs of these traces, and those of policies that were not recorded."""
    ids = {trace.trace_id for trace in traces}
    return [pair for pair in pairs if pair.source.trace_id in ids]


def _keep(
    folder: RunFolder,
    restored: Restored,
    compared: BeforeAfter,
    note: Note,
    steps: Sequence[int] | None = None,
) -> None:
    """Replays, writes the traces as they end, and compares. A trace without a replay is left out by name."""
    spending = CostLimit(folder.spending, restored.experiment.rollout.cost_limit, ())
    with ExitStack() as stack:
        stores = restored.stores(folder, stack)

        def keep(pair: TracePair) -> None:
            stores[pair.trace.policy].append(pair.trace)
            cost, pair.reuse.spent = pair.reuse.spent, 0.0  # shared by the policies of a rollout
            spending.charge(pair.trace.trace_id, cost)

        for traces, pairs in _walk(restored, note, keep, steps):
            for name, store in stores.items():
                store.seal(traces[0].step, [pair.trace for pair in pairs if pair.trace.policy == name])
            compared.add([pair for pair in _of(traces, pairs) if not pair.new])
            for trace in vanished(traces, pairs):
                restored.recordings.leave_out(trace.trace_id, NO_TRACE)


def _version(weights: Weights, recordings: Recordings, experiment: Experiment) -> int | None:
    """The trained policy has had all optimizer steps of the run."""
    same = Path(weights.path).resolve() == recordings.run.model.resolve()
    trained = experiment.train.steps * experiment.train.optimizer_steps
    return trained if same and weights.version is None else weights.version


def _print_check(
    count: int, divergences: Sequence[Divergence], changed: Collection[str], seconds: float, console: Console
) -> None:
    """How many traces came out as recorded, and the first difference of those that did not."""
    if changed:
        files = ", ".join(sorted(changed))
        print_line(console, f"not the files that the traces were recorded with: {files}", "yellow")
    for one in divergences[:_LINES]:
        print_line(console, f"{one.trace_id}: {one.where}: {one.what}", "red")
    if len(divergences) > _LINES:
        print_line(console, f"... and {len(divergences) - _LINES} more", "red")
    identical, rate = count - len(divergences), f"{seconds:.1f} s, {count / seconds:.0f} per second"
    print_line(
        console, f"{counted(count, 'trace')}: {identical} identical, {len(divergences)} diverged ({rate})"
    )
