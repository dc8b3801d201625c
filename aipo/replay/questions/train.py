"""`aipo replay train`: training from stored traces instead of rollouts, this run's own or another model's.

Behaviour log-probs stay as they were recorded. The trainer scores the traces of each step once more with its own
weights (π_old) and weighs every token by min(π_old/μ, C); `ess` in metrics.jsonl says how much of the data this
leaves. Code that the recorded configuration names is imported only if the trained policy is evaluated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError
from aipo.evaluate.run import evaluate_with
from aipo.evaluate.run import table as evaluation_table
from aipo.replay.checkpoints import Weights, load_weights, start_of
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    begin,
    check_trainable,
    finish,
    mean,
    number,
    replayed_id,
)
from aipo.replay.questions.grid import combinations, name_of
from aipo.replay.recordings import LeftOut, Recordings
from aipo.replay.restore import check_coefficient, config_file, recorded_experiment
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.train.resume import same_run
from aipo.train.run import train_policy
from aipo.train.sources import TraceSource
from aipo.util.console import bars, stage
from aipo.util.files import exclusive

CAP = 2.0
"""C where the recorded method has no importance cap: offline, the sampler is not the policy that is trained."""
_SHOWN = {
    "ess": "ess",
    "loss": "loss",
    "grad_norm": "|∇|",
    **{f"probability/{role}": f"π {role}" for role in ("policy", "agent", "distilled")},
}
"""Metrics in the table, and their columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSteps:
    """The steps of a run as the steps of a new one, `epochs` times.

    Args:
        run_id: of the traces that are read; they are the recorded ones under another name.
    """

    source: Recordings
    run_id: str
    epochs: int = 1
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    def read(self, number: int) -> list[Trace]:
        """The traces of the new step `number`."""
        steps = self.source.steps()
        # A new reader each time: one reader takes a trace that it has read before for a duplicate.
        reader = Recordings(path=self.source.path, where=self.source.where, vocabulary=self.source.vocabulary)
        traces = reader.read(steps[number % len(steps)])
        self.left_out.extend(one for one in reader.left_out if one not in self.left_out)
        prefix = f"{number:05d}-" if self.epochs > 1 else ""
        return [self._renamed(trace, number, f"{prefix}{trace.group_id}") for trace in traces]

    def _renamed(self, trace: Trace, number: int, group_id: str) -> Trace:
        return replace(
            trace,
            run_id=self.run_id,
            trace_id=replayed_id(trace, self.run_id, group_id),
            group_id=group_id,
            step=number,
            parent_id=trace.trace_id,
            fork_token=None,
        )


def replay_train(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: tuple[int | None, int | None] | None,
    epochs: int,
    out: Path | None,
    resume: bool,
    evaluate: bool,
    console: Console,
) -> int:
    """Trains one policy, or one for each setting of the grid. The exit code."""
    if resume and out is None:
        raise ConfigError("--resume: got no --out, allowed the folder of the run that goes on")
    recordings = Recordings(path=source, where=Filter(step=steps))
    check_trainable(recordings)
    runs: dict[str, _OfflineRun] = {}
    for choice in combinations(grid):
        words = [*overrides, *choice]
        if evaluate:
            recorded_experiment(recordings, words, live=True)  # refuses names that it may not import
        experiment = _experiment(recordings, words)
        named = any(word.startswith("policy.model=") for word in words)
        start = start_of(recordings.run, experiment, named=named).checked(recordings.run)
        runs[name_of(choice)] = _OfflineRun(experiment, recordings, start, epochs, resume, evaluate)
    recordings.required_steps()
    folders: dict[str, RunFolder] = {}
    for name, run in runs.items():
        place = out / _file_name(name) if out and name else out
        folders[name] = run.train(place, console)
    report = ReplayReport(
        question="train",
        settings={"sources": str(recordings.path), "epochs": str(epochs)},
        tables=[table(folders)],
    )
    return finish(report, recordings.left_out, console, *folders.values())


