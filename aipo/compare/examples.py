"""Chooses the traces that a demo's page shows: one task before and after training, and one that still fails.

A caption says no more than its trace does.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aipo.compare.sections import SETTINGS
from aipo.trace import Trace

_ByTask = Mapping[str, Mapping[str, Trace]]


class Example(NamedTuple):
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


def _by_task(traces: Iterable[Trace]) -> _ByTask:
    by_task: dict[str, dict[str, Trace]] = {}
    for trace in traces:
        by_task.setdefault(trace.task_id, {}).setdefault(trace.kind, trace)
    return by_task


def _clarity(start: Mapping[str, Trace], end: Mapping[str, Trace]) -> tuple[bool, ...]:
    assisted = start.get("assisted")
    helped = assisted is not None and bool(_answered(assisted)) and _solved(assisted)
    learned = helped and not _solved(start.get("solo")) and _solved(end.get("solo"))
    return learned, _solved(end.get("suppressed")), helped


def _of_task(start: Mapping[str, Trace], end: Mapping[str, Trace]) -> Iterator[Example]:
    for when, traces, kinds in (
        ("Before training", start, ("solo", "assisted")),
        ("After training", end, ("solo", "suppressed")),
    ):
        for kind in kinds:
            if trace := traces.get(kind):
                yield Example(f"{when}, {SETTINGS[kind]}: {_outcome(trace)}", trace)


def _still_failing(end: _ByTask, chosen: str) -> Iterator[Example]:
    for task, traces in end.items():
        if task != chosen and "solo" in traces and not _solved(traces["solo"]):
            yield Example(f"Another task after training, solo: {_outcome(traces['solo'])}", traces["solo"])
            return


def _outcome(trace: Trace) -> str:
    if trace.failed:
        return "the rollout failed"
    verdict = "right" if _solved(trace) else "wrong"
    agents = _answered(trace)
    return f"asks {' and '.join(agents)}, and is {verdict}" if agents else verdict


def _solved(trace: Trace | None) -> bool:
    """Was the answer right? A trace without a reward is not."""
    return trace is not None and (trace.reward or 0.0) > 0


def _answered(trace: Trace) -> list[str]:
    return list(dict.fromkeys(c.agent for c in trace.consults if c.reply is not None))
