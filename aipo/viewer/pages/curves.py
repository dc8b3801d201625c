"""Metrics of a run as small charts that share one horizontal axis: the step that the traces are filed under.

`metrics.jsonl` counts optimiser steps, of which one generation has several; a trace knows its generation. So
the lines of a generation become one, and a step that is pointed at in a chart is a step of the lists below.

    metrics.jsonl  →  by_step  →  windows (about 400)  →  panels: SVG, and plain numbers for the pointer
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from aipo.compare.figures import Arm, metric_line
from aipo.method.metrics import solo_splits
from aipo.render import charts as chart
from aipo.util.text import visible

POINTS = 400
SIZE = (300.0, 178.0)
_NAME_LENGTH = 12
_COUNTERS = ("step", "epoch")
_KINDS = (("solo", "c1"), ("assisted", "c2"), ("suppressed", "c3"), ("expert", "c4"))
_ROLES = (("policy", "k3"), ("agent", "k4"), ("distilled", "k5"))


@dataclass(frozen=True, slots=True)
class Window:
    """Steps `first` to `last` (inclusive) and the mean of each metric over them; None where it was never finite."""

    first: int
    last: int
    values: Mapping[str, float | None]

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart. `numbers` is what a pointer over it asks for: names, colours and values of the lines."""

    title: str
    svg: Markup
    numbers: Mapping[str, Any]
    folded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The charts of a run; empty when it has no metrics."""

    panels: tuple[Panel, ...] = ()
    windows: tuple[Window, ...] = ()

    @property
    def shown(self) -> list[Panel]:
        return [panel for panel in self.panels if not panel.folded]

    @property
    def folded(self) -> list[Panel]:
        return [panel for panel in self.panels if panel.folded]

    def data(self) -> Mapping[str, Any]:
        """For the page's script: where a chart's pixels are, which steps a point stands for, and its values."""
        return {
            "frame": {"wide": SIZE[0], "high": SIZE[1], "left": chart.LEFT, "right": chart.RIGHT}
            | {"top": chart.TOP, "bottom": chart.BOTTOM},
            "steps": [[w.first, w.last] for w in self.windows],
            "charts": [panel.numbers for panel in (*self.shown, *self.folded)],
        }


@dataclass(frozen=True, slots=True)
class _Plot:
    """What one chart shows: (metric, name, colour) of each line. `share`: the axis is 0 to 1 if that holds all."""

    title: str
    y_label: str
    lines: Sequence[tuple[str, str, str]]
    share: bool = False
    folded: bool = False


def curves(metrics: Sequence[Mapping[str, Any]], agents: Sequence[str]) -> Curves:
    """The charts of `metrics` (lines of metrics.jsonl). `agents` gives each agent its colour, as in the traces."""
    found = windows(by_step(metrics), POINTS)
    if not found:
        return Curves()
    names = {name for window in found for name in window.values}
    rows = [{"step": w.middle, **w.values} for w in found]
    panels = [_panel(plot, rows) for plot in _plots(names, agents)]
    return Curves(panels=tuple(p for p in panels if p is not None), windows=tuple(found))


def by_step(metrics: Iterable[Mapping[str, Any]]) -> list[Window]:
    """One window for each generation, in order. A generation that was trained twice counts as one."""
    lines: dict[int, list[Mapping[str, Any]]] = {}
    for row in metrics:
        lines.setdefault(_generation(row), []).append(row)
    means = ((step, _mean(rows)) for step, rows in sorted(lines.items()))
    return [Window(step, step, {**mean, **_mean_reward(mean), **_failing(mean)}) for step, mean in means]


def windows(steps: Sequence[Window], most: int) -> list[Window]:
    """At most `most` windows, each the mean of as many neighbours."""
    size = max(1, math.ceil(len(steps) / most))
    chunks = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [Window(c[0].first, c[-1].last, _mean([w.values for w in c])) for c in chunks]


def _generation(row: Mapping[str, Any]) -> int:
    """Generations are counted from 0, optimiser steps from 1; `epoch` is generations trained so far."""
    trained = row.get("epoch")
    return int(row["step"]) - 1 if trained is None else math.ceil(trained - 1e-4) - 1


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The mean of each metric over the rows that have it; the largest, where the metric is a maximum."""
    seen: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            known = seen.setdefault(name, [])
            if value is not None:
                known.append(value)
    return {name: _one(name, values) for name, values in seen.items() if name not in _COUNTERS}


def _one(name: str, values: Sequence[float]) -> float | None:
    if not values:
        return None
    return max(values) if name.endswith("/max") else sum(values) / len(values)


def _mean_reward(values: Mapping[str, float | None]) -> dict[str, float]:
    """The mean reward of all kinds together, weighted by how many rollouts each had."""
    pairs = [(values.get(f"reward/{kind}"), values.get(f"rollouts/{kind}")) for kind, _ in _KINDS]
    known = [(reward, count) for reward, count in pairs if reward is not None and count]
    total = sum(count for _, count in known)
    return {"reward/mean": sum(reward * count for reward, count in known) / total} if total else {}


