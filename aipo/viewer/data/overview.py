"""Runs at a glance: how far each one is, how it ended and why. For `aipo runs` and the first page of the viewer."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aipo.errors import AipoError, RunError
from aipo.run import RunEnd
from aipo.util.files import busy
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.run_files import Scores, Splits
from aipo.viewer.data.run_summary import head

LIVE_S = 60.0
_NO_WORD = RunEnd("stopped", "without a word: killed, or the machine went down")


@dataclass(slots=True, kw_only=True)
class RunOverview:
    """One run, evaluation, replay or comparison.

    Args:
        kind: `run`, `evaluation`, `replay` or `comparison`.
        state: `running`, `finished`, `stopped` or `failed`, and the `reason` of an end before the last step.
        preset: the preset or file that it was started with; empty where nobody wrote it down.
        replay: the question of a replay.
        reward: the last mean reward of solo and of assisted rollouts.
        scores: (split, solo pass@1, pass@1 with agents) of an evaluation.
        changed: seconds since 1970 of the last change; 0.0 if nothing was written yet.
        notes: what is wrong with its metrics and scores.
        problem: why it cannot be read.
    """

    name: str
    kind: str
    folder: str
    state: str = ""
    reason: str = ""
    preset: str = ""
    method: Sequence[tuple[str, str]] = ()
    replay: str | None = None
    steps: int = 0
    planned: int | None = None
    traces: int = 0
    reward: tuple[float | None, float | None] = (None, None)
    scores: Sequence[tuple[str, float | None, float | None]] = ()
    changed: float = 0.0
    notes: Sequence[str] = ()
    problem: str | None = None


def overviews(library: RunLibrary, *, now: float) -> list[RunOverview]:
    """Every run of the library with its evaluations, and before the runs of a comparison the comparison itself."""
    runs = library.runs()
    above = {folder for run in runs for folder in run.folder.parents if folder.is_relative_to(library.root)}
    lines = [_comparison(folder, library.root) for folder in sorted(above) if _is_comparison(folder)]
    return sorted([*lines, *(overview(run, now=now) for run in runs)], key=lambda line: line.name.split("/"))


def overview(run: RunView, *, now: float | None) -> RunOverview:
    """A run as its files say. `now`: seconds since 1970; None where nothing can be running (a static site)."""
    kind = "run" if run.evaluation is None else "evaluation"
    folder = run.folder if run.evaluation is None else run.traces
    line = RunOverview(name=run.name, kind=kind, folder=str(folder))
    try:
        _fill(line, run, now)
    except AipoError as error:
        line.problem = str(error)
    return line


def _fill(line: RunOverview, run: RunView, now: float | None) -> None:
    about, manifest = head(run.config(), run.manifest()), run.manifest()
    line.preset = str(manifest.get("preset") or "")
    line.traces, steps = run.size()
    line.changed, line.notes = run.changed(), run.problems()
    if run.evaluation is not None:
        line.scores = _pass_at_1(run.evaluations().get(run.evaluation, {}))
    else:
        metrics = run.metrics().rows
        line.method, line.steps, line.planned = about.method, steps, about.steps
        line.replay, _ = run.replayed() or (None, None)
        line.kind = "run" if line.replay is None else "replay"
        line.reward = _last(metrics, "reward/solo"), _last(metrics, "reward/assisted")
    end = _state(line, run, now)
    line.state, line.reason = end.state, end.reason


def _state(line: RunOverview, run: RunView, now: float | None) -> RunEnd:
    """Its lock says that it runs; else the record of its end counts. Runs of before such a record are judged by
    what they have left, and by whether something was written a moment ago."""
    if now is not None and _busy(Path(line.folder)):
        return RunEnd("running")
    trained = line.planned is not None and line.steps >= line.planned
    whole = line.scores or run.replay() or (trained and (run.folder / "model").is_dir())
    if (end := None if run.evaluation else run.end()) is not None:
        return end
    if not run.config():
        return RunEnd("")  # somebody's traces
    if whole or (trained and (now is None or now - line.changed >= LIVE_S)):
        return RunEnd("finished")
    return RunEnd("running") if now is not None and now - line.changed < LIVE_S else _NO_WORD


def _busy(folder: Path) -> bool:
    with suppress(RunError):  # nobody may write there, so nobody here does
        return busy(folder)
    return False


def _comparison(folder: Path, root: Path) -> RunOverview:
    name = root.name if folder == root else folder.relative_to(root).as_posix()
    line = RunOverview(name=name, kind="comparison", folder=str(folder))
    try:
        line.changed = (folder / "results.csv").stat().st_mtime
        missing = json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("missing", ())
        end = RunEnd("stopped", f"{len(missing)} runs have no result yet") if missing else RunEnd("finished")
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


def _pass_at_1(splits: Splits) -> list[tuple[str, float | None, float | None]]:
    """pass@1 by split, solo and with agents."""
    none = Scores()
    return [
        (split, scores.get("solo", none).pass_at.get(1), scores.get("assisted", none).pass_at.get(1))
        for split, scores in splits.items()
    ]
