"""Runs at a glance: how far each one is, how it ended and why. For `aipo runs` and the first page of the viewer."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aipo.errors import AipoError, RunError
from aipo.run import RunEnd
from aipo.util.files import busy
from aipo.util.text import counted
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.run_files import Scores
from aipo.viewer.data.run_summary import head

LIVE_S = 60.0
Means = Mapping[str, float | None]
"""A number of `solo` and of `assisted` rollouts; None where there is none."""
_KINDS = ("solo", "assisted")
_NO_WORD = RunEnd("stopped", "without a word: it was killed, or an older version left no record")


@dataclass(slots=True, kw_only=True)
class RunOverview:
    """One run, evaluation, replay or comparison.

    Args:
        kind: `run`, `evaluation`, `replay` or `comparison`.
        state: `running`, `finished`, `stopped` or `failed`, and the `reason` of an end before the last step.
        preset: the preset or file that it was started with; empty where nobody wrote it down.
        of: the run of the library that an evaluation evaluates, or whose traces a replay replays; of a replay of
            traces elsewhere, the name of their folder. None where there is none.
        replay: the question of a replay.
        method: option by choice.
        reward: the last mean reward.
        scores: pass@1 of an evaluation, by split.
        changed: seconds since 1970 of the last change; None if nothing was written yet.
        notes: what is wrong with its metrics and scores.
        problem: why it cannot be read.
    """

    name: str
    kind: str
    folder: str
    state: str = ""
    reason: str = ""
    preset: str = ""
    method: Mapping[str, str] = field(default_factory=dict[str, str])
    replay: str | None = None
    of: str | None = None
    steps: int = 0
    planned: int | None = None
    traces: int = 0
    reward: Means = field(default_factory=lambda: dict.fromkeys(_KINDS))
    scores: Mapping[str, Means] = field(default_factory=dict[str, Means])
    changed: float | None = None
    notes: Sequence[str] = ()
    problem: str | None = None

    @property
    def part(self) -> bool:
        """It is an evaluation of the run above it in a list."""
        return self.kind == "evaluation" and self.of is not None

    @property
    def label(self) -> str:
        """The name, without the part that the line above says."""
        return Path(self.folder).name if self.part else self.name

    @property
    def has_reward(self) -> bool:
        """Are there mean rewards by mode, or will there be? Not in a replay that does not train."""
        return self.kind == "run" or any(mean is not None for mean in self.reward.values())


def overviews(library: RunLibrary, *, now: float) -> list[RunOverview]:
    """Every run of the library with its evaluations, and before the runs of a comparison the comparison itself."""
    runs, places = library.runs(), library.names()
    above = {folder for run in runs for folder in run.folder.parents if folder.is_relative_to(library.root)}
    lines = [
        _comparison(folder, library.name_of(folder)) for folder in sorted(above) if _is_comparison(folder)
    ]
    lines += [overview(run, now=now, places=places) for run in runs]
    return sorted(lines, key=lambda line: Path(line.folder).parts)


def overview(run: RunView, *, now: float | None, places: Mapping[Path, str]) -> RunOverview:
    """A run as its files say.

    Args:
        now: seconds since 1970; None where nothing can be running (a static site).
        places: see `RunLibrary.names`.
    """
    kind = "run" if run.evaluation is None else "evaluation"
    line = RunOverview(name=run.name, kind=kind, folder=str(run.place))
    try:
        line.of = source_of(run, places)
        _fill(line, run, now)
        if replayed := run.replayed():
            line.kind, (line.replay, source) = "replay", replayed
            line.of = line.of or source.name
            line.planned = line.planned if line.replay == "train" else None
    except AipoError as error:
        line.problem = str(error)
    return line


def source_of(run: RunView, places: Mapping[Path, str]) -> str | None:
    """The run of the library that an evaluation evaluates, or whose traces a replay replays.

    Args:
        places: see `RunLibrary.names`.
    """
    if run.evaluation is not None:
        return places.get(run.folder / "traces")
    source = (run.replayed() or ("", Path()))[1]
    return places.get(source / "traces") or places.get(source)


def _fill(line: RunOverview, run: RunView, now: float | None) -> None:
    about, manifest = head(run.config(), run.manifest()), run.manifest()
    line.preset = str(manifest.get("preset") or "")
    line.traces, steps = run.size()
    line.changed, line.notes = run.changed() or None, run.problems()
    if run.evaluation is not None:
        splits = run.evaluations().get(run.evaluation, {})
        line.scores = {split: _pass_at_1(scores) for split, scores in splits.items()}
    else:
        metrics = run.metrics().rows
        line.method, line.steps, line.planned = dict(about.method), steps, about.steps
        line.reward = {kind: _last(metrics, f"reward/{kind}") for kind in _KINDS}
    end = state(run, now)
    line.state, line.reason = end.state, end.reason


def state(run: RunView, now: float | None) -> RunEnd:
    """Its lock says that it runs; else the record of its end counts. Runs of before such a record are judged by
    what they have left, and by whether something was written a moment ago.

    Args:
        now: as in `overview`.
    """
    if now is not None and _busy(run.place):
        return RunEnd("running")
    if (end := run.end()) is not None:
        return end
    if run.evaluation is not None:
        whole, trained = bool(run.evaluations().get(run.evaluation)), False
    else:
        planned = head(run.config(), {}).steps
        trained = planned is not None and run.size()[1] >= planned
        whole = run.replay() is not None or (trained and (run.folder / "model").is_dir())
    if not (whole or run.config() or run.setup()):
        return RunEnd("")  # somebody's traces
    recent = now is not None and now - run.changed() < LIVE_S
    if whole or (trained and not recent):
        return RunEnd("finished")
    return RunEnd("running") if recent else _NO_WORD


def _busy(folder: Path) -> bool:
    with suppress(RunError):  # nobody may write there, so nobody here does
        return busy(folder)
    return False


def _comparison(folder: Path, name: str) -> RunOverview:
    line = RunOverview(name=name, kind="comparison", folder=str(folder))
    try:
        line.changed = (folder / "results.csv").stat().st_mtime
        missing = json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("missing", ())
        end = RunEnd("finished")
        if missing:
            end = RunEnd("stopped", f"{counted(len(missing), 'run')} without a result yet")
    except (OSError, ValueError, AttributeError):
        end = _NO_WORD
    end = RunEnd("running") if _busy(folder) else end
    line.state, line.reason = end.state, end.reason
    return line


def _is_comparison(folder: Path) -> bool:
    begun = (folder / ".lock").is_file() and not (folder / "config.yaml").is_file()
    return begun or (folder / "results.csv").is_file()


def _last(metrics: Sequence[Mapping[str, float | None]], key: str) -> float | None:
    """The newest value. Metrics of rollouts are in one row of each rollout step only."""
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)


def _pass_at_1(scores: Mapping[str, Scores]) -> Means:
    """Of one split."""
    return {kind: scores.get(kind, Scores()).pass_at.get(1) for kind in _KINDS}
