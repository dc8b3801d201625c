"""Groups of rollouts that grow in waves: when all rollouts of a group have ended, a plan says which ones it gets next.

What a group gets depends on its traces only, never on which rollout ended first. Groups grow at the same time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from aipo.rollout.spec import ForkStart, RolloutSpec
from aipo.trace import Trace

OnTrace = Callable[[Trace], None]
Grow = Callable[[Sequence[RolloutSpec], Sequence[Trace]], list[RolloutSpec]]
"""The rollouts of a group that have ended, and their traces → those that it gets next; none = it is complete."""


class RolloutResult(NamedTuple):
    """The traces of a rollout, one for each policy, and the states that it can be forked from, by number of tokens."""

    traces: list[Trace]
    starts: Mapping[int, ForkStart] = {}


RunOne = Callable[[RolloutSpec], Coroutine[Any, Any, RolloutResult]]


def report_all(traces: Sequence[Trace], on_trace: OnTrace) -> None:
    """Calls `on_trace` with each, also when it stops the run at the first one."""
    with ExitStack() as stack:
        for trace in reversed(traces):
            stack.callback(on_trace, trace)


async def run_in_waves(specs: Sequence[RolloutSpec], run_one: RunOne, grow: Grow | None) -> list[Trace]:
    """Runs rollouts, group by group if groups grow; traces in the order of groups and of their rollouts.

    Raises:
        BaseException: what the first rollout raised that raised anything. The others are then cancelled, and have ended.
    """
    groups: dict[str, list[RolloutSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.group_id if grow else "", []).append(spec)
    try:
        async with asyncio.TaskGroup() as tasks:
            grown = [tasks.create_task(_grown(group, run_one, grow)) for group in groups.values()]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [trace for group in grown for trace in group.result()]


async def _grown(wave: Sequence[RolloutSpec], run_one: RunOne, grow: Grow | None) -> list[Trace]:
    specs: list[RolloutSpec] = []
    traces: list[Trace] = []
    starts: dict[tuple[str, int], ForkStart] = {}
    while wave:
        async with asyncio.TaskGroup() as tasks:
            rollouts = [tasks.create_task(run_one(spec)) for spec in wave]
        for rollout in rollouts:
            result = rollout.result()
            traces += result.traces
            starts |= {(result.traces[0].trace_id, token): start for token, start in result.starts.items()}
        specs += wave
        following = grow(specs, traces) if grow else []
        wave = [replace(spec, start=spec.fork and starts[spec.fork]) for spec in following]
    return traces
