"""`aipo replay consults`: did it help to ask? By live forks from each request, or against the group."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError, RunError
from aipo.policies import Tokenizer
from aipo.replay.checkpoints import Choice, Weights, load_weights
from aipo.replay.output import ReplayReport, begin, default_out, describe, finish, new_folder, write_csv
from aipo.replay.questions.consult_worth import (
    Tally,
    Worth,
    against_group,
    answered,
    name_of,
    table,
    worth_of,
)
from aipo.replay.questions.forks import Forks, Key
from aipo.replay.recordings import Recordings
from aipo.replay.restore import config_file, recorded_experiment, recorded_tokenizer, restore
from aipo.rollout.spec import derive_seed
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage

_by_index = attrgetter("index")


def consults_against_group(
    source: Path, *, where: Filter, any_mode: bool = False, out: Path | None, console: Console
) -> int:
    """Every consult against the rollouts of its group that did not ask this agent; no model. The exit code.

    Args:
        any_mode: see `aipo.replay.questions.consult_worth.against_group`.
    """
    everything = Recordings(path=source, where=Filter(step=where.step))
    experiment = load_experiment(config_file(everything), of_run=True)
    folder = begin(source, question="consults", out=out, experiment=experiment, facts={"against": "group"})
    tally = Tally(tuple(experiment.agents))
    # A comparison needs whole groups, also where only some of their traces are asked about.
    selected = None if where == Filter(step=where.step) else Recordings(path=source, where=where)
    with bars(console) as progress:
        note, steps = stage(progress, "consults"), everything.steps()
        for done, step in enumerate(steps, start=1):
            traces = everything.read(step)
            ids = {t.trace_id for t in (traces if selected is None else selected.read(step))}
            worths = against_group(traces, experiment.agents, any_mode=any_mode)
            tally.add([t for t in traces if t.trace_id in ids], [w for w in worths if w.trace_id in ids])
            note(done, len(steps), f"step {step}")
    mode = "any mode" if any_mode else "the same mode"
    without = f"rollouts of the same group and {mode} that did not ask this agent"
    return _report(folder, tally, experiment.seed, everything, {"without": without}, console)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConsults:
    """Every consult against live forks from the point of its request.

    Args:
        source: a run.
        where: only consults of these traces.
        checkpoint: which weights continue; see `aipo.replay.checkpoints.Choice`.
        samples: forks of each consult.
        limit: most consults of each agent, drawn by the run's seed; None = all.
        overrides: of the recorded configuration.
    """

    source: Path
    where: Filter = EVERYTHING
    checkpoint: str
    samples: int
    limit: int | None
    overrides: Sequence[str]

    def run(self, out: Path | None, console: Console) -> int:
        """Runs the forks and reports. The exit code."""
        recordings = Recordings(path=self.source, where=self.where)
        experiment = recorded_experiment(recordings, self.overrides)
        choice = Choice.of(recordings.run, experiment, self.checkpoint, self.overrides)
        consults = self._consults(experiment)
        tokenizer = recorded_tokenizer(recordings)
        tags = tags_of_agents(experiment, tokenizer)
        weights_of = {step: choice.at(step) for step in recordings.steps() if step in consults}
        folder = new_folder(out or default_out(recordings.run.path, "consults"), recordings)
        tally, others = Tally(tuple(experiment.agents)), 0
        with bars(console) as progress, TraceStore(folder.traces, decode=tokenizer.decode) as store:
            note = stage(progress, "consults")
            for weights, steps in groupby(weights_of, key=weights_of.__getitem__):
                forks = self._forks(experiment, folder, weights, recordings, tags)
                for step in steps:
                    traces, keys = recordings.read(step), consults[step]
                    of_step = [(t, n) for t in traces for n, _ in answered(t) if (t.trace_id, n) in keys]
                    by_consult = forks.run(of_step, store.append)
                    if kept := [t for group in by_consult.values() for t in sorted(group, key=_by_index)]:
                        store.seal(step, kept)
                    tally.add(traces, _worths(traces, by_consult, experiment, recordings))
                    others += sum(
                        t.policy_version is None or t.policy_version != weights.version for t, _ in of_step
                    )
                    note(list(weights_of).index(step) + 1, len(weights_of), f"step {step}, {weights.name}")
                for (trace_id, number), reason in forks.failed.items():
                    recordings.leave_out(f"{trace_id}, consult {number}", reason)
        settings = {
            "without": f"{self.samples} forks from the request, with the consult tags suppressed",
            "weights": ", ".join(dict.fromkeys(weights.name for weights in weights_of.values())),
        }
        warning = (
            f"other weights: {others} of {sum(map(len, consults.values()))} consults had been asked by other weights "
            "than those that continued: the difference is not due to the reply alone (--checkpoint chooses the weights)"
        )
        return _report(
            folder, tally, experiment.seed, recordings, settings, console, [warning] if others else ()
        )

    def _consults(self, experiment: Experiment) -> dict[int, set[Key]]:
        """Consults to fork, by step.

        Raises:
            RunError: there are none.
        """
        by_agent: dict[str, list[tuple[int, Key]]] = defaultdict(list)
        recordings = Recordings(path=self.source, where=self.where)
        for trace in (trace for traces in recordings for trace in traces):
            for number, consult in answered(trace):
                name = name_of(consult, experiment.agents)
                by_agent[name].append((trace.step, (trace.trace_id, number)))
        if not by_agent:
            raise RunError(
                "consults to fork: got none with a reply and a reward among the selected traces, allowed at least "
                f"one in {recordings.folder}"
            )
        chosen: dict[int, set[Key]] = defaultdict(set)
        for name, keys in by_agent.items():
            rng = np.random.default_rng(derive_seed(experiment.seed, "consults", name))
            for i in rng.permutation(len(keys))[: self.limit].tolist():
                step, key = keys[i]
                chosen[step].add(key)
        return chosen

    def _forks(
        self,
        experiment: Experiment,
        folder: RunFolder,
        weights: Weights,
        recordings: Recordings,
        tags: tuple[int, ...],
    ) -> Forks:
        restored = restore(Recordings(path=self.source), experiment, run_id=folder.path.name)
        if not folder.manifest.exists():
            describe(folder, restored, "consults", weights.path, trainable=False)
        live = load_weights(experiment, weights, recordings)
        return Forks(replay=restored.replay, live=live, tag_ids=tags, samples=self.samples)


def tags_of_agents(experiment: Experiment, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the consult tags: a policy that cannot write them continues without agents.

    Raises:
        ConfigError: there are none, or one of them is not one token.
    """
    tags = [tag.format(agent=name) for tag in experiment.rollout.suppress_tags for name in experiment.agents]
    ids = {tag: tokenizer.token_id(tag) for tag in tags}
    broken = [tag for tag, token_id in ids.items() if token_id is None]
    if broken or not ids:
        raise ConfigError(
            f"rollout.suppress_tags: got {broken}, allowed at least one tag, each of one token of this tokenizer: the "
            "forks would ask again (set rollout.suppress_tags, or compare with --group)"
        )
    return tuple(sorted(token_id for token_id in ids.values() if token_id is not None))


