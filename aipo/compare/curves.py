"""The charts of a matrix, as data. Several seeds are one line: their median, in a band from the least to the most."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import ArmResult, MatrixResults
from aipo.compare.sections import BEFORE, SETTINGS
from aipo.compare.standings import Standings
from aipo.compare.tables import measure_label
from aipo.method.metrics import ROLES, solo_splits
from aipo.render.charts import COLOURS, Chart, Line, smooth

Curve = Sequence[tuple[float, float]]
"""Points of one seed, in order of x."""

_POINTS = 120
_COST_LABELS = {
    "generated_tokens": "tokens that the policy generated",
    "consults": "requests to agents",
}


def colours(matrix: Matrix) -> Mapping[str, str]:
    """The colour of each arm, in tables and charts; the first is the policy before training."""
    return {BEFORE: "c0", **{arm: f"c{1 + i % (COLOURS - 1)}" for i, arm in enumerate(matrix.arms)}}


def band(curves: Sequence[Curve], *, name: str, colour: str) -> Line:
    """The median of the curves, each smoothed, with a band from the least to the most.

    One curve has no band, but its single values behind it. Where curves have different x, as with tokens, the line
    ends with the shortest of them.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return Line(name=name, colour=colour, x=(), y=())
    points = [np.array(curve, float).T for curve in curves]
    xs = _grid([x for x, _ in points])
    smoothed = [smooth(y.tolist()) for _, y in points]
    values = np.array(
        [np.interp(xs, x, np.array(y, float)) for (x, _), y in zip(points, smoothed, strict=True)]
    )
    several = len(curves) > 1
    ends = zip(values.min(0).tolist(), values.max(0).tolist(), strict=True)
    return Line(
        name=name,
        colour=colour,
        x=xs.tolist(),
        y=np.median(values, 0).tolist(),
        band=list(ends) if several else (),
        raw=() if several else [y for _, y in curves[0]],
    )


