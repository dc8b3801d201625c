"""Bands: the charts of a matrix. Several seeds are one line, their median between the least and the most."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aipo.compare.figures import SETTINGS
from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import Outcome, Outcomes
from aipo.compare.standings import Standings
from aipo.method.metrics import solo_splits
from aipo.render import svg_charts as chart

Curve = Sequence[tuple[float, float]]
"""Points of one seed, in order of x."""

_Floats = npt.NDArray[np.float64]
_POINTS = 120
_SMOOTHING = 20
_SIZE, _NAMES, _NAME_LENGTH = (560.0, 320.0), 136.0, 18


def band(curves: Sequence[Curve], *, name: str, colour: str) -> chart.Line:
    """The median of the curves, each smoothed, with a band from the least to the most; one curve has none.

    Where curves have other x than each other, as with tokens, it goes as far as the shortest of them.
    """
    seen = [(np.array([x for x, _ in curve]), _smooth([y for _, y in curve])) for curve in curves if curve]
    if not seen:
        return chart.Line(name=name, colour=colour, x=(), y=())
    xs = _grid([x for x, _ in seen])
    values = np.array([np.interp(xs, x, y) for x, y in seen])
    ends = zip(values.min(0).tolist(), values.max(0).tolist(), strict=True)
    return chart.Line(
        name=name,
        colour=colour,
        x=xs.tolist(),
        y=np.median(values, 0).tolist(),
        band=list(ends) if len(seen) > 1 else (),
    )


def _smooth(values: Sequence[float]) -> _Floats:
    return np.array(chart.smooth(values, len(values) // _SMOOTHING * 2 + 1), float)


def _grid(xs: Sequence[_Floats]) -> _Floats:
    if all(np.array_equal(x, xs[0]) for x in xs):
        return xs[0]
    start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    return np.linspace(start, max(start, end), _POINTS)


def learning_charts(matrix: Matrix, outcomes: Outcomes, colours: Mapping[str, str]) -> Iterator[str]:
    """How right training rollouts are, over optimiser steps, generated tokens and agents' calls.

    Args:
        colours: by arm.
    """

    def bands(metrics: Sequence[str], x: Callable[[Outcome, int], float]) -> list[chart.Line]:
        lines = (
            band([_curve(o, metrics, x) for o in outcomes.of(arm)], name=_short(arm), colour=colours[arm])
            for arm in matrix.arms
        )
        return [line for line in lines if line.x and line.x[-1] > 0]

    def draw(lines: Sequence[chart.Line], title: str, x_label: str, who: str) -> str:
        return _draw(lines, title, x_label, f"share of {who} rollouts that are right")

    tokens, tokens_in = _unit(max((o.cost.generated_tokens for o in outcomes.found), default=0.0))
    calls, calls_in = _unit(max((o.cost.agent_calls for o in outcomes.found), default=0.0))
    yield draw(bands(_right("solo"), lambda o, i: i + 1), "Alone, while training", "optimiser step", "solo")
    yield draw(
        bands(_right("solo"), lambda o, i: o.costs[i].generated_tokens / tokens),
        "Alone, against what was generated",
        f"tokens that the policy generated{tokens_in}",
        "solo",
    )
    assisted = bands(_right("assisted"), lambda o, i: i + 1)
    if assisted:
        yield draw(assisted, "With agents, while training", "optimiser step", "assisted")
    logged = {name for one in outcomes.found for row in one.metrics[:1] for name in row}
    for split in solo_splits(logged):
        lines = bands((f"solo/{split}",), lambda o, i: i + 1)
        yield _draw(lines, f"{split}, alone, while training", "optimiser step", "mean reward alone")
    called = bands(_right("solo"), lambda o, i: o.costs[i].agent_calls / calls)
    if called:
        yield draw(called, "Alone, against agents' calls", f"calls of agents' models{calls_in}", "solo")


def cost_charts(matrix: Matrix, outcomes: Outcomes, colours: Mapping[str, str]) -> Iterator[str]:
    """The measure that decides against what training took; a dot for each seed."""
    measure = matrix.measure
    for cost, title, x_label in (
        (
            "generated_tokens",
            "After training, against what was generated",
            "tokens that the policy generated",
        ),
        ("agent_calls", "After training, against agents' calls", "calls of agents' models"),
    ):
        unit, word = _unit(max((getattr(o.cost, cost) for o in outcomes.found), default=0.0))
        lines: list[chart.Line] = []
        for arm in matrix.arms:
            points = [
                (getattr(o.cost, cost) / unit, value)
                for o in outcomes.of(arm)
                if (value := _pass_at(o, measure)) is not None
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            lines.append(chart.Line(name=_short(arm), colour=colours[arm], x=x, y=y, joined=False))
        yield _draw(lines, title, f"{x_label}{word}", _what(measure))


def pass_at_charts(matrix: Matrix, standings: Standings, colours: Mapping[str, str]) -> Iterator[str]:
    """pass@k over k for each split and setting without agents that has more than one k."""
    for split, setting in dict.fromkeys((m.split, m.setting) for m in matrix.measures):
        measures = [m for m in matrix.measures if (m.split, m.setting) == (split, setting)]
        if setting == "assisted" or len(measures) < 2:
            continue
        lines: list[chart.Line] = []
        for arm in standings.arms:
            values = [(m.k, one) for m in measures if (one := standings.of[m, arm].estimate) is not None]
            bands = [one.interval for _, one in values if one.interval is not None]
            lines.append(
                chart.Line(
                    name=_short(arm),
                    colour=colours[arm],
                    x=[k for k, _ in values],
                    y=[one.mean for _, one in values],
                    band=bands if len(bands) == len(values) else (),
                )
            )
        yield _draw(lines, f"{split}, {SETTINGS[setting]}", "k, samples per task", "pass@k", log=True)


def _right(kind: str) -> tuple[str, str]:
    """The share of a kind of rollouts that are right, or their mean reward where that is no part of it."""
    return f"reward_part/correct/{kind}", f"reward/{kind}"


def _curve(outcome: Outcome, metrics: Sequence[str], x: Callable[[Outcome, int], float]) -> Curve:
    """The first of `metrics` that was logged, wherever one was."""
    values = [next((row[n] for n in metrics if row.get(n) is not None), None) for row in outcome.metrics]
    return [(float(x(outcome, i)), value) for i, value in enumerate(values) if value is not None]


def _pass_at(outcome: Outcome, measure: Measure) -> float | None:
    scores = outcome.scores(measure).values()
    return sum(scored.value for scored in scores) / len(scores) if scores else None


def _draw(lines: Sequence[chart.Line], title: str, x_label: str, y_label: str, *, log: bool = False) -> str:
    return chart.chart(
        lines,
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_range=None if log else (0.0, 0.0),
        y_range=(0.0, 1.0),
        log=log,
        size=_SIZE,
        names=_NAMES,
    )


def _what(measure: Measure) -> str:
    return f"{measure.split}, {SETTINGS[measure.setting]}, pass@{measure.k}"


def _unit(most: float) -> tuple[float, str]:
    """What an axis counts in, and how it says so."""
    return (1e6, ", millions") if most >= 2e6 else (1e3, ", thousands") if most >= 2e3 else (1.0, "")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
