"""The first page: every run and evaluation at a glance, and any two of them to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from aipo.errors import AipoError
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.run_files import Scores, Splits
from aipo.viewer.data.run_summary import head
from aipo.viewer.links import Links
from aipo.viewer.responses import render

LIVE_S = 60.0
MOST_PAIRED = 6


@dataclass(slots=True, kw_only=True)
class RunLine:
    """One line of the table.

    Args:
        label: the name, without the part that the line above says.
        evaluation: it is one of the run above.
        replay: the question of a replay.
        state: `live`, `finished`, `stopped` or nothing, if nobody can tell.
        reward: the last mean reward of assisted and of solo rollouts.
        scores: (split, solo pass@1, pass@1 with agents) of an evaluation.
        notes: what is wrong with its metrics and scores.
        problem: why the run cannot be read.
    """

    name: str
    label: str
    href: str
    evaluation: bool
    method: Sequence[tuple[str, str]] = ()
    state: str = ""
    replay: str | None = None
    steps: int = 0
    planned: int | None = None
    traces: int = 0
    reward: tuple[float | None, float | None] = (None, None)
    scores: Sequence[tuple[str, float | None, float | None]] = ()
    notes: Sequence[str] = ()
    problem: str | None = None


def home_page(library: RunLibrary, links: Links, *, now: float | None) -> str:
    """The page as HTML. `now`: seconds since 1970, None where nothing is live."""
    runs = library.runs()
    names = [run.name for run in runs]
    trained = [run.name for run in runs if run.evaluation is None]
    # A static site has a page for every two runs, unless they are many.
    pairs = [] if links.live or len(names) > MOST_PAIRED else combinations(names, 2)
    return render(
        "home.html.j2",
        links,
        live=links.version() if links.live else None,
        root=str(library.root) if links.live else library.root.name,
        rows=[_line(run, links, now) for run in runs],
        second=(trained[1:] or names[1:] or [""])[0],
        pairs=list(pairs),
    )


def _line(run: RunView, links: Links, now: float | None) -> RunLine:
    _, below, label = run.name.rpartition("/evaluations/") if run.evaluation else ("", "", run.name)
    line = RunLine(name=run.name, label=label, href=links.run(run.name), evaluation=bool(below))
    try:
        _fill(line, run, now)
    except AipoError as error:
        line.problem = str(error)
    return line


def _fill(line: RunLine, run: RunView, now: float | None) -> None:
    line.traces, steps = run.size()
    line.notes = run.problems()
    if run.evaluation is not None:
        line.scores = _pass_at_1(run.evaluations().get(run.evaluation, {}))
    else:
        about, metrics = head(run.config(), run.manifest()), run.metrics().rows
        line.method, line.steps, line.planned = about.method, steps, about.steps
        line.replay, _ = run.replayed() or (None, None)
        line.reward = _last(metrics, "reward/assisted"), _last(metrics, "reward/solo")
        trained = about.steps is not None and steps >= about.steps
        line.state = "finished" if trained or run.replay() else "stopped"
    if now is not None and not run.replay() and now - run.changed() < LIVE_S:
        line.state = "live"


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