def _grid(xs: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    if all(np.array_equal(x, xs[0]) for x in xs):
        return xs[0]
    start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    return np.linspace(start, max(start, end), _POINTS)


def learning_charts(matrix: Matrix, results: MatrixResults) -> list[Chart]:
    """Rewards of training rollouts, over optimizer steps, generated tokens and consults."""

    def chart(title: str, y_label: str, metrics: Sequence[str], cost: str = "") -> Chart:
        divisor, x_label = _cost_axis(results, cost) if cost else (1.0, "optimizer step")
        lines = (
            band([_curve(r, metrics, cost, divisor) for r in results.of(arm)], name=arm, colour=colour)
            for arm, colour in colours(matrix).items()
        )
        return Chart(
            title=title,
            lines=[line for line in lines if line.x and line.x[-1] > 0],
            x_label=x_label,
            y_label=y_label,
            x_range=(0.0, 0.0),
            y_range=(0.0, 1.0),
        )

    def right(title: str, kind: str, what: str, cost: str = "") -> Chart:
        """The share of right rollouts of a kind, or their mean reward where correctness is no reward part."""
        metrics = (f"reward_part/correct/{kind}", f"reward/{kind}")
        return chart(title, f"share of {what} rollouts that are right", metrics, cost)

    logged = {name for result in results.finished for row in result.metrics for name in row}
    charts = [
        right("Solo, while training", "solo", "solo"),
        right("Solo, against generated tokens", "solo", "solo", "generated_tokens"),
        right("Solo, consult tags suppressed", "suppressed", "these"),
        right("With agents, while training", "assisted", "assisted"),
        right("With agents, against generated tokens", "assisted", "assisted", "generated_tokens"),
        right("With agents, against consults", "assisted", "assisted", "consults"),
        *(
            chart(f"{split}, solo, while training", "mean solo reward", (f"solo/{split}",))
            for split in solo_splits(logged)
        ),
        right("Solo, against consults", "solo", "solo", "consults"),
        chart("Rollouts that teach", "share of rollouts with an advantage", ("active_share",)),
    ]
    return [one for one in charts if one.lines] or charts[:2]


def method_charts(results: MatrixResults, arm: str, agents: Sequence[str]) -> list[Chart]:
    """Charts of one arm: the consults of each agent, and the share of the loss by kind of token.

    Args:
        agents: an order that gives each its colour, the same as in the traces.
    """

    def lines(metric: str, names: Sequence[str], first: int) -> list[Line]:
        bands = (
            band(
                [_curve(result, (f"{metric}/{name}",)) for result in results.of(arm)],
                name=name,
                colour=f"k{(first + i) % 6}",
            )
            for i, name in enumerate(names)
        )
        return [line for line in bands if line.x]

    return [
        Chart(
            title=f"Who is asked ({arm})",
            lines=lines("consults", agents, 0),
            x_label="optimizer step",
            y_label="consults per assisted rollout",
        ),
        Chart(
            title=f"What the loss is made of ({arm})",
            lines=lines("loss_share", tuple(ROLES), 3),
            x_label="optimizer step",
            y_label="share of the loss",
            y_range=(0.0, 1.0),
        ),
    ]


def cost_charts(matrix: Matrix, results: MatrixResults, split_names: Mapping[str, str]) -> list[Chart]:
    """The measure that decides against the cost of training, and the same alone and with agents; a dot for each seed."""
    others = [replace(matrix.measure, setting=setting) for setting in ("solo", "assisted")]
    measures = dict.fromkeys([matrix.measure, *(one for one in others if one in matrix.measures)])

    def dots(arm: str, measure: Measure, cost: str, divisor: float) -> Line:
        points = [(getattr(r.cost, cost) / divisor, r.pass_at(measure)) for r in results.of(arm)]
        x, y = zip(*points, strict=True) if points else ((), ())
        return Line(name=arm, colour=colours(matrix)[arm], x=x, y=y, joined=False)

    def chart(measure: Measure, title: str, cost: str) -> Chart:
        divisor, x_label = _cost_axis(results, cost)
        return Chart(
            title=title,
            lines=[dots(arm, measure, cost, divisor) for arm in matrix.arms],
            x_label=x_label,
            y_label=measure_label(measure, split_names),
            x_range=(0.0, 0.0),
            y_range=(0.0, 1.0),
        )

    return [
        chart(measure, f"After training, {SETTINGS[measure.setting]}, against {against}", cost)
        for measure in measures
        for against, cost in (("generated tokens", "generated_tokens"), ("consults", "consults"))
    ]


def pass_at_charts(matrix: Matrix, standings: Standings, split_names: Mapping[str, str]) -> list[Chart]:
    """pass@k over k for each split and setting without agents that has more than one k."""

    def line(arm: str, measures: Sequence[Measure]) -> Line:
        values = [(m.k, e) for m in measures if (e := standings.of[m, arm].estimate) is not None]
        bands = [estimate.interval for _, estimate in values if estimate.interval is not None]
        return Line(
            name=arm,
            colour=colours(matrix)[arm],
            x=[k for k, _ in values],
            y=[estimate.mean for _, estimate in values],
            band=bands if len(bands) == len(values) else (),
        )

    places = groupby(matrix.measures, key=lambda measure: (measure.split, measure.setting))
    curves = {place: list(measures) for place, measures in places}
    return [
        Chart(
            title=f"{split_names.get(split, split)}, {SETTINGS[setting]}",
            lines=[line(arm, measures) for arm in standings.arms],
            x_label="k, samples per task",
            y_label="pass@k",
            y_range=(0.0, 1.0),
            log=True,
        )
        for (split, setting), measures in curves.items()
        if setting != "assisted" and len(measures) > 1
    ]


def _curve(result: ArmResult, metrics: Sequence[str], cost: str = "", divisor: float = 1.0) -> Curve:
    """The first of `metrics` that a row has, over the optimizer step or the cost so far."""
    points: list[tuple[float, float]] = []
    for i, row in enumerate(result.metrics):
        value = next((row[name] for name in metrics if row.get(name) is not None), None)
        if value is not None:
            points.append((getattr(result.costs[i], cost) / divisor if cost else i + 1.0, value))
    return points


def _cost_axis(results: MatrixResults, cost: str) -> tuple[float, str]:
    """The divisor of an axis's numbers, and its label."""
    most = max((getattr(result.cost, cost) for result in results.finished), default=0.0)
    divisor, unit = (1e6, ", millions") if most >= 2e6 else (1e3, ", thousands") if most >= 2e3 else (1.0, "")
    return divisor, f"{_COST_LABELS[cost]}{unit}"
