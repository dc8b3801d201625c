"""Credit again: what other ways of giving credit would have made of the same rewards. No model is needed."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from aipo.config.build_method import credit_of
from aipo.method.metrics import KINDS
from aipo.render.charts import Line, chart, nice_ticks
from aipo.replay.page import COLOURS, Page, Section, write_page
from aipo.replay.questions.grid import Setting
from aipo.replay.terminal import known_mean, numbers
from aipo.trace import Trace
from aipo.util.files import write_json, write_text

_SHORT = {
    "setting": "setting",
    "zero_variance": "teach nothing",
    "active_share": "active",
    **{f"|A| {kind}": f"|A| {kind}" for kind in KINDS},
    "changed": "changed",
    "flipped": "flipped",
}


class Credit(NamedTuple):
    """One rollout's advantage, without its tokens."""

    trace_id: str
    group_id: str
    kind: str
    reward: float | None
    advantage: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantages:
    """What one setting makes of one step.

    Args:
        step: generation.
        rollouts: in the order of the plan.
        groups, zero_variance: baselines, and those of them that teach nothing.
        active_share: share of the scored rollouts with an advantage other than 0.
        changed: rollouts whose advantage is not the stored one (by more than 1e-9), and how far it is off at most.
        flipped: rollouts whose advantage has another sign than the stored one.
    """

    setting: str
    step: int
    rollouts: tuple[Credit, ...]
    groups: int
    zero_variance: int
    active_share: float
    changed: int
    largest: float
    flipped: int

    def mean(self, kind: str) -> float | None:
        """Mean |A| of the rollouts of one kind."""
        own = [abs(r.advantage) for r in self.rollouts if r.advantage is not None and r.kind == kind]
        return fmean(own) if own else None


def credit_again(step: int, traces: Sequence[Trace], setting: Setting) -> tuple[Advantages, Sequence[Trace]]:
    """One setting's advantages of one step, and the traces that have them.

    Args:
        traces: whole groups, in the order of the plan.
    """
    made = credit_of(setting.config)(traces)
    pairs = [
        (new.advantage, old.advantage)
        for new, old in zip(made.traces, traces, strict=True)
        if new.advantage is not None and old.advantage is not None
    ]
    gaps = [abs(new - old) for new, old in pairs]
    advantages = Advantages(
        setting=setting.name,
        step=step,
        rollouts=tuple(Credit(t.trace_id, t.group_id, t.kind, t.reward, t.advantage) for t in made.traces),
        groups=made.groups,
        zero_variance=made.zero_variance_groups,
        active_share=made.active_share,
        changed=sum(gap > 1e-9 for gap in gaps),
        largest=max(gaps, default=0.0),
        flipped=sum((new > 0) - (new < 0) != (old > 0) - (old < 0) for new, old in pairs),
    )
    return advantages, made.traces


def summary(made: Sequence[Advantages]) -> list[dict[str, Any]]:
    """A line for each setting, over all steps."""
    by_setting: dict[str, list[Advantages]] = defaultdict(list)
    for one in made:
        by_setting[one.setting].append(one)
    return [
        {
            "setting": name,
            "steps": len(own),
            "groups": sum(a.groups for a in own),
            "zero_variance": sum(a.zero_variance for a in own) / max(sum(a.groups for a in own), 1),
            "active_share": fmean(a.active_share for a in own),
            **{f"|A| {kind}": known_mean(a.mean(kind) for a in own) for kind in KINDS},
            "changed": sum(a.changed for a in own),
            "largest": max(a.largest for a in own),
            "flipped": sum(a.flipped for a in own),
        }
        for name, own in by_setting.items()
    ]


def table(made: Sequence[Advantages]) -> Table:
    """The summary, for the terminal."""
    lines = summary(made)
    kept = [name for name in _SHORT if any(line[name] is not None for line in lines)]
    rows = [[_text(line[name]) for name in kept] for line in lines]
    return numbers([_SHORT[name] for name in kept], rows)


def write_advantages(folder: Path, made: Sequence[Advantages], facts: Mapping[str, str]) -> None:
    """Writes credit.json (the summary), credit.csv (a line per rollout, a column per setting) and credit.html.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    lines = summary(made)
    write_json(folder / "credit.json", lines)
    text = io.StringIO()
    names = [line["setting"] for line in lines]
    writer = csv.writer(text)
    writer.writerow(["trace_id", "step", "group_id", "kind", "reward", *names])
    for step in dict.fromkeys(one.step for one in made):
        for same in zip(*(one.rollouts for one in made if one.step == step), strict=True):
            first = same[0]
            values = [other.advantage for other in same]
            writer.writerow([first.trace_id, step, first.group_id, first.kind, first.reward, *values])
    write_text(folder / "credit.csv", text.getvalue())
    columns = list(lines[0]) if lines else []
    section = Section(
        title="Settings",
        text="Means over steps. Changed, largest and flipped compare with the stored advantages.",
        columns=columns,
        rows=[[*map(_text, line.values())] for line in lines],
        keys=[COLOURS[i % len(COLOURS)] for i in range(len(lines))],
    )
    figures = Section(
        title="Step by step", text="One point per step and setting.", figures=_figures(made, names)
    )
    write_page(folder / "credit.html", Page(title="Credit again", facts=facts, sections=[section, figures]))


def _figures(made: Sequence[Advantages], names: Sequence[str]) -> list[str]:
    drawn: list[str] = []
    for kind in KINDS:
        lines = [
            Line(
                name=chr(ord("A") + i % 26),
                colour=COLOURS[i % len(COLOURS)],
                x=[one.step for one in made if one.setting == name],
                y=[one.mean(kind) for one in made if one.setting == name],
            )
            for i, name in enumerate(names)
        ]
        seen = [value for line in lines for value in line.y if value is not None]
        if seen:
            top = nice_ticks(0.0, max(seen))[-1]
            drawn.append(
                chart(lines, title=f"mean |A|, {kind}", x_label="step", y_label="", y_range=(0.0, top))
            )
    return drawn


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
