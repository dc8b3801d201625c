"""`aipo replay consults`: was it worth asking? With live forks, or against the group."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console

from aipo.config.load import Config, load_config
from aipo.errors import ConfigError, RunError
from aipo.policies import Tokenizer
from aipo.replay.checkpoints import Choice, Weights, load_weights, start_of
from aipo.replay.output import ReplayReport, begin, default_out, describe, finish, new_folder
from aipo.replay.questions.consults import (
    Tally,
    Worth,
    against_group,
    answered,
    name_of,
    table,
    worth_of,
    write_worths,
)
from aipo.replay.questions.forks import Forks, Key
from aipo.replay.questions.what_if import config_file
from aipo.replay.recordings import Recordings
from aipo.replay.restore import recorded_config, recorded_tokenizer, restore
from aipo.rollout.spec import derive_seed
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import EVERYTHING, Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage


def consults_against_group(
    source: Path, *, where: Filter, any_mode: bool = False, out: Path | None, console: Console
) -> int:
    """Every consult against the rollouts of its group that did not ask this agent; no model. The exit code.

    Args:
        any_mode: see `aipo.replay.questions.consults.against_group`.

    Raises:
        AipoError: see `aipo.errors`.
    """
    everything = Recordings(path=source, where=Filter(step=where.step))
    config = load_config(config_file(everything))
    folder = begin(source, question="consults", out=out, config=config, facts={"against": "group"})
    tally = Tally(tuple(config.agents))
    # A comparison needs whole groups, whichever traces are asked about.
    meant = None if where == Filter(step=where.step) else Recordings(path=source, where=where)
    with bars(console) as progress:
        note, steps = stage(progress, "consults"), everything.steps()
        for done, step in enumerate(steps, start=1):
            traces = everything.read(step)
            ids = {t.trace_id for t in (traces if meant is None else meant.read(step))}
            found = against_group(traces, config.agents, any_mode=any_mode)
            worths = [w for w in found if w.trace_id in ids]
            tally.add([t for t in traces if t.trace_id in ids], worths)
            note(done, len(steps), f"step {step}")
    mode = "any mode" if any_mode else "the same mode"
    without = f"rollouts of the same group and {mode} that did not ask this agent"
    return _report(folder, tally, config, everything, {"without": without}, console)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConsults:
    """Every consult against live forks from the point of its request.

    Args:
        source: a run.
        where: only consults of these traces.
        checkpoint: which weights go on; see `aipo.replay.checkpoints.Choice`.
        samples: forks of each consult.
        limit: at most so many consults of each agent, drawn by the run's seed; None = all.
        overrides: of the recorded configuration.
    """

    source: Path
    where: Filter = EVERYTHING
    checkpoint: str
    samples: int
    limit: int | None
    overrides: Sequence[str]

    def run(self, out: Path | None, console: Console) -> int:
        """Runs the forks and says what came of them. The exit code.

        Raises:
            AipoError: see `aipo.errors`.
        """
        if self.samples < 1:
            raise ConfigError(f"--samples: got {self.samples}, allowed >= 1")
        recordings = Recordings(path=self.source, where=self.where)
        config = recorded_config(recordings, self.overrides)
        named = any(word.startswith("policy.model=") for word in self.overrides)
        start = start_of(recordings.run, config, named=named)
        choice = Choice(
            run=recordings.run, name=self.checkpoint, updates=config.train.optimizer_steps, start=start
        )
        wanted = self._wanted(config)
        if not wanted:
            raise RunError(
                f"consults to fork: got none with a reply and a reward among the traces that are meant, allowed at "
                f"least one in {recordings.folder}"
            )
        tokenizer = recorded_tokenizer(recordings)
        tags = tags_of_agents(config, tokenizer)
        looked = [(step, choice.at(step)) for step in recordings.steps() if step in wanted]
        folder = new_folder(out or default_out(recordings.run.path, "consults"), recordings)
        tally = Tally(tuple(config.agents))
        others = 0
        with bars(console) as progress, TraceStore(folder.traces, decode=tokenizer.decode) as store:
            note = stage(progress, "consults")
            for weights, own in groupby(looked, key=lambda pair: pair[1]):
                forks = self._forks(config, folder, weights, recordings, tags)
                for step, _ in own:
                    traces = recordings.read(step)
                    forked = self._fork(forks, traces, wanted[step], store)
                    tally.add(traces, _worths(traces, forked, config, recordings))
                    others += _by_others(traces, wanted[step], weights)
                    note([s for s, _ in looked].index(step) + 1, len(looked), f"step {step}, {weights.name}")
                for (trace_id, number), reason in forks.failed.items():
                    recordings.leave_out(f"{trace_id}, consult {number}", reason)
        settings = {
            "without": f"{self.samples} forks from the request, the policy alone, consult tags suppressed",
            "weights": ", ".join(dict.fromkeys(weights.name for _, weights in looked)),
        }
        warnings = [
            f"other weights: {others} of {sum(map(len, wanted.values()))} consults had been asked by other weights "
            "than those that went on: the difference is not due to the reply alone (--checkpoint chooses the weights)"
        ]
        return _report(
            folder, tally, config, recordings, settings, console, warnings=warnings if others else ()
        )

    def _wanted(self, config: Config) -> dict[int, set[Key]]:
        """Consults to fork, by step."""
        found: dict[str, list[tuple[int, Key]]] = defaultdict(list)
        for traces in Recordings(path=self.source, where=self.where):
            for trace in traces:
                for number, consult in answered(trace):
                    name = name_of(consult, config.agents)
                    found[name].append((trace.step, (trace.trace_id, number)))
        chosen: dict[int, set[Key]] = defaultdict(set)
        for name, own in found.items():
            rng = np.random.default_rng(derive_seed(config.run.seed, "consults", name))
            order = rng.permutation(len(own))[: self.limit].tolist()
            for step, key in (own[i] for i in order):
                chosen[step].add(key)
        return chosen

    def _forks(
        self,
        config: Config,
        folder: RunFolder,
        weights: Weights,
        recordings: Recordings,
        tags: tuple[int, ...],
    ) -> Forks:
        restored = restore(Recordings(path=self.source), config, run_id=folder.path.name)
        if not folder.manifest.exists():
            describe(folder, restored, "consults", weights.path, trainable=False)
        policy = load_weights(config, weights, recordings)
        return Forks(
            engine=restored.replay.engine,
            live=policy,
            tokenizer=restored.tokenizer,
            agents=restored.replay.agents,
            shared=restored.replay.shared,
            tag_ids=tags,
            samples=self.samples,
        )

    def _fork(
        self, forks: Forks, traces: Sequence[Trace], wanted: set[Key], store: TraceStore
    ) -> dict[Key, list[Trace]]:
        """The forks of one step, kept as traces."""
        asked = [(t, n) for t in traces for n, _ in answered(t) if (t.trace_id, n) in wanted]
        forked = forks.run(asked, store.append)
        kept = [trace for of_consult in forked.values() for trace in sorted(of_consult, key=_index)]
        if kept:
            store.seal(kept[0].step, kept)
        return forked


def tags_of_agents(config: Config, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the consult tags, without which a policy goes on alone.

    Raises:
        ConfigError: there are none, or one of them cannot be forbidden.
    """
    tags = [tag.format(agent=name) for tag in config.rollout.suppress_tags for name in config.agents]
    ids = {tag: tokenizer.token_id(tag) for tag in tags}
    broken = [tag for tag, token_id in ids.items() if token_id is None]
    if broken or not ids:
        raise ConfigError(
            f"rollout.suppress_tags: got {broken}, allowed at least one tag, each of one token of this tokenizer: the "
            "forks would ask again (set rollout.suppress_tags, or compare with --group)"
        )
    return tuple(sorted(token_id for token_id in ids.values() if token_id is not None))


