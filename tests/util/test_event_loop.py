"""One event loop per process, for code that is not async."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aipo.util.event_loop import Loop


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


async def running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_it_is_the_same_loop_every_time(loop: Loop) -> None:
    assert loop.run(running()) is loop.run(running())


def test_what_the_work_raises_comes_out(loop: Loop) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        loop.run(fail())
    assert loop.run(running()).is_running() is False


def test_threads_take_turns(loop: Loop) -> None:
    inside, most = 0, 0

    async def work() -> asyncio.AbstractEventLoop:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.001)
        inside -= 1
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(8) as pool:
        loops = set(pool.map(lambda _: loop.run(work()), range(40)))
    assert len(loops) == 1 and most == 1


def test_it_runs_inside_a_running_loop_too(loop: Loop) -> None:
    async def cell() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        async def work() -> threading.Thread:
            return threading.current_thread()

        return asyncio.get_running_loop(), loop.run(work())

    outer, thread = asyncio.run(cell())
    assert loop.run(running()) is not outer and thread is not threading.current_thread()


def test_after_its_end_it_begins_anew(loop: Loop) -> None:
    first = loop.run(running())
    loop.close()
    assert first.is_closed() and loop.run(running()) is not first


def test_it_is_not_run_from_inside_itself(loop: Loop) -> None:
    async def outer() -> None:
        with pytest.raises(RuntimeError, match="from inside itself"):
            loop.run(running())

    loop.run(outer())
