"""One event loop per process, for code that is not async."""

import asyncio
import contextlib
import os
import threading
from argparse import ArgumentParser
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from aipo.errors import GraphError
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


def test_an_error_in_a_task_group_of_anyio_is_the_one_that_was_raised(loop: Loop) -> None:
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 60)  # it has not begun when its group is cancelled
            raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        loop.run(group())
    assert [str(error) for error in caught.value.exceptions] == ["mine"]


class Odd(BaseException):
    pass


async def siblings(error: BaseException) -> tuple[str, str]:
    """Two tasks, of which one raises."""

    async def raises() -> None:
        raise error

    return await siblings_of(raises())


async def siblings_of(raises: Coroutine[Any, Any, None]) -> tuple[str, str]:
    async def works() -> str:
        await asyncio.sleep(0)
        return "done"

    tasks = [asyncio.create_task(raises), asyncio.create_task(works())]
    await asyncio.wait(tasks)
    return str(tasks[0].exception()), tasks[1].result()


@pytest.mark.parametrize(
    ("error", "got"),
    [(SystemExit(3), "sys.exit(3)"), (KeyboardInterrupt(), "KeyboardInterrupt"), (Odd(), "Odd")],
)
def test_a_process_that_nobody_interrupts_keeps_running(loop: Loop, error: BaseException, got: str) -> None:
    loop.keep_running()
    said, other = loop.run(siblings(error))
    assert said.startswith(
        f"code of a rollout: got {got}, allowed an Exception (it ends one rollout), in {__file__}:"
    )
    assert other == "done"


def test_elsewhere_only_an_exit_and_an_interrupt_end_the_work(loop: Loop) -> None:
    assert loop.run(siblings(Odd()))[0].startswith("code of a rollout: got Odd,")
    assert loop.run(siblings(KeyError("x")))[0] == "'x'"
    with pytest.raises(GraphError, match=r"got sys\.exit\(3\)"):
        loop.run(siblings(SystemExit(3)))
    with pytest.raises(KeyboardInterrupt):
        loop.run(siblings(KeyboardInterrupt()))


@pytest.mark.filterwarnings("error")
def test_a_task_that_is_cancelled_before_it_begins_leaves_nothing_open(loop: Loop) -> None:
    async def cancelled() -> bool:
        task = asyncio.create_task(running())
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert loop.run(cancelled())


def raising(error: BaseException) -> str:
    """The name of what the work gets of a task that raises `error`."""

    async def raises() -> None:
        raise error

    async def work() -> str:
        task = asyncio.create_task(raises())
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else str(task.exception())

    with contextlib.closing(Loop()) as loop:
        return loop.run(work())


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
def test_what_only_others_may_raise_is_an_error_of_the_task_that_raises_it(error: BaseException) -> None:
    got = type(error).__name__
    assert raising(error).startswith(f"code of a rollout: got {got}, allowed an Exception")


def test_a_task_that_waits_for_one_that_was_cancelled_has_not_been_cancelled(loop: Loop) -> None:
    async def waits(other: asyncio.Task[None]) -> None:
        await other

    async def work() -> tuple[bool, str]:
        other = asyncio.create_task(asyncio.sleep(60))
        waiting = asyncio.create_task(waits(other))
        await asyncio.sleep(0)
        other.cancel()
        await asyncio.wait([waiting])
        return other.cancelled(), str(waiting.exception())

    cancelled, said = loop.run(work())
    assert cancelled and said.startswith("code of a rollout: got CancelledError")


def test_the_place_of_what_nobody_raises_is_none_of_pythons_own_library(loop: Loop) -> None:
    async def waits() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    async def exits() -> None:
        ArgumentParser().parse_args(["none"])

    line = waits.__code__.co_firstlineno + 4
    with pytest.raises(GraphError, match=rf"got CancelledError, allowed .*, in {__file__}:{line}$"):
        loop.run(waits())
    with pytest.raises(
        GraphError,
        match=rf"got sys\.exit\(2\), allowed .*, in {__file__}:{exits.__code__.co_firstlineno + 1}$",
    ):
        loop.run(exits())


def test_time_outs_are_what_they_were(loop: Loop) -> None:
    async def late() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def later() -> None:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)

    async def work() -> list[str]:
        ended = await asyncio.gather(late(), later(), return_exceptions=True)
        return [type(error).__name__ for error in ended]

    assert loop.run(work()) == ["TimeoutError", "TimeoutError"]


def test_an_exit_of_the_process_is_named_too(loop: Loop) -> None:
    async def leaves() -> None:
        os._exit(3)

    leave = os._exit
    with pytest.raises(
        GraphError, match=rf"code of a rollout: got os\._exit\(3\), allowed .*, in {__file__}:\d+"
    ):
        loop.run(leaves())
    with pytest.raises(GraphError, match=r"got os\._exit\(4\)"):
        loop.run(asyncio.to_thread(lambda: os._exit(4)))
    loop.keep_running()
    said, other = loop.run(siblings_of(leaves()))
    assert "got os._exit(3)" in said and other == "done"
    assert os._exit is leave


def test_a_fork_leaves_as_it_likes(loop: Loop) -> None:
    async def forks() -> int:
        if (child := os.fork()) == 0:
            os._exit(5)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert loop.run(forks()) == 5


def test_a_working_directory_that_is_gone_changes_no_result(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")

    async def removes() -> str:
        (tmp_path / "home").rmdir()
        await asyncio.sleep(0)
        return "done"

    async def work() -> str:
        return await asyncio.create_task(removes())

    assert loop.run(work()) == "done"


def test_the_working_directory_stays_whatever_a_task_makes_of_it(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "else").mkdir()

    async def moves() -> str:
        os.chdir("else")
        inside = os.getcwd()
        await asyncio.sleep(0)
        return inside

    async def work() -> tuple[str, str]:
        return await asyncio.create_task(moves()), os.getcwd()

    assert loop.run(work()) == (str(tmp_path / "else"), str(tmp_path))
    (tmp_path / "else").rmdir()
