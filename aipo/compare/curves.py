"""The charts of a matrix, as data. Several seeds are one line: their median, in a band from the least to the most."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import ArmResult, MatrixResults
from aipo.compare.sections import BEFORE, SETTINGS
from aipo.compare.standings import Standings
from aipo.compare.tables import measure_label
from aipo.method.metrics import solo_splits
from aipo.render.charts import COLOURS, Chart, Line, smooth

Curve = Sequence[tuple[float, float]]
"""Points of one seed, in order of x."""

_Floats = npt.NDArray[np.float64]
_XOf = Callable[[ArmResult, int], float]
_POINTS = 120
_SMOOTHING = 20
_ROLES = ("policy", "agent", "distilled")


def colours(matrix: Matrix) -> Mapping[str, str]:
    """The colour of each arm, in tables and charts; the first is the policy before training."""
    return {BEFORE: "c0", **{arm: f"c{1 + i % (COLOURS - 1)}" for i, arm in enumerate(matrix.arms)}}


def band(curves: Sequence[Curve], *, name: str, colour: str) -> Line:
    """The median of the curves, each smoothed, with a band from the least to the most.

    One curve has no band, but its single values behind it. Where curves have different x, as with tokens, the line
    ends with the shortest of them.
    """
    smoothed = [
        (np.array([x for x, _ in curve]), _smooth([y for _, y in curve])) for curve in curves if curve
    ]
    if not smoothed:
        return Line(name=name, colour=colour, x=(), y=())
    xs = _grid([x for x, _ in smoothed])
    values = np.array([np.interp(xs, x, y) for x, y in smoothed])
    several = len(smoothed) > 1
    ends = zip(values.min(0).tolist(), values.max(0).tolist(), strict=True)
    return Line(
        name=name,
        colour=colour,
        x=xs.tolist(),
        y=np.median(values, 0).tolist(),
        band=list(ends) if several else (),
        raw=() if several else [y for curve in curves for _, y in curve],
    )


def _smooth(values: Sequence[float]) -> _Floats:
    return np.array(smooth(values, len(values) // _SMOOTHING * 2 + 1), float)


def _grid(xs: Sequence[_Floats]) -> _Floats:
    if all(np.array_equal(x, xs[0]) for x in xs):
        return xs[0]
    start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    return np.linspace(start, max(start, end), _POINTS)


def learning_charts(matrix: Matrix, results: MatrixResults) -> list[Chart]:
    """Rewards of training rollouts, over optimizer steps, generated tokens and agents' calls."""
    logged = {name for result in results.finished for row in result.metrics for name in row}
    tokens, tokens_unit = _unit(max((r.cost.generated_tokens for r in results.finished), default=0.0))
    calls, calls_unit = _unit(max((r.cost.agent_calls for r in results.finished), default=0.0))
    right = "share of {} rollouts that are right"

    def chart(metrics: Sequence[str], title: str, y_label: str, x: _XOf = _step, x_label: str = "") -> Chart:
        lines = (
            band([_curve(r, metrics, x) for r in results.of(arm)], name=arm, colour=colour)
            for arm, colour in colours(matrix).items()
        )
        return Chart(
            title=title,
            lines=[line for line in lines if line.x and line.x[-1] > 0],
            x_label=x_label or "optimizer step",
            y_label=y_label,
            x_range=(0.0, 0.0),
            y_range=(0.0, 1.0),
        )

    charts = [
        chart(_right("solo"), "Solo, while training", right.format("solo")),
        chart(
            _right("solo"),
            "Solo, against generated tokens",
            right.format("solo"),
            lambda r, i: r.costs[i].generated_tokens / tokens,
            f"tokens that the policy generated{tokens_unit}",
        ),
        chart(_right("suppressed"), "Solo, consult tags suppressed", right.format("these")),
        chart(_right("assisted"), "With agents, while training", right.format("assisted")),
        *(
            chart((f"solo/{split}",), f"{split}, solo, while training", "mean solo reward")
            for split in solo_splits(logged)
        ),
        chart(
            _right("solo"),
            "Solo, against agents' calls",
            right.format("solo"),
            lambda r, i: r.costs[i].agent_calls / calls,
            f"calls of agents' models{calls_unit}",
        ),
        chart(("active_share",), "Rollouts that teach", "share of rollouts with an advantage"),
    ]
    return charts[:2] + [one for one in charts[2:] if one.lines]


