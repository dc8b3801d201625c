"""The event loop of this process: one, kept open, so that connections to servers live from step to step."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from aipo.errors import GraphError
from aipo.util.text import place

_T = TypeVar("_T")


class Loop:
    """Runs coroutines for code that is not async, one after another, always on the same event loop.

    Threads take turns. Ctrl-C in the main thread cancels the coroutine, lets it clean up, and interrupts.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self._ends: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self._interruptible = True
        self.home: str | None = None

    def keep_running(self) -> None:
        """Makes `sys.exit` and KeyboardInterrupt in a task errors of that task: for a process that nobody interrupts."""
        self._interruptible = False

    def at_close(self, end: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Has `end` run on the loop before it ends: whatever has connections there closes them."""
        self._ends.append(end)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, or what it raises. The working directory stays, whatever a task makes of it.

        Raises:
            GraphError: `work` called `sys.exit` or `os._exit`, which would end the run without a word.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._run(work)
        if self._runner is not None and asyncio.get_running_loop() is self._runner.get_loop():
            work.close()
            raise RuntimeError("the event loop of this process is asked to run something from inside itself")
        # The cell of a notebook runs inside a loop, which cannot run another one: ours gets a thread.
        main: list[asyncio.Task[Any]] = []

        async def watched() -> _T:
            main.extend(task for task in [asyncio.current_task()] if task)
            return await work

        with ThreadPoolExecutor(max_workers=1) as pool:
            result = pool.submit(self._run, watched())
            try:
                return result.result()
            except KeyboardInterrupt:
                for task in main:
                    task.get_loop().call_soon_threadsafe(task.cancel)
                raise

    def close(self) -> None:
        """Ends the loop; the next `run` opens another one."""
        with self._turn:
            runner, self._runner = self._runner, None
            ends, self._ends = self._ends, []
            if runner is not None:
                with runner:
                    for end in ends:
                        runner.run(end())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with self._turn:
            if self._runner is None:
                # With a factory of its own it does not become the thread's loop, which is somebody else's.
                self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
                self._runner.get_loop().set_task_factory(self._task)
            task = self._runner.get_loop().create_task(work)
            self.home = _working_directory()
            try:
                with _exits_raised():
                    self._runner.run(_end_of(task))
                return task.result()
            except (KeyboardInterrupt, SystemExit) as stop:
                # Raised inside of a task it stops the loop where it is, and what is in flight would never end.
                task.cancel()
                self._end(task, self._runner)
                if isinstance(stop, SystemExit):
                    raise as_exception(stop) from stop
                raise

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **settings: Any) -> asyncio.Task[Any]:
        return asyncio.Task(
            _Guarded(work, self) if asyncio.iscoroutine(work) else work, loop=loop, **settings
        )

    def passes(self, error: BaseException) -> bool:
        """Is it an error that a task may end with?"""
        stops = isinstance(error, KeyboardInterrupt | SystemExit)
        return isinstance(error, Exception) or (is_interrupt(error) and (self._interruptible or not stops))

    def _end(self, task: asyncio.Task[Any], runner: asyncio.Runner) -> None:
        """Runs until `task` is done, or until another Ctrl-C."""
        while not task.done():
            waiting = runner.get_loop().create_task(_wait_for(task))
            with suppress(KeyboardInterrupt, SystemExit):
                runner.run(_end_of(waiting))
            if waiting.cancelled():
                return
        if not task.cancelled():
            task.exception()  # known by now; asyncio would tell of it as well


class _Guarded(Coroutine[Any, Any, Any]):
    """A coroutine whose errors are ones that a task may end with. It is no `async def`: that would leave the inner one
    without an end where a task is cancelled before it begins."""

    def __init__(self, inner: Coroutine[Any, Any, Any], loop: Loop) -> None:
        self._inner, self._loop = inner, loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # `cr_running` and the like, of which anyio reads a task's state

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def _step(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except BaseException as error:
            if self._loop.passes(error):
                raise
            raise as_exception(error) from error
        finally:
            # A run's folder, its graphs and prompts may be named from there.
            if (home := self._loop.home) is not None and _working_directory() != home:
                with suppress(OSError):  # it is gone
                    os.chdir(home)


def _working_directory() -> str | None:
    """The path; None where the folder is gone."""
    with suppress(OSError):
        return os.getcwd()
    return None


class _OSExit(SystemExit):
    """A call of `os._exit`."""


@contextmanager
def _exits_raised() -> Generator[None]:
    """In the body `os._exit`, which would end the run without a word, is like `sys.exit`; not in forks and daemon threads."""
    leave, process = os._exit, os.getpid()

    def raised(code: int) -> NoReturn:
        if os.getpid() == process and not threading.current_thread().daemon:
            raise _OSExit(code)
        leave(code)

    os._exit = raised
    try:
        yield
    finally:
        os._exit = leave


def is_interrupt(error: BaseException) -> bool:
    """Does it stop what runs, and not only the task that it comes from? A task that nobody cancels has raised
    CancelledError itself."""
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit) or (
        isinstance(error, asyncio.CancelledError) and cancelled
    )


def as_exception(error: BaseException) -> Exception:
    """`error`, or what to say of one that no code of a rollout should raise."""
    if isinstance(error, Exception):
        return error
    name = "os._exit" if isinstance(error, _OSExit) else "sys.exit"
    got = f"{name}({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
    return GraphError(
        f"code of a rollout: got {got}, allowed an Exception (it ends one rollout), "
        f"in {place(error, without=__file__)}"
    )


async def _end_of(task: asyncio.Task[Any]) -> None:
    """Ends when `task` does, however that is; cancelled, it cancels it."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            raise


async def _wait_for(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


LOOP = Loop()
atexit.register(LOOP.close)
