"""The page of an evaluation: its scores, by level and subject too, and its tasks, those with wrong answers first.

NAME.json      →  table and charts  ┐
samples.jsonl  →  lines of tasks    ├→  evaluation.html.j2
query string   →  TaskQuery         ┘
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import NamedTuple

from aipo.compare.sections import SETTINGS
from aipo.render.charts import Chart, Line, data_block, figure
from aipo.viewer.data.evaluation import EvaluationView, view_of
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import source_of, state
from aipo.viewer.data.run_files import Curves, Scores
from aipo.viewer.links import Links
from aipo.viewer.pages.task_list import SHOW, listing, read_query
from aipo.viewer.responses import render

COLOURS = {"solo": "c1", "suppressed": "c3", "assisted": "c2"}
_COSTS = {
    "tokens": "tokens",
    "consults": "consults",
    "agent_tokens": "agents' tokens",
    "calls": "agents' calls",
}
_OTHERS = 12


def evaluation_page(
    run: RunView, params: Mapping[str, str], links: Links, library: RunLibrary, *, now: float | None = None
) -> str:
    """The page as HTML.

    Args:
        params: the query string; of a static site only the number of the page.
        library: the evaluations that the page links to.
        now: seconds since 1970; None where nothing is live.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: another file of the evaluation cannot.
    """
    version, end = run.version(), state(run, now)
    view = view_of(run)
    query, problems = read_query(params, view)
    charts = [*pass_at_charts(view)]
    return render(
        "evaluation.html.j2",
        links,
        live=links.version(run.name) if links.live else None,
        version=f"{version} {end.state}",
        run=run,
        end=end,
        running=end.state == "running",
        source=source_of(run, library.names()),
        view=view,
        problems=[*run.problems(), *problems],
        settings=SETTINGS,
        colours=COLOURS,
        measures=measures(view),
        costs={
            name: word for name, word in _COSTS.items() if any(_cost(one, name) for _, _, one in each(view))
        },
        cost=_cost,
        dollars=any(scores.cost.get("dollars") for _, _, scores in each(view)),
        lines=[*each(view)],
        by_label=[*by_label(view)],
        figures=[figure(number, chart) for number, chart in enumerate(charts)],
        charts_data=data_block(charts),
        query=query,
        show=SHOW,
        zipped=lambda values: [(value, value) for value in values],
        labels=[
            (one, one) for name, values in view.labels.items() for one in (f"{name}: {v}" for v in values)
        ],
        listing=listing(run, view, query, links),
        page_link=query.page_link(run, links),
        others=others(run, library) if links.live else [],
    )


class ScoreCell(NamedTuple):
    """A measure and its interval."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ScoreMeasure:
    """A column of scores: pass@k, avg@k or maj@k. `also` is another measure that has the same values everywhere."""

    kind: str
    k: int
    also: str = ""

    def __str__(self) -> str:
        return f"{self.kind}@{self.k}{self.also}"

    def of(self, scores: Curves) -> ScoreCell:
        values, intervals = {
            "pass": (scores.pass_at, scores.interval),
            "avg": (scores.avg_at, scores.avg_interval),
            "maj": (scores.maj_at, scores.maj_interval),
        }[self.kind]
        return ScoreCell(values.get(self.k), intervals.get(self.k))


def each(view: EvaluationView) -> Iterator[tuple[str, str, Scores]]:
    """Data set, setting and scores, in the usual order of settings."""
    for split, settings in view.scores.items():
        for setting in SETTINGS:
            if setting in settings:
                yield split, setting, settings[setting]


