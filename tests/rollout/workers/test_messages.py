"""Messages between processes: what comes out is what went in."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from aipo.errors import PolicyError
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


def test_messages_come_out_as_they_went_in_and_arrays_read_only() -> None:
    done = unpacked(packed(RolloutDone(7, (FULL,))))
    assert done == RolloutDone(7, (FULL,))
    for piece in done.traces[0].segments:
        assert not piece.token_ids.flags.writeable and piece.token_ids.dtype == np.int32
    assert not done.traces[0].segments[1].logprobs.flags.writeable
    error = unpacked(packed(ServerUp("http://a", PolicyError("got 1, allowed 2")))).error
    assert type(error) is PolicyError and str(error) == "got 1, allowed 2"


def test_messages_arrive_in_order_until_an_end_is_closed() -> None:
    long = trace(prompt(2), policy(*[3] * 200_000))
    sent = [RolloutDone(number, (each,)) for number, each in enumerate((FULL, long, FULL))]

    async def work(first: Pipe, second: Pipe) -> None:
        for message in sent:
            first.send(message)
        with pytest.raises(Exception, match="pickle"):  # said at once, and nothing else is lost
            first.send(RolloutDone(0, (trace(prompt(2), task={"metadata": lambda: None}),)))
        first.send(ServerUp("http://a"))
        assert [await second.receive() for _ in range(4)] == [*sent, ServerUp("http://a")]
        await first.aclose()
        assert await second.receive() is None
        assert await second.receive() is None
        second.send(ServerUp("http://b"))  # nobody hears it, and nobody is told off

    both(work)
