"""`aipo replay train`: training from stored traces instead of rollouts, this run's own or another model's.

Behaviour log-probs stay as they were recorded. The trainer scores the traces of each step once more with its own
weights (π_old) and weighs every token by min(π_old/μ, C); `ess` in metrics.jsonl says how much of the data this
leaves. No recorded graph, agent or environment is imported.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import ConfigError
from aipo.replay.checkpoints import Weights, load_weights, start_of
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    cell,
    check_trainable,
    finish,
    mean,
    renamed,
    replay_folder,
)
from aipo.replay.questions.grid import combinations, name_of
from aipo.replay.recordings import Recordings, Steps
from aipo.replay.restore import check_coefficient
from aipo.run import RunFolder
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.train.rehearsal import rehearsal_of
from aipo.train.resume import go_on_from, same_run
from aipo.train.run import train_policy
from aipo.train.sources import TraceSource
from aipo.util.console import bars, stage

CAP = 2.0
"""C where the recorded method has no importance cap: offline, the sampler is not the policy that is trained."""
_SHOWN = {
    "ess": "ess",
    "loss": "loss",
    "grad_norm": "|∇|",
    **{f"probability/{role}": f"π {role}" for role in ("policy", "agent", "distilled")},
}
"""Metrics in the table, and their columns."""


def replay_train(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: Steps | None,
    epochs: int,
    out: Path | None,
    resume: bool,
    console: Console,
) -> int:
    """Trains one policy, or one for each setting of the grid. The exit code."""
    if resume and out is None:
        raise ConfigError("--resume: got no --out, allowed the folder of the run that goes on")
    recordings = Recordings(path=source, where=Filter(step=steps))
    check_trainable(recordings)
    runs: dict[str, tuple[Experiment, Weights]] = {}
    for choice in combinations(grid):
        words = [*overrides, *choice]
        experiment = _experiment(recordings, words, epochs)
        start = start_of(recordings.run, experiment, words).checked(recordings.run)
        runs[name_of(choice)] = experiment, start
    folders: dict[str, RunFolder] = {}
    for name, (experiment, start) in runs.items():
        place = out / re.sub(r"[^A-Za-z0-9.=,-]+", "_", name) if out and name else out
        folders[name] = _train(recordings, experiment, start, epochs, place, console, resume=resume)
    settings = {"sources": str(recordings.path), "epochs": str(epochs)}
    report = ReplayReport(question="train", settings=settings, tables=[_table(folders)])
    return finish(report, recordings, console, *folders.values())


def _train(
    recordings: Recordings,
    experiment: Experiment,
    start: Weights,
    epochs: int,
    out: Path | None,
    console: Console,
    *,
    resume: bool,
) -> RunFolder:
    """One run, whose steps are those of the source, `epochs` times."""
    stored = recordings.steps()

    def again(step: int, read: Callable[[int], list[Trace]]) -> list[Trace]:
        prefix = f"{step:05d}-" if epochs > 1 else ""
        return [
            renamed(trace, folder.path.name, step=step, group_id=f"{prefix}{trace.group_id}")
            for trace in read(stored[step % len(stored)])
        ]

    def traces(step: int) -> list[Trace]:
        return again(step, recordings.read)

    def peers(step: int) -> list[Trace]:
        return again(step, recordings.peers)

    def make_source(store: TraceStore) -> TraceSource:
        return TraceSource(
            traces=traces,
            credit=lambda traces: experiment.credit(traces, peers(traces[0].step) if traces else ()),
            make=lambda credited, metrics: experiment.rows(credited, tags, metrics),
            keep=store.seal,
            advance=policy.advance,
            rehearsal=lambda: rehearsal,
        )

    with bars(console) as progress:
        stage(progress, "policy")(1, 1, start.path)
        policy = load_weights(experiment, start, recordings)
        tags = experiment.tags(policy.tokenizer)
        rehearsal = rehearsal_of(experiment, recordings.run, policy.tokenizer)
        if resume and out is not None:
            same_run(RunFolder.open(out), experiment.with_settings({"run.out": out}))
        files = recordings.run.read_manifest().get("files") or {}
        facts = {"model": start.path, "files": files, "epochs": epochs}
        note = stage(progress, "train", lines=None)
        with replay_folder(recordings, "train", out, experiment, facts, resume=resume) as folder:
            network, tokenizer = policy.model, policy.tokenizer
            at = go_on_from(folder, experiment, console) if resume else None
            train_policy(experiment, folder, network, tokenizer, make_source, note, checkpoint=at)
    return folder


def _table(folders: Mapping[str, RunFolder]) -> ReplayTable:
    """A row for each run: means over the last tenth of its optimizer steps."""
    rows: list[list[str]] = []
    for name, folder in folders.items():
        lines = folder.read_metrics()
        last = lines[-max(1, len(lines) // 10) :]
        rows.append(
            [name or folder.path.name, *(cell(mean(line.get(key) for line in last)) for key in _SHOWN)]
        )
    columns = ["setting", *_SHOWN.values()]
    return ReplayTable("means over the last tenth of the optimizer steps", columns, rows)


def _experiment(recordings: Recordings, words: Sequence[str], epochs: int) -> Experiment:
    """The recorded experiment with an importance cap, without reports, with the overrides `words`, and with a step
    for each stored one in every epoch.

    Raises:
        ConfigError: `train.steps` is among the overrides, or they do not fit.
        RunError: there is no configuration, or there are no steps.
    """
    recorded = load_experiment(recordings.config, of_run=True)
    # A recorded folder must not choose where this run reports to. A limit on the mismatch is for a sampler with the
    # trainer's weights, which stored traces do not have.
    defaults = ["run.report_to=[]", "method.max_mismatch=null"]
    if recorded.method.importance_cap is None:
        defaults.append(f"method.importance_cap={CAP}")
    experiment = load_experiment(recordings.config, [*defaults, *words], of_run=True)
    check_coefficient(experiment, words)
    steps = experiment.train.steps
    if steps != recorded.train.steps or any(word.partition("=")[0] == "train.steps" for word in words):
        raise ConfigError(
            f"train.steps: got {steps}, allowed none: stored traces decide it, one for each of their steps "
            "(--steps chooses among them, --epochs repeats them)"
        )
    return experiment.with_settings({"train.steps": len(recordings.required_steps()) * epochs})
