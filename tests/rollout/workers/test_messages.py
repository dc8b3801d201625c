"""Messages between processes: what comes out is what went in."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from aipo.errors import AipoError, PolicyError
from aipo.rollout.workers.messages import Pipe, RolloutDone, ServerUp, packed, unpacked
from aipo.trace import Role, segment
from kit.handmade import agent, consult, policy, prompt, trace

FULL = trace(
    prompt(2, 3),
    policy(4, 5, logprobs=[-0.1, -1e-7]),
    agent(6),
    segment(Role.AGENT, "knowledge", []),
    consults=(consult(1, 0, 2),),
    task={"prompt": "2 3", "metadata": {"größe": 1.5}},
)


def both(work: Callable[[Pipe, Pipe], Awaitable[None]]) -> None:
    async def main() -> None:
        first, second = [await Pipe.open(end) for end in socket.socketpair()]
        try:
            await work(first, second)
        finally:
            await first.aclose()
            await second.aclose()

    asyncio.run(main())


def test_a_trace_comes_out_equal_and_read_only() -> None:
    done = unpacked(packed(RolloutDone(7, (FULL,))))
    assert done.number == 7 and done.traces == (FULL,)
    for piece in done.traces[0].segments:
        assert not piece.token_ids.flags.writeable
        assert piece.token_ids.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        done.traces[0].segments[1].logprobs[0] = 0.0


def test_an_error_keeps_its_class_and_text() -> None:
    error = unpacked(packed(ServerUp("http://a", PolicyError("got 1, allowed 2")))).error
    assert type(error) is PolicyError and str(error) == "got 1, allowed 2"
    assert isinstance(error, AipoError)


def test_messages_arrive_in_order_also_large_ones() -> None:
    long = trace(prompt(2), policy(*[3] * 200_000))

    async def work(first: Pipe, second: Pipe) -> None:
        for number, made in enumerate((FULL, long, FULL)):
            first.send(RolloutDone(number, (made,)))
        arrived = [await second.receive() for _ in range(3)]
        assert arrived == [RolloutDone(0, (FULL,)), RolloutDone(1, (long,)), RolloutDone(2, (FULL,))]

    both(work)


def test_a_closed_end_is_the_last_message() -> None:
    async def work(first: Pipe, second: Pipe) -> None:
        first.send(ServerUp("http://a"))
        await first.aclose()
        assert await second.receive() == ServerUp("http://a")
        assert await second.receive() is None
        assert await second.receive() is None
        second.send(ServerUp("http://b"))  # nobody hears it, and nobody is told off

    both(work)


def test_what_cannot_be_sent_is_said_at_once_and_nothing_else_is_lost() -> None:
    async def work(first: Pipe, second: Pipe) -> None:
        with pytest.raises(Exception, match="pickle"):
            first.send(RolloutDone(0, (trace(prompt(2), task={"metadata": lambda: None}),)))
        first.send(RolloutDone(1, ()))
        assert await second.receive() == RolloutDone(1, ())

    both(work)
