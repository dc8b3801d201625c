"""Credit again: what other ways of giving credit would have made of the same rewards. No model is needed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from aipo.config.build_method import credit_of
from aipo.method.metrics import KINDS
from aipo.replay.output import ReplayReport, ReplayTable, mean, number, write_csv
from aipo.replay.questions.grid import Setting
from aipo.trace import Trace

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
            **{f"|A| {kind}": mean(a.mean(kind) for a in own) for kind in KINDS},
            "changed": sum(a.changed for a in own),
            "largest": max(a.largest for a in own),
            "flipped": sum(a.flipped for a in own),
        }
        for name, own in by_setting.items()
    ]


def report(advantages: Sequence[Advantages], steps: str) -> ReplayReport:
    """The summary of every setting, for the terminal and the viewer."""
    lines = summary(advantages)
    names = [name for name in _SHORT if any(line[name] is not None for line in lines)]
    rows = [[number(line[name]) for name in names] for line in lines]
    return ReplayReport(
        question="credit",
        settings={"steps": steps},
        tables=[ReplayTable("advantages, means over steps", [_SHORT[name] for name in names], rows)],
        notes=["changed and flipped: rollouts whose advantage, or its sign, is not the stored one"],
        values=lines,
    )


def write_advantages(file: Path, advantages: Sequence[Advantages]) -> None:
    """Writes a CSV file with a line for each rollout and a column for each setting.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    names = dict.fromkeys(one.setting for one in advantages)
    rows: list[list[Any]] = []
    for step in dict.fromkeys(one.step for one in advantages):
        for rollouts in zip(*(one.rollouts for one in advantages if one.step == step), strict=True):
            first = rollouts[0]
            values = [rollout.advantage for rollout in rollouts]
            rows.append([first.trace_id, step, first.group_id, first.kind, first.reward, *values])
    write_csv(file, ["trace_id", "step", "group_id", "kind", "reward", *names], rows)