def _worths(
    traces: Sequence[Trace],
    by_consult: dict[Key, list[Trace]],
    experiment: Experiment,
    recordings: Recordings,
) -> Iterator[Worth]:
    """The worth of the consults of one step. A fork without a reward is left out by name."""
    sources = {trace.trace_id: trace for trace in traces}
    for (trace_id, number), group in sorted(by_consult.items()):
        forks = sorted(group, key=_by_index)
        for fork in forks:
            if fork.reward is None:
                recordings.leave_out(fork.trace_id, fork.error or f"no reward, {fork.stop_reason.value}")
        rewards = [fork.reward for fork in forks]
        if worth := worth_of(sources[trace_id], number, rewards, experiment.agents):
            yield worth


def _report(
    folder: RunFolder,
    tally: Tally,
    seed: int,
    recordings: Recordings,
    settings: dict[str, str],
    console: Console,
    warnings: Sequence[str] = (),
) -> int:
    agents = tally.agents(seed)
    compared, measured = sum(one.comparisons for one in agents), sum(one.measured for one in agents)
    write_csv(folder.path / "consults.csv", [worth.line() for worth in tally.worths])
    report = ReplayReport(
        question="consults",
        settings=settings | {"comparisons": f"{compared}, of {measured} consults"},
        tables=[table(agents)],
        notes=[f"{one.agent}: {one.helped} consults helped, {one.hurt} hurt" for one in agents],
        warnings=warnings,
        values=[one._asdict() for one in agents],
    )
    return finish(report, recordings.left_out, console, folder)
