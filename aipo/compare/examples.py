"""Chooses the traces that a demo's page shows: one task before and after training, and one that still fails.

A caption says no more than its trace does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aipo.compare.sections import SETTINGS
from aipo.trace import Mode, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A trace worth looking at, and why."""

    caption: str
    trace: Trace


def choose_examples(before: Iterable[Trace], after: Iterable[Trace]) -> list[Example]:
    """Traces of the task that most clearly shows how help became knowledge, then of a task that still fails.

    Args:
        before, after: traces of the same tasks, at most one used per task and setting.
    """
    start, end = _by_task(before), _by_task(after)
    shared = [task for task in start if task in end]
    if not shared:
        return []
    # max() keeps the first of equals: the order of the tasks decides, not chance.
    chosen = max(shared, key=lambda task: _clarity(start[task], end[task]))
    return [*_of_task(start[chosen], end[chosen]), *_still_failing(end, chosen)]


def solved(trace: Trace | None) -> bool:
    """Was the answer right? A trace without a reward is not."""
    return trace is not None and trace.reward is not None and trace.reward > 0


def helped(trace: Trace | None) -> bool:
    """Did an agent answer, and was the answer right?"""
    return trace is not None and solved(trace) and bool(_answered(trace))


def _by_task(traces: Iterable[Trace]) -> dict[str, dict[str, Trace]]:
    by_task: dict[str, dict[str, Trace]] = {}
    for trace in traces:
        by_task.setdefault(trace.task_id, {}).setdefault(_setting(trace), trace)
    return by_task


def _setting(trace: Trace) -> str:
    if trace.mode is Mode.ASSISTED:
        return "assisted"
    return "suppressed" if trace.forbidden_ids else "solo"


def _clarity(start: Mapping[str, Trace], end: Mapping[str, Trace]) -> tuple[bool, ...]:
    return (
        helped(start.get("assisted")) and not solved(start.get("solo")) and solved(end.get("solo")),
        solved(end.get("suppressed")),
        helped(start.get("assisted")),
    )


def _of_task(start: Mapping[str, Trace], end: Mapping[str, Trace]) -> Iterator[Example]:
    for when, traces, settings in (
        ("Before training", start, ("solo", "assisted")),
        ("After training", end, ("solo", "suppressed")),
    ):
        for setting in settings:
            if setting in traces:
                trace = traces[setting]
                yield Example(caption=f"{when}, {SETTINGS[setting]}: {_outcome(trace)}", trace=trace)


def _still_failing(end: Mapping[str, Mapping[str, Trace]], chosen: str) -> Iterator[Example]:
    for task, traces in end.items():
        if task != chosen and "solo" in traces and not solved(traces["solo"]):
            caption = f"Another task after training, solo: {_outcome(traces['solo'])}"
            yield Example(caption=caption, trace=traces["solo"])
            return


def _outcome(trace: Trace) -> str:
    if trace.failed:
        return "the rollout failed"
    verdict = "right" if solved(trace) else "wrong"
    agents = _answered(trace)
    return f"asks {' and '.join(agents)}, and is {verdict}" if agents else verdict


def _answered(trace: Trace) -> list[str]:
    return list(dict.fromkeys(c.agent for c in trace.consults if c.reply is not None))