def _failing(values: Mapping[str, float | None]) -> dict[str, float]:
    """Failing consults per assisted rollout: 0 where nobody was asked, so that the line has no holes."""
    asked = {name.split("/", 1)[1]: count for name, count in values.items() if name.startswith("consults/")}
    return {
        f"failing/{agent}": count * (values.get(f"consult_errors/{agent}") or 0.0)
        for agent, count in asked.items()
        if count is not None
    }


def _plots(names: set[str], agents: Sequence[str]) -> Iterable[_Plot]:
    """Every chart that the page may show, the important ones first."""
    asked = [(agent, f"k{i % 6}") for i, agent in enumerate(agents)]
    parts = sorted({name.split("/")[1] for name in names if name.startswith("reward_part/")})
    parts.sort(key=lambda part: part != "correct")

    yield _Plot(
        "Reward", "mean over rollouts", [*_each("reward", _KINDS), ("reward/mean", "mean", "c0")], True
    )
    for i, part in enumerate(parts):
        title = "Accuracy" if part == "correct" else f"Reward part {part}"
        yield _Plot(title, "mean over rollouts", _each(f"reward_part/{part}", _KINDS), True, folded=i > 0)
    own = [(split, f"k{i % 6}") for i, split in enumerate(solo_splits(names))]
    yield _Plot("Alone, by split", "mean reward of rollouts alone", _each("alone", own), True)
    yield _Plot("Consults", "per assisted rollout, by agent", _each("consults", asked))
    yield _Plot("Consults that fail", "per assisted rollout, by agent", _each("failing", asked))
    yield _Plot("Loss, by role", "share of its absolute value", _each("loss_share", _ROLES), True)
    yield _Plot("Clip", "share of tokens clipped", _each("clip", _ROLES))
    drift = [("mismatch/mean", "mean", "c1"), ("mismatch/max", "max", "c5")]
    yield _Plot("Drift", "sampler against trainer, nats", drift)
    correction = [("importance", "mean", "c1"), ("ess", "effective", "c3"), ("clip/importance", "cut", "c5")]
    yield _Plot("Correction", "from sampler to trainer; shares of policy tokens", correction)
    active = [("active_share", "active", "c1"), ("zero_variance", "idle", "c0")]
    yield _Plot("What teaches", "active rollouts; groups that teach nothing", active, True)
    yield from _further()


def _further() -> Iterable[_Plot]:
    """Charts under the fold."""
    roles = [("prompt", "c0"), *_ROLES[:2], ("env", "c2")]
    yield _Plot("Entropy", "nats, by role", _each("entropy", _ROLES), folded=True)
    yield _Plot("Probability", "mean π of the tokens, by role", _each("probability", _ROLES), True, True)
    yield _Plot("Length", "tokens of a rollout, by role", _each("length", roles), folded=True)
    yield _Plot("Failed rollouts", "count", [("rollouts/failed", "failed", "c5")], folded=True)
    yield _Plot("Loss", "", [("loss", "loss", "c1")], folded=True)
    yield _Plot("Gradient norm", "before clipping", [("grad_norm", "norm", "c1")], folded=True)
    yield _Plot("KL", "to the reference, nats", [("kl", "kl", "c1")], folded=True)
    yield _Plot("Learning rate", "as scheduled", [("learning_rate", "rate", "c1")], folded=True)
    seconds = [("seconds/rows", "rollouts", "c2"), ("step_time", "a step", "c1")]
    yield _Plot("Seconds", "rollouts of a generation; mean optimiser step", seconds, folded=True)


def _each(metric: str, lines: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(f"{metric}/{name}", name, colour) for name, colour in lines]


def _panel(plot: _Plot, rows: Sequence[Mapping[str, Any]]) -> Panel | None:
    """The chart, or None if none of its metrics was ever logged."""
    arm = Arm(name="", metrics=rows)
    drawn = [(metric, metric_line(arm, metric, _short(name), css)) for metric, name, css in plot.lines]
    kept = [(metric, line) for metric, line in drawn if any(v is not None for v in line.y)]
    if not kept:
        return None
    lines = [line for _, line in kept]
    ends = (rows[0]["step"], max(rows[-1]["step"], rows[0]["step"] + 1))
    svg = chart.chart(
        lines,
        title=visible(plot.title),
        x_label="step",
        y_label=plot.y_label,
        x_range=ends,
        y_range=_range(lines, plot.share),
        size=SIZE,
    )
    values = [[_rounded(row.get(metric)) for row in rows] for metric, _ in kept]
    numbers = {
        "title": visible(plot.title),
        "low": ends[0],
        "high": ends[1],
        "lines": [
            {"name": line.name, "colour": line.colour, "y": y} for line, y in zip(lines, values, strict=True)
        ],
    }
    return Panel(title=plot.title, svg=Markup(svg), numbers=numbers, folded=plot.folded)


def _range(lines: Sequence[chart.Line], share: bool) -> tuple[float, float]:
    """An axis that holds every line and 0; 0 to 1 for shares."""
    values = [v for line in lines for v in (*line.y, *line.raw) if v is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    if share and low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    ticks = chart.nice_ticks(low, high)
    return ticks[0], ticks[-1]


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[: _NAME_LENGTH - 1]}…"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
