"""Metrics of a run as small charts that share one horizontal axis: the step that the traces are filed under.

`metrics.jsonl` counts optimizer steps, a trace has its rollout step, and one rollout step has several optimizer
steps. So the lines of one rollout step become one point, and a step in a chart is a step of the lists below.

    metrics.jsonl  →  by_step  →  windows (about 400)  →  charts, which static/charts.js draws
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from aipo.method.metrics import solo_splits
from aipo.render.charts import Chart, Line, data_block, figure, smooth
from aipo.util.text import cut, visible

POINTS = 400
_NAME_LENGTH = 24
_COUNTERS = ("step", "epoch")
_KINDS = (("solo", "c1"), ("assisted", "c2"), ("suppressed", "c3"), ("expert", "c4"), ("taught", "c5"))
_ROLES = (("policy", "k3"), ("agent", "k4"), ("distilled", "k5"), ("rehearsed", "k2"))


@dataclass(frozen=True, slots=True)
class StepWindow:
    """Steps `first` to `last` (inclusive) and the mean of each metric over them; None where it was never finite."""

    first: int
    last: int
    values: Mapping[str, float | None]

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The charts of a run; empty when it has no metrics.

    Args:
        charts: first those that are always shown.
        shown: how many these are.
        windows: what each point stands for.
        leads: a click on a point lists its rollouts.
    """

    charts: tuple[Chart, ...] = ()
    shown: int = 0
    windows: tuple[StepWindow, ...] = ()
    leads: bool = True

    @cached_property
    def figures(self) -> list[Markup]:
        """The places of the charts."""
        return [figure(number, chart) for number, chart in enumerate(self.charts)]

    @cached_property  # every request of the page wants it, and it takes a third of the page's time
    def data(self) -> Markup:
        """For the page's script: the charts, and which steps a point stands for."""
        spans = [[window.first, window.last] for window in self.windows]
        hint = "click: its rollouts" if self.leads else ""
        return data_block(self.charts, spans=spans, sync=True, hint=hint)


@dataclass(frozen=True, slots=True)
class _Plot:
    """What one chart shows: (metric, name, colour) of each line. `share`: the axis is 0 to 1 if that holds all."""

    title: str
    y_label: str
    lines: Sequence[tuple[str, str, str]]
    share: bool = False
    folded: bool = False


def curves(metrics: Sequence[Mapping[str, Any]], agents: Sequence[str], *, leads: bool = True) -> Curves:
    """The charts of `metrics` (lines of metrics.jsonl).

    Args:
        agents: gives each agent its colour, as in the traces.
        leads: see `Curves`.
    """
    rows = windows(by_step(metrics), POINTS)
    if not rows:
        return Curves()
    names = {name for window in rows for name in window.values}
    pairs = [(plot.folded, _chart(plot, rows)) for plot in _plots(names, agents)]
    shown, folded = ([chart for fold, chart in pairs if chart and fold is kept] for kept in (False, True))
    return Curves(charts=(*shown, *folded), shown=len(shown), windows=tuple(rows), leads=leads)


def by_step(metrics: Iterable[Mapping[str, Any]]) -> list[StepWindow]:
    """One window for each rollout step, in order. A rollout step that was trained twice counts as one."""
    lines: dict[int, list[Mapping[str, Any]]] = {}
    for row in metrics:
        lines.setdefault(_rollout_step(row), []).append(row)
    means = {step: _mean(rows) for step, rows in sorted(lines.items())}
    return [StepWindow(s, s, {**mean, **_mean_reward(mean), **_failing(mean)}) for s, mean in means.items()]


def windows(steps: Sequence[StepWindow], most: int) -> list[StepWindow]:
    """At most `most` windows, each the mean of as many neighbours."""
    size = max(1, math.ceil(len(steps) / most))
    chunks = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [StepWindow(c[0].first, c[-1].last, _mean([w.values for w in c])) for c in chunks]


def _rollout_step(row: Mapping[str, Any]) -> int:
    """The rollout step of a line, counted from 0. Optimizer steps count from 1; `epoch` is rollout steps so far."""
    trained = row.get("epoch")
    return int(row["step"]) - 1 if trained is None else math.ceil(trained - 1e-4) - 1


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The mean of each metric over the rows that have it; the largest, where the metric is a maximum."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name not in _COUNTERS):
        values = [row[name] for row in rows if row.get(name) is not None]
        if name.endswith("/max"):
            means[name] = max(values, default=None)
        else:
            means[name] = sum(values) / len(values) if values else None
    return means


