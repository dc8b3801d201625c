"""`aipo replay credit`: advantages of the same rewards under other ways of giving credit. No model is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from aipo.method.credit import Credited
from aipo.method.metrics import KINDS
from aipo.replay.output import (
    ReplayReport,
    ReplayTable,
    cell,
    finish,
    mean,
    renamed,
    replay_folder,
    span,
    write_csv,
)
from aipo.replay.questions.grid import CREDIT, settings
from aipo.replay.recordings import Recordings, Steps
from aipo.replay.restore import recorded_tokenizer
from aipo.run import tokenizer_of
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from aipo.util.console import bars, stage

_FACTS = ("trace_id", "step", "group_id", "kind", "reward")
"""Of a trace, in a line of credit.csv."""
_SIZES = [f"|A| {kind}" for kind in KINDS]
_COLUMNS = {
    **{"setting": "setting", "zero_variance": "teach nothing", "active_share": "active"},
    **{name: name for name in (*_SIZES, "changed", "flipped")},
}
"""What the table shows of a summary, and its columns."""


def replay_credit(
    source: Path,
    *,
    grid: Sequence[str],
    overrides: Sequence[str],
    steps: Steps | None,
    out: Path | None,
    console: Console,
) -> int:
    """Advantages under every setting; a single one leaves traces with its advantages, too. The exit code."""
    recordings = Recordings(path=source, where=Filter(step=steps))
    compared = settings(recordings.config, grid, overrides, allowed=CREDIT)
    numbers = recordings.required_steps()
    names = [setting.name for setting in compared]
    # Only traces of a single setting have its advantages; without them the folder is of no setting but the recorded one.
    chosen = compared[-1] if len(compared) <= 2 else compared[0]
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    lines: list[dict[str, Any]] = []
    kept_facts = {"settings": names}
    with (
        replay_folder(recordings, "credit", out, chosen.experiment, kept_facts) as folder,
        bars(console) as progress,
    ):
        note = stage(progress, "credit")
        # With several settings, a trace could not say whose advantage it has.
        store = None
        if len(compared) <= 2:
            decode = recorded_tokenizer(recordings).decode if tokenizer_of(recordings.run) else None
            store = TraceStore(folder.traces, decode=decode)
        for done, step in enumerate(numbers, start=1):
            traces = credited = recordings.read(step)
            of_step: list[dict[str, Any]] = [{name: getattr(t, name) for name in _FACTS} for t in traces]
            for setting in compared:
                again = setting.experiment.credit(traces, recordings.peers(step))
                credited = again.traces
                facts[setting.name].append(_step_facts(again, traces))
                for line, trace in zip(of_step, credited, strict=True):
                    line[setting.name] = trace.advantage
            lines += of_step
            if store is not None:
                kept = [renamed(t, folder.path.name, step=t.step, group_id=t.group_id) for t in credited]
                store.seal(step, kept)
            note(done, len(numbers), f"step {step}")
    write_csv(folder.path / "credit.csv", lines)
    values = [_summary(name, of_setting) for name, of_setting in facts.items()]
    columns = [name for name in _COLUMNS if any(line[name] is not None for line in values)]
    rows = [[cell(line[name]) for name in columns] for line in values]
    report = ReplayReport(
        question="credit",
        settings={"steps": span(numbers)},
        tables=[ReplayTable("advantages, means over steps", [_COLUMNS[name] for name in columns], rows)],
        notes=["changed and flipped: rollouts whose advantage, or its sign, is not the stored one"],
        values=values,
    )
    return finish(report, recordings, console, folder)


def _step_facts(credited: Credited, traces: Sequence[Trace]) -> dict[str, Any]:
    """What one setting makes of one step, whose stored traces are `traces`.

    `changed` counts rollouts whose advantage, or that of a segment, is not the stored one (by more than 1e-9), `largest` is
    how far it is off at most, `flipped` counts those whose advantage has another sign.
    """
    pairs = [
        (new.advantage, old.advantage)
        for new, old in zip(credited.traces, traces, strict=True)
        if new.advantage is not None and old.advantage is not None
    ]
    gaps = [gap for gap in map(_gap, credited.traces, traces) if gap is not None]
    sizes = [(f"|A| {t.kind}", abs(t.advantage)) for t in credited.traces if t.advantage is not None]
    return {
        "groups": credited.groups,
        "zero_variance": credited.zero_variance_groups,
        "active_share": credited.active_share,
        **{name: mean(size for kind, size in sizes if kind == name) for name in _SIZES},
        "changed": sum(gap > 1e-9 for gap in gaps),
        "largest": max(gaps, default=0.0),
        "flipped": sum((new > 0) - (new < 0) != (old > 0) - (old < 0) for new, old in pairs),
    }


def _gap(new: Trace, old: Trace) -> float | None:
    """How far the advantages of a trace or of one of its segments are apart; None where one has none."""
    if new.advantage is None or old.advantage is None:
        return None
    segments = zip(new.segments, old.segments, strict=True)
    pairs = [(new.advantage_of(a), old.advantage_of(b)) for a, b in segments]
    return max(abs((a or 0.0) - (b or 0.0)) for a, b in [(new.advantage, old.advantage), *pairs])


def _summary(setting: str, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One setting over all steps: means, and sums of what is counted."""
    sums = {name: sum(of_step[name] for of_step in steps) for name in ("groups", "changed", "flipped")}
    zero_variance = sum(of_step["zero_variance"] for of_step in steps)
    return {
        "setting": setting,
        "steps": len(steps),
        **sums,
        "zero_variance": zero_variance / max(sums["groups"], 1),
        "largest": max(of_step["largest"] for of_step in steps),
        **{name: mean(of_step[name] for of_step in steps) for name in ("active_share", *_SIZES)},
    }