@dataclass(frozen=True, slots=True)
class _OfflineRun:
    """One run from stored traces."""

    experiment: Experiment
    recordings: Recordings
    start: Weights
    epochs: int
    resume: bool
    evaluate: bool

    def train(self, out: Path | None, console: Console) -> RunFolder:
        source = self.recordings
        steps = len(source.required_steps()) * self.epochs
        with bars(console) as progress:
            stage(progress, "policy")(1, 1, self.start.path)
            policy = load_weights(self.experiment, self.start, source)
            experiment = self.experiment.with_settings({"train.steps": steps})
            folder = self._folder(experiment, out)
            stored = StoredSteps(
                source=source, run_id=folder.path.name, epochs=self.epochs, left_out=source.left_out
            )
            tags = experiment.forbidden_ids(policy)

            def make_source(store: TraceStore) -> TraceSource:
                return TraceSource(
                    traces=stored.read,
                    credit=experiment.credit,
                    make=lambda credited, metrics: experiment.rows(credited, tags, metrics),
                    keep=store.seal,
                    advance=policy.advance,
                )

            note = stage(progress, "train")
            with exclusive(folder.path):
                network, tokenizer = policy.model, policy.tokenizer
                train_policy(experiment, folder, network, tokenizer, make_source, note, resume=self.resume)
                if self.evaluate:
                    engine = experiment.engine(policy, run_id=folder.path.name)
                    note = stage(progress, "evaluate")
                    console.print(evaluation_table(evaluate_with(experiment, engine, folder, "after", note)))
        return folder

    def _folder(self, experiment: Experiment, out: Path | None) -> RunFolder:
        if self.resume and out is not None:
            folder = RunFolder.open(out)
            same_run(folder, experiment.with_settings({"run.out": out}))
            return folder
        files = self.recordings.run.read_manifest().get("files") or {}
        facts = {"model": self.start.path, "files": files, "epochs": self.epochs}
        return begin(self.recordings.path, question="train", out=out, experiment=experiment, facts=facts)


def table(folders: Mapping[str, RunFolder]) -> ReplayTable:
    """A row for each run: means over the last tenth of its optimizer steps, and pass@1 solo if measured."""
    rows: list[list[str]] = []
    for name, folder in folders.items():
        lines = folder.read_metrics()
        last = lines[-max(1, len(lines) // 10) :]
        cells = [number(mean(line.get(key) for line in last)) for key in _SHOWN]
        rows.append([name or folder.path.name, *cells, _solo(folder)])
    columns = ["setting", *_SHOWN.values(), "pass@1 solo"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return ReplayTable("means over the last tenth of the optimizer steps", columns, rows)


def _experiment(first: Recordings, words: Sequence[str]) -> Experiment:
    """The recorded experiment with an importance cap, without reports, and with the overrides `words`.

    Raises:
        ConfigError: `train.steps` is among them, or they do not fit.
        RunError: there is no configuration.
    """
    file = config_file(first)
    recorded = load_experiment(file, of_run=True)
    # A recorded folder must not choose where this run reports to. A limit on the mismatch is for a sampler with the
    # trainer's weights, which stored traces do not have.
    defaults = ["run.report_to=[]", "method.max_mismatch=null"]
    if recorded.method.importance_cap is None:
        defaults.append(f"method.importance_cap={CAP}")
    experiment = load_experiment(file, [*defaults, *words], of_run=True)
    check_coefficient(experiment, words)
    steps = experiment.train.steps
    if steps != recorded.train.steps or any(word.partition("=")[0] == "train.steps" for word in words):
        raise ConfigError(
            f"train.steps: got {steps}, allowed none: stored traces decide it, one for each of their steps "
            "(--steps chooses among them, --epochs repeats them)"
        )
    return experiment


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=,-]+", "_", name)


def _solo(folder: RunFolder) -> str:
    if not folder.evaluation("after").is_file():
        return ""
    pass_at_1 = {
        split: settings.get("solo", {}).get("pass_at", {}).get("1")
        for split, settings in folder.read_evaluation("after").items()
    }
    return "  ".join(f"{split} {value:.3f}" for split, value in pass_at_1.items() if value is not None)
