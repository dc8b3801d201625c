"""A worker, spoken to by hand: it does what it is told, and asks before it uses a server that was away."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from aipo.errors import PolicyError
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.workers.messages import Cancel, Pipe, RolloutDone, RunRollout, ServerDown, ServerUp
from aipo.rollout.workers.process import Worker
from aipo.trace import StopReason, Trace
from kit.servers import serving
from kit.vllm import SeededVLLM
from kit.workers import configured, engine, policy_of, specs, untimed


def told(work: Callable[[Pipe, RolloutEngine], Awaitable[None]], fake: SeededVLLM) -> None:
    """Runs a worker in this process, with `work` at the other end of its pipe and `fake` as its server."""

    async def main(url: str) -> None:
        ours, theirs = [await Pipe.open(end) for end in socket.socketpair()]
        mine = engine(configured(url))
        worker = asyncio.create_task(Worker(theirs, mine, policy_of(mine)).run())
        try:
            await work(ours, mine)
        finally:
            await ours.aclose()
            await worker
            await theirs.aclose()

    with serving(fake.app) as url:
        asyncio.run(main(url))


async def started(fake: SeededVLLM) -> None:
    while not fake.asked:
        await asyncio.sleep(0.01)


async def done(pipe: Pipe) -> RolloutDone:
    message = await pipe.receive()
    assert isinstance(message, RolloutDone), message
    return message


async def away(pipe: Pipe, mine: RolloutEngine) -> str:
    """The address of a server that is said to be down, and that a rollout now waits for."""
    url = policy_of(mine).pool.servers[0].url
    pipe.send(ServerDown(url))
    assert await pipe.receive() == ServerDown(url)  # that it has heard
    pipe.send(RunRollout(0, specs(mine, 2)[0], 0))
    assert await pipe.receive() == ServerUp(url)
    return url


def test_rollouts_are_sent_as_they_end() -> None:
    first: list[Trace] = []
    fake = SeededVLLM()

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        slow, fast = specs(mine, 2)[:2]
        fake.hangs = lambda asked: len(fake.asked) == 1
        pipe.send(RunRollout(0, slow, 5))
        await started(fake)
        pipe.send(RunRollout(1, fast, 5))
        ended = await done(pipe)
        assert (ended.number, ended.error) == (1, None)
        first.extend(ended.traces)
        assert [trace.policy_version for trace in ended.traces] == [5]
        await mine.rollout(fast, first.append)
        assert untimed(first[0]) == untimed(first[1])

    told(work, fake)


def test_a_cancelled_rollout_hands_over_what_it_has() -> None:
    fake = SeededVLLM(hangs=lambda asked: True)

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        pipe.send(RunRollout(3, specs(mine, 2)[0], 0))
        await started(fake)
        pipe.send(Cancel(3))
        ended = await done(pipe)
        [trace] = ended.traces
        assert trace.stop_reason is StopReason.CANCELLED and len(trace.segments) == 1
        pipe.send(Cancel(3))  # too late, and nothing to it
        pipe.send(RunRollout(4, specs(mine, 2)[0], 0))
        pipe.send(Cancel(4))
        assert (await done(pipe)).number == 4

    told(work, fake)


def test_a_server_that_was_away_is_asked_for_before_it_is_used() -> None:
    fake = SeededVLLM(loaded=False)

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        url = await away(pipe, mine)
        # The answer crosses with the news that it is gone again: so it asks again.
        pipe.send(ServerUp(url))
        pipe.send(ServerDown(url))
        assert await pipe.receive() == ServerUp(url)
        assert fake.asked == []
        fake.loaded = True
        pipe.send(ServerUp(url))
        [trace] = (await done(pipe)).traces
        assert not trace.failed and fake.early == 0

    told(work, fake)


def test_a_server_that_the_parent_cannot_bring_back_fails_rollouts_with_the_reason() -> None:
    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        url = await away(pipe, mine)
        pipe.send(ServerUp(url, PolicyError("weights of it: got 1, allowed 0")))
        [trace] = (await done(pipe)).traces
        assert trace.stop_reason is StopReason.ERROR
        assert str(trace.error).startswith("PolicyError: weights of it: got 1, allowed 0")

    told(work, SeededVLLM())


def test_a_trace_that_cannot_be_sent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd(mine: RolloutEngine, spec: Any, on_trace: Callable[[Trace], None]) -> None:
        [trace] = mine.lost(spec, StopReason.ERROR, "anything")
        on_trace(replace(trace, task={"metadata": lambda: None}))

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        pipe.send(RunRollout(0, specs(mine, 2)[0], 0))
        ended = await done(pipe)
        assert ended.traces == () and str(ended.error).startswith("a trace that cannot be sent: ")

    monkeypatch.setattr(RolloutEngine, "rollout", odd)
    told(work, SeededVLLM())
