"""A worker, spoken to by hand: it does what it is told, and asks before it uses a server that was away."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asgi import serving
from seeded_vllm import WORDS, SeededVLLM
from workerkit import configured, engine, policy_of, specs, untimed

from aipo.errors import LoadError, PolicyError
from aipo.pipe import Back, Cancel, Do, Done, Out, Pipe, Start
from aipo.rollout import RolloutEngine
from aipo.trace import StopReason, Trace
from aipo.worker import Worker, build


def told(
    url: str, work: Callable[[Pipe, RolloutEngine], Awaitable[None]], built: RolloutEngine | None = None
) -> None:
    """Runs a worker in this process, with `work` at the other end of its pipe."""

    async def main() -> None:
        ours, theirs = [await Pipe.open(end) for end in socket.socketpair()]
        mine = built or engine(configured(url))
        worker = asyncio.create_task(Worker(theirs, mine, policy_of(mine)).run())
        try:
            await work(ours, mine)
        finally:
            await ours.aclose()
            await worker
            await theirs.aclose()

    asyncio.run(main())


async def done(pipe: Pipe) -> Done:
    message = await pipe.receive()
    assert isinstance(message, Done), message
    return message


def test_rollouts_are_sent_as_they_end() -> None:
    first: list[Trace] = []
    fake = SeededVLLM()

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        slow, fast = specs(mine, 2)[:2]
        fake.hangs = lambda asked: len(fake.asked) == 1
        pipe.send(Do(0, slow, 5))
        while not fake.asked:
            await asyncio.sleep(0.01)
        pipe.send(Do(1, fast, 5))
        ended = await done(pipe)
        assert (ended.number, ended.error) == (1, None)
        first.extend(ended.traces)
        assert [trace.policy_version for trace in ended.traces] == [5]
        await mine.rollout(fast, first.append)
        assert untimed(first[0]) == untimed(first[1])

    with serving(fake.app) as url:
        told(url, work)


def test_a_cancelled_rollout_hands_over_what_it_has() -> None:
    fake = SeededVLLM(hangs=lambda asked: True)

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        pipe.send(Do(3, specs(mine, 2)[0], 0))
        while not fake.asked:
            await asyncio.sleep(0.01)
        pipe.send(Cancel(3))
        ended = await done(pipe)
        [trace] = ended.traces
        assert trace.stop_reason is StopReason.CANCELLED and len(trace.segments) == 1
        pipe.send(Cancel(3))  # too late, and nothing to it
        pipe.send(Do(4, specs(mine, 2)[0], 0))
        pipe.send(Cancel(4))
        assert (await done(pipe)).number == 4

    with serving(fake.app) as url:
        told(url, work)


def test_a_server_that_was_away_is_asked_for_before_it_is_used() -> None:
    fake = SeededVLLM(loaded=False)

    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        pipe.send(Out(url))
        assert await pipe.receive() == Out(url)  # that it has heard
        pipe.send(Do(0, specs(mine, 2)[0], 0))
        assert await pipe.receive() == Back(url)
        # The answer crosses with the news that it is gone again: so it asks again.
        pipe.send(Back(url))
        pipe.send(Out(url))
        assert await pipe.receive() == Back(url)
        assert fake.asked == []
        fake.loaded = True
        pipe.send(Back(url))
        [trace] = (await done(pipe)).traces
        assert not trace.failed and fake.early == 0

    with serving(fake.app) as url:
        told(url, work)


def test_a_server_that_the_parent_cannot_bring_back_fails_rollouts_with_the_reason() -> None:
    async def work(pipe: Pipe, mine: RolloutEngine) -> None:
        pipe.send(Out(url))
        assert await pipe.receive() == Out(url)
        pipe.send(Do(0, specs(mine, 2)[0], 0))
        assert await pipe.receive() == Back(url)
        pipe.send(Back(url, PolicyError("weights of it: got 1, allowed 0")))
        [trace] = (await done(pipe)).traces
        assert trace.stop_reason is StopReason.ERROR
        assert str(trace.error).startswith("PolicyError: weights of it: got 1, allowed 0")

    with serving(SeededVLLM().app) as url:
        told(url, work)


def test_a_trace_that_cannot_be_sent_says_so() -> None:
    async def odd(spec: Any, on_trace: Callable[[Trace], None]) -> list[Trace]:
        [trace] = mine.lost(spec, StopReason.ERROR, "anything")
        on_trace(replace(trace, task={"metadata": lambda: None}))
        return []

    async def work(pipe: Pipe, _: RolloutEngine) -> None:
        pipe.send(Do(0, specs(mine, 2)[0], 0))
        ended = await done(pipe)
        assert ended.traces == () and str(ended.error).startswith("a trace that cannot be sent: ")

    mine = engine(configured("http://127.0.0.1:1"))
    faulty = replace(mine)
    object.__setattr__(faulty, "rollout", odd)
    told("", work, faulty)


def test_files_that_were_edited_meanwhile_are_refused(tmp_path: Path) -> None:
    WORDS.save_pretrained(tmp_path)
    mine = engine(configured("http://127.0.0.1:1"))
    start = Start(
        path=tuple(sys.path),
        config=configured("http://127.0.0.1:1"),
        model=tmp_path,
        vocabulary=len(WORDS),
        run_id="run",
        fingerprints=dict(mine.fingerprints),
    )
    built, policy = build(start)
    assert built.fingerprints == mine.fingerprints
    assert policy.vocabulary == len(WORDS)
    with pytest.raises(LoadError, match=r"consult\.py'\] edited, allowed what the run began with"):
        build(replace(start, fingerprints={**mine.fingerprints, "graph": "another"}))