def method_charts(results: MatrixResults, arm: str, agents: Sequence[str]) -> list[Chart]:
    """Charts of one arm: the consults of each agent, and the share of the loss by kind of token.

    Args:
        agents: an order that gives each its colour, the same as in the traces.
    """

    def lines(metric: str, names: Sequence[str], first: int) -> list[Line]:
        bands = (
            band(
                [_curve(r, (f"{metric}/{name}",), _step) for r in results.of(arm)],
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
            lines=lines("loss_share", _ROLES, 3),
            x_label="optimizer step",
            y_label="share of the loss",
            y_range=(0.0, 1.0),
        ),
    ]


def cost_charts(matrix: Matrix, results: MatrixResults, split_names: Mapping[str, str]) -> list[Chart]:
    """The measure that decides against the cost of training; a dot for each seed."""
    measure = matrix.measure
    charts: list[Chart] = []
    for cost, title, x_label in (
        (
            "generated_tokens",
            "After training, against generated tokens",
            "tokens that the policy generated",
        ),
        ("agent_calls", "After training, against agents' calls", "calls of agents' models"),
    ):
        divisor, unit = _unit(max((getattr(r.cost, cost) for r in results.finished), default=0.0))
        lines: list[Line] = []
        for arm, colour in colours(matrix).items():
            points = [
                (getattr(r.cost, cost) / divisor, value)
                for r in results.of(arm)
                if arm != BEFORE and (value := _pass_at(r, measure)) is not None
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            lines.append(Line(name=arm, colour=colour, x=x, y=y, joined=False))
        charts.append(
            Chart(
                title=title,
                lines=lines,
                x_label=f"{x_label}{unit}",
                y_label=measure_label(measure, split_names),
                x_range=(0.0, 0.0),
                y_range=(0.0, 1.0),
            )
        )
    return charts


def pass_at_charts(matrix: Matrix, standings: Standings, split_names: Mapping[str, str]) -> list[Chart]:
    """pass@k over k for each split and setting without agents that has more than one k."""
    charts: list[Chart] = []
    for split, setting in dict.fromkeys((m.split, m.setting) for m in matrix.measures):
        measures = [m for m in matrix.measures if (m.split, m.setting) == (split, setting)]
        if setting == "assisted" or len(measures) < 2:
            continue
        lines: list[Line] = []
        for arm in standings.arms:
            values = [(m.k, e) for m in measures if (e := standings.of[m, arm].estimate) is not None]
            bands = [estimate.interval for _, estimate in values if estimate.interval is not None]
            lines.append(
                Line(
                    name=arm,
                    colour=colours(matrix)[arm],
                    x=[k for k, _ in values],
                    y=[estimate.mean for _, estimate in values],
                    band=bands if len(bands) == len(values) else (),
                )
            )
        charts.append(
            Chart(
                title=f"{split_names.get(split, split)}, {SETTINGS[setting]}",
                lines=lines,
                x_label="k, samples per task",
                y_label="pass@k",
                y_range=(0.0, 1.0),
                log=True,
            )
        )
    return charts


def _step(result: ArmResult, row: int) -> float:
    return row + 1


def _right(kind: str) -> tuple[str, str]:
    """The share of right rollouts of a kind, or their mean reward where correctness is no reward part."""
    return f"reward_part/correct/{kind}", f"reward/{kind}"


def _curve(result: ArmResult, metrics: Sequence[str], x: _XOf) -> Curve:
    """The first of `metrics` that a row has, over all rows that have one."""
    values = [next((row[n] for n in metrics if row.get(n) is not None), None) for row in result.metrics]
    return [(float(x(result, i)), value) for i, value in enumerate(values) if value is not None]


def _pass_at(result: ArmResult, measure: Measure) -> float | None:
    scores = result.scores(measure).values()
    return sum(scored.value for scored in scores) / len(scores) if scores else None


def _unit(most: float) -> tuple[float, str]:
    """The unit of an axis: the divisor of its numbers, and the end of its label."""
    return (1e6, ", millions") if most >= 2e6 else (1e3, ", thousands") if most >= 2e3 else (1.0, "")