def _worths(
    traces: Sequence[Trace], forked: dict[Key, list[Trace]], config: Config, recordings: Recordings
) -> Iterator[Worth]:
    """What the forks of one step say. One without a reward says nothing, and is left out by name."""
    sources = {trace.trace_id: trace for trace in traces}
    for (trace_id, number), forks in sorted(forked.items()):
        for fork in sorted(forks, key=_index):
            if fork.reward is None:
                recordings.leave_out(fork.trace_id, fork.error or f"no reward, {fork.stop_reason.value}")
        rewards = [fork.reward for fork in sorted(forks, key=_index)]
        if worth := worth_of(sources[trace_id], number, rewards, config.agents):
            yield worth


def _by_others(traces: Sequence[Trace], wanted: set[Key], weights: Weights) -> int:
    """Consults that were asked by other weights, or nobody knows by which."""
    versions = {trace.trace_id: trace.policy_version for trace in traces}
    return sum(versions[i] is None or versions[i] != weights.version for i, _ in wanted if i in versions)


def _index(trace: Trace) -> int:
    return trace.index


def _report(
    folder: RunFolder,
    tally: Tally,
    config: Config,
    recordings: Recordings,
    settings: dict[str, str],
    console: Console,
    warnings: Sequence[str] = (),
) -> int:
    agents = tally.agents(config.run.seed)
    compared, measured = sum(one.comparisons for one in agents), sum(one.measured for one in agents)
    write_worths(folder.path / "consults.csv", tally.worths)
    report = ReplayReport(
        question="consults",
        settings=settings | {"comparisons": f"{compared}, of {measured} consults"},
        tables=[table(agents)],
        notes=[f"{one.agent}: {one.helped} consults helped, {one.hurt} hurt" for one in agents],
        warnings=warnings,
        values=[asdict(one) for one in agents],
    )
    report.print(console)
    return finish(folder, report, recordings.left_out, console)