def _mean_reward(values: Mapping[str, float | None]) -> dict[str, float]:
    """The mean reward of all kinds together, weighted by how many rollouts each had."""
    pairs = [(values.get(f"reward/{kind}"), values.get(f"rollouts/{kind}")) for kind, _ in _KINDS]
    counted = [(reward, count) for reward, count in pairs if reward is not None and count]
    total = sum(count for _, count in counted)
    return {"reward/mean": sum(reward * count for reward, count in counted) / total} if total else {}


def _failing(values: Mapping[str, float | None]) -> dict[str, float]:
    """Failing consults per assisted rollout; 0 without consults, so that the line has no holes."""
    return {
        f"failing/{agent}": count * (values.get(f"consult_errors/{agent}") or 0.0)
        for kind, _, agent in (name.partition("/") for name in values)
        if kind == "consults" and (count := values[f"consults/{agent}"]) is not None
    }


def _plots(names: set[str], agents: Sequence[str]) -> Iterable[_Plot]:
    """Every chart that the page may show, the important ones first."""
    by_agent = [(agent, f"k{i % 6}") for i, agent in enumerate(agents)]
    parts = sorted({name.split("/")[1] for name in names if name.startswith("reward_part/")})
    parts.sort(key=lambda part: part != "correct")

    yield _Plot(
        "Reward", "mean over rollouts", [*_each("reward", _KINDS), ("reward/mean", "mean", "c0")], True
    )
    for i, part in enumerate(parts):
        title = "Accuracy" if part == "correct" else f"Reward part {part}"
        yield _Plot(title, "mean over rollouts", _each(f"reward_part/{part}", _KINDS), True, folded=i > 0)
    splits = [(split, f"k{i % 6}") for i, split in enumerate(solo_splits(names))]
    yield _Plot("Solo, by split", "mean reward of solo rollouts", _each("solo", splits), True)
    yield _Plot("Consults", "per assisted rollout, by agent", _each("consults", by_agent))
    yield _Plot("Consults that fail", "per assisted rollout, by agent", _each("failing", by_agent))
    yield _Plot("Loss, by role", "share of its absolute value", _each("loss_share", _ROLES), True)
    yield _Plot("Clip", "share of tokens clipped", _each("clip", _ROLES))
    mismatch = [("mismatch/mean", "mean", "c1"), ("mismatch/max", "max", "c5")]
    yield _Plot("Mismatch", "sampler against trainer, nats", mismatch)
    importance = [("importance", "mean", "c1"), ("ess", "effective", "c3"), ("clip/importance", "cut", "c5")]
    yield _Plot("Importance correction", "from sampler to trainer; shares of policy tokens", importance)
    active = [("active_share", "active", "c1"), ("zero_variance", "idle", "c0")]
    yield _Plot(
        "What teaches", "share of rollouts with an advantage; share of groups without any", active, True
    )
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
    yield _Plot("Seconds", "sampling of a rollout step; mean optimizer step", seconds, folded=True)


def _each(metric: str, lines: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(f"{metric}/{name}", name, colour) for name, colour in lines]


def _chart(plot: _Plot, rows: Sequence[StepWindow]) -> Chart | None:
    """The chart, or None if none of its metrics was ever logged."""
    x = [window.middle for window in rows]
    lines: list[Line] = []
    for metric, name, colour in plot.lines:
        raw = [window.values.get(metric) for window in rows]
        label = cut(visible(name), _NAME_LENGTH)
        lines.append(Line(name=label, colour=colour, x=x, y=smooth(raw), raw=raw))
    lines = [line for line in lines if not line.empty]
    if not lines:
        return None
    within = all(0.0 <= value <= 1.0 for line in lines for value in line.raw if value is not None)
    return Chart(
        title=visible(plot.title),
        lines=lines,
        x_label="step",
        y_label=plot.y_label,
        x_range=(x[0], max(x[-1], x[0] + 1)),
        y_range=(0.0, 1.0) if plot.share and within else None,
    )
