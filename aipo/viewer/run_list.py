"""`aipo runs`: every run below a folder, with its state and the reason of its end."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from aipo.util.console import line_table, print_line
from aipo.util.output import print_result
from aipo.util.text import age
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.overview import RunOverview, overviews

_COLUMNS = ("run", "state", "steps", "measured", "solo", "agents", "age", "preset")
_CUT = (("preset", 11), ("run", 20), ("measured", 6), ("preset", 0), ("run", 12))


def print_runs(folder: Path, console: Console) -> None:
    """The runs in a folder, with evaluations, replays and comparisons: a line each; with `--json` one document.

    Raises:
        RunError: there is no such folder.
    """
    now = time.time()
    lines = overviews(RunLibrary(folder), now=now)
    rows = [row for line in lines for row in _rows(line, now)]
    console.print(line_table(_COLUMNS, rows, width=console.width, cut=_CUT))
    for line in lines:
        if why := line.problem or line.reason:
            print_line(console, f"{line.name} {line.state or 'cannot be read'}: {why}", "yellow")
    note = "measured: the last mean reward of a run, pass@1 on each split of an evaluation"
    note = note if lines else "no runs yet; start one with `aipo train`"
    print_line(console, f"{len(lines)} in {folder}; {note}", "dim")
    print_result(console, [{**asdict(line), "age": line.changed and now - line.changed} for line in lines])


def _rows(line: RunOverview, now: float) -> list[Sequence[str]]:
    """One row, or for an evaluation of several splits one for each."""
    when = age(now - line.changed) if line.changed else "–"
    name = line.name
    if line.kind == "evaluation" and line.of is not None:
        name = f"  {name.rpartition('/evaluations/')[2]}"
    what = {"run": line.preset, "replay": f"replay {line.replay} of {line.of}"}.get(line.kind, line.kind)
    end = (when, what)
    if line.kind in ("comparison", "evaluation"):
        scores = [(split, *map(_number, means.values())) for split, means in line.scores.items()]
        first, *more = scores or [("", "", "")]
        return [(name, line.state, "", *first, *end), *(("", "", "", *row, "", "") for row in more)]
    steps = str(line.steps) if line.planned is None else f"{line.steps}/{line.planned}"
    measured = ("reward", *map(_number, line.reward.values())) if line.has_reward else ("", "", "")
    return [(name, line.state, steps, *measured, *end)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