def measures(view: EvaluationView) -> list[ScoreMeasure]:
    """The columns: pass@k of the smallest and the largest k of any data set, avg@n, and maj@k of the largest k. Where every
    verdict is 0 or 1, avg@n is pass@1, and has no column of its own."""
    scores = [scores for _, _, scores in each(view)]
    passes = sorted({k for one in scores for k in (min(one.pass_at, default=1), max(one.pass_at, default=1))})
    averages = sorted({k for one in scores for k in one.avg_at})
    majorities = sorted({max(one.maj_at) for one in scores if one.maj_at})
    also = ""
    if (
        averages
        and 1 in passes
        and all(
            isclose(one.pass_at.get(1) or 0.0, value or 0.0)
            for one in scores
            for value in one.avg_at.values()
        )
    ):
        also, averages = " = avg@" + ", ".join(map(str, averages)), []
    return [
        *(ScoreMeasure("pass", k, also if k == 1 else "") for k in passes),
        *(ScoreMeasure("avg", k) for k in averages),
        *(ScoreMeasure("maj", k) for k in majorities),
    ]


def _cost(scores: Scores, name: str) -> float | None:
    """Of one rollout on average; None where nobody recorded it."""
    total, rollouts = scores.cost.get(name), scores.counts.get("rollouts")
    return total / rollouts if total is not None and rollouts else None


def pass_at_charts(view: EvaluationView) -> Iterator[Chart]:
    """pass@k, and maj@k where it is known, over k: a chart for each data set with more than one k."""
    for split in view.scores:
        lines: list[Line] = []
        for setting in (setting for setting in SETTINGS if setting in view.scores[split]):
            scores, colour = view.scores[split][setting], COLOURS[setting]
            lines.append(_line(f"{setting}", colour, scores.pass_at, scores.interval))
            if scores.maj_at:
                lines.append(replace(_line(f"{setting}, maj@k", colour, scores.maj_at, {}), dashed=True))
        if any(len(line.x) > 1 for line in lines):
            yield Chart(
                title=split,
                lines=lines,
                x_label="k, samples per task",
                y_label="pass@k",
                y_range=(0.0, 1.0),
                log=True,
            )


def _line(
    name: str,
    colour: str,
    values: Mapping[int, float | None],
    intervals: Mapping[int, tuple[float, float] | None],
) -> Line:
    ks = sorted(k for k, value in values.items() if value is not None)
    bands = [band for k in ks if (band := intervals.get(k)) is not None]
    return Line(
        name=name, colour=colour, x=ks, y=[values[k] for k in ks], band=bands if len(bands) == len(ks) else ()
    )


class LabelTable(NamedTuple):
    """The scores of a data set by the values of a label; a value has its tasks and a cell for each setting."""

    split: str
    label: str
    measure: str
    settings: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[ScoreCell]]]


def by_label(view: EvaluationView) -> Iterator[LabelTable]:
    """pass@k of the smallest k by level, subject and whatever else the environment says of its tasks."""
    for split, settings in view.scores.items():
        used = [setting for setting in SETTINGS if setting in settings]
        labels = dict.fromkeys(label for setting in used for label in settings[setting].by)
        for label in labels:
            curves = [settings[setting].by.get(label, {}) for setting in used]
            values = sorted({value for by_value in curves for value in by_value}, key=_natural)
            k = min((k for by_value in curves for one in by_value.values() for k in one.pass_at), default=1)
            measure = ScoreMeasure("pass", k)
            rows = [
                (
                    value,
                    max(by_value[value].tasks or 0 for by_value in curves if value in by_value),
                    [measure.of(by_value.get(value, Curves())) for by_value in curves],
                )
                for value in values
            ]
            if len(rows) > 1:
                yield LabelTable(split, label, str(measure), used, rows)


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by size, and before words."""
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def others(run: RunView, library: RunLibrary) -> list[str]:
    """Other evaluations of the library with a data set in common, to be compared with."""
    own = {*run.evaluations().get(run.evaluation or "", {})}
    found = [
        other.name
        for other in library.runs()
        if other.evaluation is not None
        and other.name != run.name
        and own & {*other.evaluations().get(other.evaluation, {})}
    ]
    return found[:_OTHERS]
