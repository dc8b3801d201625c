"""`aipo replay credit`: advantages of the same rewards under other ways of giving credit. No model is needed."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from aipo.method.metrics import KINDS
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    begin,
    finish,
    mean,
    number,
    renamed,
    span,
    write_csv,
)
from aipo.replay.questions.grid import CREDIT, Setting, settings
from aipo.replay.recordings import Recordings
from aipo.replay.restore import config_file, recorded_tokenizer
from aipo.run import tokenizer_of
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage

_SHORT = {
    "setting": "setting",
    "zero_variance": "teach nothing",
    "active_share": "active",
    **{f"|A| {kind}": f"|A| {kind}" for kind in KINDS},
    "changed": "changed",
    "flipped": "flipped",
}


def replay_credit(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: tuple[int | None, int | None] | None,
    out: Path | None,
    console: Console,
) -> int:
    """Advantages under every setting; a single one leaves traces with its advantages, too. The exit code.

    Raises:
        AipoError: see `aipo.errors`.
    """
    recordings = Recordings(path=source, where=Filter(step=steps))
    compared = settings(config_file(recordings), grid, overrides, allowed=CREDIT)
    numbers = recordings.required_steps()
    facts = {"settings": [setting.name for setting in compared]}
    folder = begin(source, question="credit", out=out, experiment=compared[-1].experiment, facts=facts)
    advantages: list[Advantages] = []
    # With several settings, a trace could not say whose advantage it has.
    store = TraceStore(folder.traces, decode=_decode(recordings)) if len(compared) <= 2 else None
    with bars(console) as progress:
        note = stage(progress, "credit")
        for done, step in enumerate(numbers, start=1):
            traces = credited = recordings.read(step)
            for setting in compared:
                of_setting, credited = credit_again(step, traces, setting)
                advantages.append(of_setting)
            if store is not None:
                store.seal(step, renamed(credited, folder.path.name))
            note(done, len(numbers), f"step {step}")
    write_advantages(folder.path / "credit.csv", advantages)
    result = report(advantages, span(numbers))
    result.print(console)
    return finish(folder, result, recordings.left_out, console)


class RolloutCredit(NamedTuple):
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
        rollouts: in the order of the plan.
        groups, zero_variance: baselines, and those of them whose rewards are all equal.
        active_share: share of the scored rollouts with an advantage other than 0.
        changed: rollouts whose advantage is not the stored one (by more than 1e-9), and how far it is off at most.
        flipped: rollouts whose advantage has another sign than the stored one.
    """

    setting: str
    step: int
    rollouts: tuple[RolloutCredit, ...]
    groups: int
    zero_variance: int
    active_share: float
    changed: int
    largest: float
    flipped: int

    def mean(self, kind: str) -> float | None:
        """Mean |A| of the rollouts of one kind."""
        return mean(abs(r.advantage) for r in self.rollouts if r.advantage is not None and r.kind == kind)


def credit_again(step: int, traces: Sequence[Trace], setting: Setting) -> tuple[Advantages, Sequence[Trace]]:
    """One setting's advantages of one step, and the traces that have them.

    Args:
        traces: whole groups, in the order of the plan.
    """
    credited = setting.experiment.credit(traces)
    pairs = [
        (new.advantage, old.advantage)
        for new, old in zip(credited.traces, traces, strict=True)
        if new.advantage is not None and old.advantage is not None
    ]
    gaps = [abs(new - old) for new, old in pairs]
    advantages = Advantages(
        setting=setting.name,
        step=step,
        rollouts=tuple(
            RolloutCredit(t.trace_id, t.group_id, t.kind, t.reward, t.advantage) for t in credited.traces
        ),
        groups=credited.groups,
        zero_variance=credited.zero_variance_groups,
        active_share=credited.active_share,
        changed=sum(gap > 1e-9 for gap in gaps),
        largest=max(gaps, default=0.0),
        flipped=sum((new > 0) - (new < 0) != (old > 0) - (old < 0) for new, old in pairs),
    )
    return advantages, credited.traces


def summary(advantages: Sequence[Advantages]) -> list[dict[str, Any]]:
    """A line for each setting, over all steps."""
    by_setting: dict[str, list[Advantages]] = defaultdict(list)
    for one in advantages:
        by_setting[one.setting].append(one)
    return [
        {
            "setting": name,
            "steps": len(steps),
            "groups": sum(a.groups for a in steps),
            "zero_variance": sum(a.zero_variance for a in steps) / max(sum(a.groups for a in steps), 1),
            "active_share": mean(a.active_share for a in steps),
            **{f"|A| {kind}": mean(a.mean(kind) for a in steps) for kind in KINDS},
            "changed": sum(a.changed for a in steps),
            "largest": max(a.largest for a in steps),
            "flipped": sum(a.flipped for a in steps),
        }
        for name, steps in by_setting.items()
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


def _decode(recordings: Recordings) -> Callable[[npt.NDArray[np.int32]], str] | None:
    """Token ids to text, if the run kept its tokenizer."""
    return recorded_tokenizer(recordings).decode if tokenizer_of(recordings.run) else None
