"""`aipo replay credit`: advantages of the same rewards under other ways of giving credit. No model is needed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from aipo.method.credit import Credited
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
from aipo.replay.questions.grid import CREDIT, settings
from aipo.replay.recordings import Recordings
from aipo.replay.restore import config_file, recorded_tokenizer
from aipo.run import tokenizer_of
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage

_MEANS = ("active_share", *(f"|A| {kind}" for kind in KINDS))
_COLUMNS = {
    **{"setting": "setting", "zero_variance": "teach nothing", "active_share": "active"},
    **{name: name for name in (*_MEANS[1:], "changed", "flipped")},
}
"""What the table shows of a summary, and its columns."""


def replay_credit(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: tuple[int | None, int | None] | None,
    out: Path | None,
    console: Console,
) -> int:
    """Advantages under every setting; a single one leaves traces with its advantages, too. The exit code."""
    recordings = Recordings(path=source, where=Filter(step=steps))
    compared = settings(config_file(recordings), grid, overrides, allowed=CREDIT)
    numbers = recordings.required_steps()
    facts = {"settings": [setting.name for setting in compared]}
    folder = begin(source, question="credit", out=out, experiment=compared[-1].experiment, facts=facts)
    facts_of: dict[str, list[dict[str, Any]]] = {setting.name: [] for setting in compared}
    lines: list[dict[str, Any]] = []
    # With several settings, a trace could not say whose advantage it has.
    store = TraceStore(folder.traces, decode=_decode(recordings)) if len(compared) <= 2 else None
    with bars(console) as progress:
        note = stage(progress, "credit")
        for done, step in enumerate(numbers, start=1):
            traces = credited = recordings.read(step)
            of_step = [
                {
                    "trace_id": t.trace_id,
                    "step": step,
                    "group_id": t.group_id,
                    "kind": t.kind,
                    "reward": t.reward,
                }
                for t in traces
            ]
            for setting in compared:
                again = setting.experiment.credit(traces)
                credited = again.traces
                facts_of[setting.name].append(step_facts(again, traces))
                for line, trace in zip(of_step, credited, strict=True):
                    line[setting.name] = trace.advantage
            lines += of_step
            if store is not None:
                store.seal(step, renamed(credited, folder.path.name))
            note(done, len(numbers), f"step {step}")
    write_csv(folder.path / "credit.csv", lines)
    result = report([summary(name, steps) for name, steps in facts_of.items()], span(numbers))
    return finish(result, recordings.left_out, console, folder)


def step_facts(credited: Credited, traces: Sequence[Trace]) -> dict[str, Any]:
    """What one setting makes of one step.

    `changed` counts rollouts whose advantage is not the stored one (by more than 1e-9), `largest` is how far it is
    off at most, `flipped` counts those whose advantage has another sign.

    Args:
        traces: the stored ones, in the same order.
    """
    pairs = [
        (new.advantage, old.advantage)
        for new, old in zip(credited.traces, traces, strict=True)
        if new.advantage is not None and old.advantage is not None
    ]
    gaps = [abs(new - old) for new, old in pairs]
    sizes = [(t.kind, abs(t.advantage)) for t in credited.traces if t.advantage is not None]
    return {
        "groups": credited.groups,
        "zero_variance": credited.zero_variance_groups,
        "active_share": credited.active_share,
        **{f"|A| {kind}": mean(size for k, size in sizes if k == kind) for kind in KINDS},
        "changed": sum(gap > 1e-9 for gap in gaps),
        "largest": max(gaps, default=0.0),
        "flipped": sum((new > 0) - (new < 0) != (old > 0) - (old < 0) for new, old in pairs),
    }


def summary(setting: str, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One setting over all steps: means, and sums of what is counted."""
    groups, zero_variance, changed, flipped = (
        sum(facts[name] for facts in steps) for name in ("groups", "zero_variance", "changed", "flipped")
    )
    return {
        "setting": setting,
        "steps": len(steps),
        "groups": groups,
        "zero_variance": zero_variance / max(groups, 1),
        **{name: mean(facts[name] for facts in steps) for name in _MEANS},
        "changed": changed,
        "largest": max(facts["largest"] for facts in steps),
        "flipped": flipped,
    }


def report(lines: Sequence[Mapping[str, Any]], steps: str) -> ReplayReport:
    """The summary of every setting, for the terminal and the viewer."""
    names = [name for name in _COLUMNS if any(line[name] is not None for line in lines)]
    rows = [[number(line[name]) for name in names] for line in lines]
    return ReplayReport(
        question="credit",
        settings={"steps": steps},
        tables=[ReplayTable("advantages, means over steps", [_COLUMNS[name] for name in names], rows)],
        notes=["changed and flipped: rollouts whose advantage, or its sign, is not the stored one"],
        values=lines,
    )


def _decode(recordings: Recordings) -> Callable[[npt.NDArray[np.int32]], str] | None:
    """Token ids to text, if the run kept its tokenizer."""
    return recorded_tokenizer(recordings).decode if tokenizer_of(recordings.run) else None
