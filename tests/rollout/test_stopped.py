"""A run that is stopped on its way keeps what is finished, and what is in flight."""

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest
from langgraph.runtime import Runtime

from aipo.errors import RunError
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Trace
from kit.engines import ask, chain, engine, for_ever, mark, specs, texts, think


def half_stuck() -> Any:
    """Rollouts with an even seed end at once, the others never."""

    async def wait(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        return await for_ever(state) if runtime.context.seed % 2 else {}

    return chain(ask=ask, think=think, wait=wait, mark=mark)


def test_cancelling_keeps_finished_traces_and_hands_over_those_in_flight():
    seen: list[Trace] = []

    async def main() -> None:
        run = asyncio.create_task(engine(half_stuck(), concurrency=4).run(specs(6), seen.append))
        while len(seen) < 3:
            await asyncio.sleep(0)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert [t.stop_reason.value for t in seen] == ["eos"] * 3 + ["cancelled"] * 3
    assert {t.error for t in seen[3:]} == {"Cancelled: the run was stopped (in node wait)"}
    assert all(texts(t)[-1] == "policy: 42<eos>" for t in seen)


def test_an_interrupt_inside_a_node_keeps_what_is_there():
    async def interrupt(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        if runtime.context.seed == 2:
            raise KeyboardInterrupt
        return await for_ever(state) if runtime.context.seed else {}

    seen: list[Trace] = []
    built = engine(chain(ask=ask, think=think, stop=interrupt, mark=mark), concurrency=2)
    with pytest.raises(KeyboardInterrupt):
        built.run_sync(specs(3), seen.append)
    assert [t.stop_reason.value for t in seen] == ["eos", "cancelled", "cancelled"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("notebook", [False, True])
def test_ctrl_c_keeps_finished_traces(notebook: bool):
    seen: list[str] = []

    def press(trace: Trace) -> None:
        seen.append(trace.stop_reason.value)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    async def cell() -> None:
        stuck.run_sync(specs(4), press)

    stuck = engine(half_stuck(), concurrency=4)
    with pytest.raises(KeyboardInterrupt), contextlib.closing(asyncio.new_event_loop()) as loop:
        if notebook:
            loop.run_until_complete(cell())
        else:
            stuck.run_sync(specs(4), press)
    assert seen == ["eos", "eos", "cancelled", "cancelled"]


def test_an_error_of_on_trace_stops_the_run_and_is_not_disguised():
    seen: list[str] = []

    def full(trace: Trace) -> None:
        if len(seen) == 2:
            raise RunError("disk full")
        seen.append(trace.trace_id)

    with pytest.raises(RunError, match=r"^disk full$"):
        engine(concurrency=1).run_sync(specs(5), full)
    assert seen == ["run/00000-000/0", "run/00000-000/1"]
