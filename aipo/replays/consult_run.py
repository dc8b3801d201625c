"""`aipo replay consults`: was it worth asking? With live forks, or against the group."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console

from aipo.compose import forbidden_ids
from aipo.config import Config, load_config
from aipo.errors import ConfigError
from aipo.filters import EVERYTHING, Filter
from aipo.graph import derive_seed
from aipo.progress import bars, stage
from aipo.recordings import Recordings
from aipo.replays.consults import (
    Tally,
    Worth,
    against_group,
    answered,
    name_of,
    table,
    worth_of,
    write_consults,
)
from aipo.replays.forks import Forks, Key
from aipo.replays.new_run import describe, new_folder
from aipo.replays.relearn import config_file
from aipo.replays.restore import recorded_config, recorded_tokenizer, restore
from aipo.replays.study import begin_study, default_out, end_study
from aipo.replays.weights import Choice, Weights, load_weights, start_of
from aipo.run import RunFolder
from aipo.store import TraceStore
from aipo.trace import Trace


def consults_against_group(source: Path, *, where: Filter, out: Path | None, console: Console) -> int:
    """Every consult against the rollouts of its group that did not ask this agent; no model. The exit code.

    Raises:
        AipoError: see `aipo.errors`.
    """
    everything = Recordings(path=source, where=Filter(step=where.step))
    config = load_config(config_file(everything))
    folder = begin_study(source, what="consults", out=out, config=config, made_of={"against": "group"})
    tally = Tally(tuple(config.agents))
    # A comparison needs whole groups, whichever traces are asked about.
    meant = None if where == Filter(step=where.step) else Recordings(path=source, where=where)
    with bars(console) as progress:
        note, steps = stage(progress, "consults"), everything.steps()
        for done, step in enumerate(steps, start=1):
            traces = everything.read(step)
            ids = {t.trace_id for t in (traces if meant is None else meant.read(step))}
            worths = [w for w in against_group(traces, config.agents) if w.trace_id in ids]
            tally.add([t for t in traces if t.trace_id in ids], worths)
            note(done, len(steps), f"step {step}")
    facts = {"source": str(source), "without": "rollouts of the same group that did not ask this agent"}
    return _report(folder, tally, config, everything, facts, console)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConsults:
    """Every consult against live forks from the point of its request.

    Args:
        source: a run.
        where: only consults of these traces.
        checkpoint: which weights go on; see `aipo.replays.weights.Choice`.
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
            run=recordings.run, name=self.checkpoint, updates=config.train.minibatches, start=start
        )
        wanted = self._wanted(config)
        folder = new_folder(out or default_out(recordings.run.path, "consults"), recordings)
        looked = [(step, choice.at(step)) for step in recordings.steps() if step in wanted]
        tally = Tally(tuple(config.agents))
        decode = recorded_tokenizer(recordings).decode
        with bars(console) as progress, TraceStore(folder.traces, decode=decode) as store:
            note = stage(progress, "consults")
            for weights, own in groupby(looked, key=lambda pair: pair[1]):
                forks = self._forks(config, folder, weights, recordings)
                for step, _ in own:
                    traces = recordings.read(step)
                    tally.add(traces, self._measure(forks, traces, wanted[step], config, store))
                    note([s for s, _ in looked].index(step) + 1, len(looked), f"step {step}, {weights.name}")
                for (trace_id, number), reason in forks.failed.items():
                    recordings.leave_out(f"{trace_id}, consult {number}", reason)
        facts = {
            "source": str(self.source),
            "without": f"{self.samples} forks from the request, the policy alone, consult tags forbidden",
            "weights": ", ".join(dict.fromkeys(weights.name for _, weights in looked)),
        }
        return _report(folder, tally, config, recordings, facts, console)

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

    def _forks(self, config: Config, folder: RunFolder, weights: Weights, recordings: Recordings) -> Forks:
        restored = restore(Recordings(path=self.source), config, run_id=folder.path.name)
        if not folder.manifest.exists():
            describe(folder, restored, "consults", weights.path)
        policy = load_weights(config, weights, recordings)
        return Forks(
            engine=restored.replay.engine,
            live=policy,
            tokenizer=restored.tokenizer,
            asks=restored.replay.asks,
            shared=restored.replay.shared,
            tag_ids=forbidden_ids(config, policy),
            samples=self.samples,
        )

    def _measure(
        self, forks: Forks, traces: Sequence[Trace], wanted: set[Key], config: Config, store: TraceStore
    ) -> list[Worth]:
        """The forks of one step, kept as traces, and what they say."""
        asked = [(t, n) for t in traces for n, _ in answered(t) if (t.trace_id, n) in wanted]
        forked = forks.run(asked, store.append)
        kept = [trace for of_consult in forked.values() for trace in sorted(of_consult, key=_index)]
        if kept:
            store.seal(kept[0].step, kept)
        return list(self._worths(asked, forked, config))

    def _worths(
        self, asked: Sequence[tuple[Trace, int]], forked: dict[Key, list[Trace]], config: Config
    ) -> Iterator[Worth]:
        for trace, number in asked:
            without = (fork.reward for fork in forked.get((trace.trace_id, number), ()))
            if worth := worth_of(trace, number, without, config.agents):
                yield worth


def _index(trace: Trace) -> int:
    return trace.index


def _report(
    folder: RunFolder,
    tally: Tally,
    config: Config,
    recordings: Recordings,
    facts: dict[str, str],
    console: Console,
) -> int:
    write_consults(folder.path, tally, seed=config.run.seed, facts=facts)
    console.print(table(tally.agents(config.run.seed)))
    console.print(f"without: {facts['without']}", highlight=False, soft_wrap=True)
    return end_study(folder, recordings.left_out, console)
