"""`aipo replay consults`: did it help to ask? By live forks from each request, or against the group."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError, RunError
from aipo.policies import Tokenizer
from aipo.replay.checkpoints import Choice, load_weights
from aipo.replay.output import ReplayReport, default_out, finish, replay_folder, write_csv
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
from aipo.replay.restore import recorded_experiment, restore
from aipo.rollout.spec import derive_seed
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage, within
from aipo.util.text import counted


def consults_against_group(source: Path, *, where: Filter, out: Path | None, console: Console) -> int:
    """Every consult against the rollouts of its group that did not ask this agent; no model. The exit code."""
    # A comparison needs whole groups, also where only some of their traces are asked about.
    everything = Recordings(path=source, where=Filter(step=where.step))
    selected = Recordings(path=source, where=where)
    experiment = load_experiment(everything.config, of_run=True)
    tally = Tally(tuple(experiment.agents))
    with (
        replay_folder(everything, "consults", out, experiment, {"against": "group"}) as folder,
        bars(console) as progress,
    ):
        note, steps = stage(progress, "consults"), everything.steps()
        for done, step in enumerate(steps, start=1):
            traces = everything.read(step)
            ids = {t.trace_id for t in (traces if where == everything.where else selected.read(step))}
            worths = against_group(traces, experiment.agents)
            tally.add([t for t in traces if t.trace_id in ids], [w for w in worths if w.trace_id in ids])
            note(done, len(steps), f"step {step}")
    settings = {"without": "rollouts of the same group and the same mode that did not ask this agent"}
    return _report(folder, tally, experiment.seed, everything, settings, console)


def consults_against_forks(
    source: Path,
    overrides: Sequence[str],
    *,
    where: Filter = EVERYTHING,
    checkpoint: str,
    samples: int,
    limit: int | None,
    out: Path | None,
    console: Console,
) -> int:
    """Every consult against live forks from the point of its request. The exit code.

    Args:
        where: only consults of these traces.
        checkpoint: which weights continue; see `aipo.replay.checkpoints.Choice`.
        samples: forks of each consult.
        limit: most consults of each agent, drawn by the run's seed; None = all.
        overrides: of the recorded configuration.
    """
    recordings = Recordings(path=source, where=where)
    experiment = recorded_experiment(recordings, overrides)
    if experiment.peers:
        raise ConfigError(
            f"traces: got those of {recordings.run.path}, one of several policies that learned together, allowed those of a run of "
            "one policy: peers are heard without a request in the text, before which a rollout could be forked"
        )
    choice = Choice.of(recordings, experiment, checkpoint, overrides)
    chosen = _choose(recordings, experiment, limit)
    weights_of = {step: choice.at(step) for step in recordings.steps() if step in chosen}
    out = out or default_out(recordings.run, "consults")
    restored = restore(Recordings(path=source), experiment, run_id=out.name)
    [tokenizer] = restored.tokenizers.values()
    tags = _tag_ids(experiment, tokenizer)
    first = next(iter(weights_of.values()))
    tally, others = Tally(tuple(experiment.agents)), 0
    with (
        restored.folder("consults", out, first.path, trainable=False) as folder,
        bars(console) as progress,
        TraceStore(folder.traces, decode=tokenizer.decode) as store,
    ):
        note = stage(progress, "consults")
        for weights, steps in groupby(weights_of, key=weights_of.__getitem__):
            live = load_weights(experiment, weights, recordings)
            forks = Forks(replay=restored.replay, live=live, tag_ids=tags, samples=samples)
            for step in steps:
                traces, keys = recordings.read(step), chosen[step]
                of_step = [(t, n) for t in traces for n, _ in answered(t) if (t.trace_id, n) in keys]
                at, text = list(weights_of).index(step), f"step {step}, {weights.name}"
                by_consult = forks.run(of_step, store.append, within(note, at, len(weights_of), text))
                store.seal(step, [fork for of_consult in by_consult.values() for fork in of_consult])
                tally.add(traces, _worths(traces, by_consult, experiment, recordings))
                others += sum(
                    t.policy_version != weights.version or weights.version is None for t, _ in of_step
                )
                note(at + 1, len(weights_of), text)
            for (trace_id, number), reason in forks.failed.items():
                recordings.leave_out(f"{trace_id}, consult {number}", reason)
    settings = {
        "without": f"{samples} forks from the request, with the consult tags suppressed",
        "weights": ", ".join(dict.fromkeys(weights.name for weights in weights_of.values())),
    }
    warning = (
        f"other weights: {others} of {sum(map(len, chosen.values()))} consults had been asked by other weights "
        "than those that continued: the difference is not due to the reply alone (--checkpoint chooses the weights)"
    )
    warnings = [warning] if others else ()
    return _report(folder, tally, experiment.seed, recordings, settings, console, warnings)


def _choose(recordings: Recordings, experiment: Experiment, limit: int | None) -> dict[int, set[Key]]:
    """Consults to fork, by step.

    Raises:
        RunError: there are none.
    """
    by_agent: dict[str, list[tuple[int, Key]]] = defaultdict(list)
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
        for i in rng.permutation(len(keys))[:limit].tolist():
            step, key = keys[i]
            chosen[step].add(key)
    return chosen


def _tag_ids(experiment: Experiment, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the consult tags: a policy that cannot write them continues without agents.

    Raises:
        ConfigError: there are none, or one of them is not one token.
    """
    broken = [tag for tag in experiment.consult_tags if tokenizer.token_id(tag) is None]
    if broken or not experiment.consult_tags:
        raise ConfigError(
            f"rollout.suppress_tags: got {broken}, allowed at least one tag, each of one token of this tokenizer: the "
            "forks would ask again (set rollout.suppress_tags, or compare with --group; runs with policy.add_tags=true have such "
            "tags)"
        )
    return experiment.forbidden_ids(tokenizer)


def _worths(
    traces: Sequence[Trace],
    by_consult: Mapping[Key, Sequence[Trace]],
    experiment: Experiment,
    recordings: Recordings,
) -> Iterator[Worth]:
    """The worth of the consults of one step. A fork without a reward is left out by name."""
    sources = {trace.trace_id: trace for trace in traces}
    for (trace_id, number), forks in sorted(by_consult.items()):
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
    compared, measured = (sum(agent[name] for agent in agents) for name in ("comparisons", "measured"))
    write_csv(folder.path / "consults.csv", [worth.line() for worth in tally.worths])
    report = ReplayReport(
        question="consults",
        settings=settings | {"comparisons": f"{compared}, of {counted(measured, 'consult')}"},
        tables=[table(agents)],
        notes=[
            f"{agent['agent']}: {counted(agent['helped'], 'consult')} helped, {agent['hurt']} hurt"
            for agent in agents
        ],
        warnings=warnings,
        values=agents,
    )
    return finish(report, recordings, console, folder)
