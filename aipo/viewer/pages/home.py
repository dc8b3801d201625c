"""The first page: every run and evaluation at a glance, and any two of them to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aipo.errors import AipoError
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.run_summary import head
from aipo.viewer.links import Links
from aipo.viewer.responses import render

LIVE_S = 60.0
MOST_PAIRED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
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
    evaluation: bool = False
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
    names = [run.name for run in runs if run.evaluation is None]
    return render(
        "home.html.j2",
        links,
        live=links.version() if links.live else None,
        root=str(library.root) if links.live else library.root.name,
        rows=[_row(run, links, now) for run in runs],
        second=(names[1:] or [run.name for run in runs][1:] or [""])[0],
        pairs=[] if links.live else _pairs(runs, links),
    )


def _row(run: RunView, links: Links, now: float | None) -> RunLine:
    below = run.evaluation is not None and "/evaluations/" in run.name
    label = run.name.rpartition("/evaluations/")[2] if below else run.name
    facts: dict[str, Any] = {
        "name": run.name,
        "label": label,
        "href": links.run(run.name),
        "evaluation": below,
    }
    try:
        traces, steps = run.size()
        facts["notes"] = run.problems()
        if run.evaluation is not None:
            scores = _scores(run.evaluations().get(run.evaluation, {}))
            return RunLine(**facts, traces=traces, scores=scores, state=_state(run, now, None))
        about, metrics = head(run.config(), run.manifest()), run.metrics()
        origin = run.replayed()
        return RunLine(
            **facts,
            method=about.method,
            replay=None if origin is None else origin[0],
            traces=traces,
            steps=steps,
            planned=about.steps,
            reward=(_last(metrics, "reward/assisted"), _last(metrics, "reward/solo")),
            state=_state(run, now, about.steps is not None and steps >= about.steps),
        )
    except AipoError as error:
        return RunLine(**facts, problem=str(error))


def _state(run: RunView, now: float | None, complete: bool | None) -> str:
    if now is not None and now - run.changed() < LIVE_S:
        return "live"
    return {True: "finished", False: "stopped", None: ""}[complete]


def _last(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The newest value. Metrics of rollouts are in one row of each rollout step only."""
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)


def _scores(evaluation: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """pass@1 by split, solo and with agents."""

    def first(result: Mapping[str, Any]) -> float | None:
        return result.get("pass_at", {}).get("1")

    return [
        (split, first(settings.get("solo", {})), first(settings.get("assisted", {})))
        for split, settings in evaluation.items()
    ]


def _pairs(runs: Sequence[RunView], links: Links) -> list[tuple[str, str, str]]:
    """Every two runs and the link to their page; nothing if they are many."""
    names = [run.name for run in runs]
    if len(names) > MOST_PAIRED:
        return []
    return [
        (left, right, links.compare(left, right)) for i, left in enumerate(names) for right in names[i + 1 :]
    ]
