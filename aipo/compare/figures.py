"""The figures of a report: policies with their scores and metrics, the table and the charts of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aipo.render import svg_charts as chart

SETTINGS = {"solo": "alone", "suppressed": "alone, consult tags forbidden", "assisted": "with agents"}
_SMOOTHING = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """pass@k of one policy on one split under one setting, with 95 % intervals over facts where there are any."""

    split: str
    setting: str
    pass_at: Mapping[int, float]
    interval: Mapping[int, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One policy: its name, its rows of metrics.jsonl (none if it was not trained) and its scores."""

    name: str
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Sequence[Score] = ()

    @classmethod
    def of(cls, name: str, evaluation: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]] = ()) -> "Arm":
        """From an evaluation as its file has it: split → setting → `pass_at` and `interval` by k."""
        scores = [
            Score(
                split=split,
                setting=setting,
                pass_at={int(k): value for k, value in result["pass_at"].items() if value is not None},
                interval={int(k): tuple(ends) for k, ends in result["interval"].items() if ends is not None},
            )
            for split, settings in evaluation.items()
            for setting, result in settings.items()
        ]
        return cls(name=name, metrics=metrics, scores=scores)

    def score(self, split: str, setting: str) -> Score | None:
        return next((s for s in self.scores if (s.split, s.setting) == (split, setting)), None)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a table and its 95 % interval, if it has one."""

    value: float
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, score: Score | None, k: int) -> "Cell | None":
        """pass@k of `score`, or None if nobody measured it."""
        if score is None or k not in score.pass_at:
            return None
        return cls(score.pass_at[k], score.interval.get(k))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a cell for each arm, None where it was not measured."""

    label: str
    cells: tuple[Cell | None, ...]


def table(arms: Sequence[Arm]) -> Iterable[tuple[str, list[Row]]]:
    """Split by split, by its name: pass@1 under every setting, and the largest k where no agent helps."""
    for split in splits_of(arms):
        rows: list[Row] = []
        for setting in SETTINGS:
            scores = [arm.score(split, setting) for arm in arms]
            for k in _shown_ks(scores, setting):
                label = f"{SETTINGS[setting]}, pass@{k}"
                rows.append(Row(label, tuple(Cell.of(s, k) for s in scores)))
        yield split, rows


def _shown_ks(scores: Sequence[Score | None], setting: str) -> list[int]:
    ks = sorted({k for s in scores if s is not None for k in s.pass_at})
    return ks[:1] if setting == "assisted" else sorted({*ks[:1], *ks[-1:]})


def splits_of(arms: Sequence[Arm]) -> list[str]:
    """Every split that was measured, in order."""
    return list(dict.fromkeys(s.split for arm in arms for s in arm.scores))


def colour(column: int) -> str:
    """CSS class of a column of the table, the same in every chart. 0 is the untrained policy, and nobody else is."""
    return f"c{1 + (column - 1) % (chart.COLUMNS - 1)}" if column else "c0"


def learning_curves(arms: Sequence[Arm], agents: Sequence[str]) -> Iterable[str]:
    """Small multiples over optimiser steps: rewards, consults, shares of the loss, active rows.

    `agents` gives each agent its colour, the same as in the traces.
    """
    first = arms[0]
    asked = [metric_line(first, f"consults/{name}", name, f"k{i % 6}") for i, name in enumerate(agents)]
    shares = [
        metric_line(first, f"loss_share/{role}", role, f"k{i}")
        for i, role in enumerate(("policy", "agent", "distilled"), start=3)
    ]

    def draw(lines: list[chart.Line], title: str, y_label: str, top: float | None = 1.0) -> str:
        y_range = None if top is None else (0.0, top)
        return chart.chart(lines, title=title, x_label="optimiser step", y_label=y_label, y_range=y_range)

    yield draw(_by_arm(arms, "reward/solo"), "Solo rollouts", "mean reward")
    forbidden = _by_arm(arms, "reward/suppressed")
    if any(line.x for line in forbidden):  # a plan may have none
        yield draw(forbidden, "Solo rollouts, consult tags forbidden", "mean reward")
    yield draw(_by_arm(arms, "reward/assisted"), "Assisted rollouts", "mean reward")
    yield draw(asked, f"Who is asked ({first.name})", "consults per assisted rollout", None)
    yield draw(shares, f"What the loss is made of ({first.name})", "share of the loss")
    yield draw(_by_arm(arms, "active_share"), "Rollouts that teach", "share of rollouts with an advantage")


def pass_at_charts(columns: Sequence[Arm], titles: Mapping[str, str]) -> Iterable[str]:
    """pass@k over k for each split and setting without agents that was measured at more than one k.

    `titles`: what to call a split, up to a comma; else its name.
    """
    for split in splits_of(columns):
        for setting in ("solo", "suppressed"):
            scores = [(i, arm.name, arm.score(split, setting)) for i, arm in enumerate(columns)]
            lines = [_pass_line(name, colour(i), s) for i, name, s in scores if s and len(s.pass_at) > 1]
            if lines:
                title = titles.get(split, split).split(",")[0]
                y_label = f"pass@k, {SETTINGS[setting]}"
                yield chart.chart(
                    lines,
                    title=title,
                    x_label="k, samples per task",
                    y_label=y_label,
                    y_range=(0, 1),
                    log=True,
                )


def _pass_line(name: str, css: str, score: Score) -> chart.Line:
    ks = sorted(score.pass_at)
    return chart.Line(
        name=name,
        colour=css,
        x=ks,
        y=[score.pass_at[k] for k in ks],
        band=[score.interval[k] for k in ks] if set(ks) <= set(score.interval) else (),
    )


def _by_arm(arms: Sequence[Arm], key: str) -> list[chart.Line]:
    return [metric_line(arm, key, arm.name, colour(i)) for i, arm in enumerate(arms, start=1)]


def metric_line(arm: Arm, key: str, name: str, css: str) -> chart.Line:
    rows = [row for row in arm.metrics if key in row]
    raw = [row[key] for row in rows]
    window = len(rows) // _SMOOTHING * 2 + 1
    return chart.Line(
        name=name, colour=css, x=[row["step"] for row in rows], y=chart.smooth(raw, window), raw=raw
    )
