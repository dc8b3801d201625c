"""Rollouts spread over worker processes of this machine, whose policy is on servers.

This process keeps all that there is one of: the specs and their order, the store and the guards behind
`on_trace`, and the weights, which it alone brings to the servers. A worker (`aipo.rollout.workers.process`) gets one
rollout for each that it has finished, so that none idles, and none is cut off from what others know of a
server: one that is gone is out for everybody at once, and comes back for each of them only after this
process has brought it the weights. A worker that dies fails the rollouts that it had in hand, and another
one takes its place.
"""

import asyncio
import itertools
import signal
import socket
import subprocess
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aipo.errors import AipoError, RunError
from aipo.rollout.branching.waves import RolloutResult
from aipo.rollout.engine import OnTrace, RolloutEngine, report_all
from aipo.rollout.spec import RolloutSpec
from aipo.rollout.workers import messages
from aipo.rollout.workers.messages import Message, Pipe
from aipo.trace import StopReason, Trace
from aipo.util.event_loop import LOOP
from aipo.util.termination import end
from aipo.util.text import error_text
from aipo.util.working_directory import python_command

if TYPE_CHECKING:
    from aipo.policies.vllm.policy import VLLMPolicy

GRACE_S = 10.0


@contextmanager
def open_workers(builds: Sequence[messages.Build], engine: RolloutEngine) -> Generator[RolloutEngine]:
    """`engine`, with its rollouts in worker processes, one for each of `builds`; they are gone afterwards.

    Args:
        builds: what each worker process calls to make its engine and its policy; none = no worker processes.

    Raises:
        AipoError: a worker cannot build what this process has built.
    """
    if not builds:
        yield engine
        return
    from aipo.policies.vllm.policy import VLLMPolicy

    policy = engine.policies["policy"]
    assert isinstance(policy, VLLMPolicy), "the configuration refuses worker processes for other engines"
    fingerprints = dict(engine.fingerprints)
    inits = [messages.Init(build=build, fingerprints=fingerprints) for build in builds]
    workers = Workers(inits, engine, policy)
    try:
        LOOP.run(workers.open())
        yield replace(engine, elsewhere=workers.rollout)
    finally:
        workers.close()


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process, as this one sees it. `blocked`: it was killed, for it did not answer."""

    process: subprocess.Popen[bytes]
    pipe: Pipe
    blocked: bool = False
    in_hand: dict[int, asyncio.Future[messages.RolloutDone]] = field(
        default_factory=dict[int, "asyncio.Future[messages.RolloutDone]"]
    )


class Workers:
    """Processes that roll out, in the event loop that opens them. This process's `policy` brings the weights."""

    def __init__(self, starts: list[messages.Init], engine: RolloutEngine, policy: "VLLMPolicy") -> None:
        self._starts, self._engine, self._policy = starts, engine, policy
        self._numbers = itertools.count()
        self._workers: list[_Worker] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: Exception | None = None

    async def open(self) -> None:
        """Starts them and waits until all are ready.

        Raises:
            AipoError: one cannot be.
        """
        self._changed = asyncio.Condition()
        self._policy.pool.on_server_down = self._send_server_down
        for start in self._starts:
            self._spawn(self._keep(start))
        async with self._changed:
            await self._changed.wait_for(lambda: self._broken or len(self._workers) == len(self._starts))
        if self._broken is not None:
            raise self._broken

    def close(self) -> None:
        """Ends all of them, whatever they are at."""
        try:
            LOOP.run(self._aclose())
        finally:
            end(self._processes)

    async def rollout(self, spec: RolloutSpec, on_trace: OnTrace) -> RolloutResult:
        """See `RolloutEngine.rollout`.

        Raises:
            AipoError: a worker died and no other could take its place.
        """
        worker = await self._free()
        number = next(self._numbers)
        done = worker.in_hand[number] = asyncio.get_running_loop().create_future()
        worker.pipe.send(messages.RunRollout(number, spec, self._policy.version))
        interrupt: asyncio.CancelledError | None = None
        try:
            await asyncio.wait([done], timeout=self._engine.deadline + GRACE_S)
            if not done.done():
                worker.blocked = True
                worker.process.kill()
                await asyncio.wait([done])
        except asyncio.CancelledError as cancelled:
            interrupt = cancelled
            worker.pipe.send(messages.Cancel(number))
            await asyncio.wait([done], timeout=GRACE_S)
        traces = self._traces(spec, done)
        report_all(traces, on_trace)
        if interrupt is not None:
            raise interrupt
        return RolloutResult(traces, done.result().starts)

    def _traces(self, spec: RolloutSpec, done: "asyncio.Future[messages.RolloutDone]") -> list[Trace]:
        if not done.done():
            silent = f"Cancelled: the run was stopped, and its worker process did not answer in {GRACE_S:g} s"
            return self._engine.lost(spec, StopReason.CANCELLED, silent)
        result = done.result()
        if result.error is not None and not result.traces:
            return self._engine.lost(spec, StopReason.ERROR, result.error)
        return list(result.traces)

    async def _free(self) -> _Worker:
        """The one with the fewest rollouts in hand; waits while there is none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._broken or self._workers)
        if self._broken is not None:
            raise self._broken
        return min(self._workers, key=lambda worker: len(worker.in_hand))

    async def _keep(self, start: messages.Init) -> None:
        """One worker after another: where one dies, the next one takes its place."""
        try:
            while True:
                worker = await self._start(start)
                try:
                    await self._follow(worker)
                finally:
                    worker.pipe.abort()
        except Exception as error:  # whoever waits for a worker has to hear of it
            self._broken = error
            await self._notify()

    async def _follow(self, worker: _Worker) -> None:
        """Takes in what `worker` says until it says nothing more; what it then has in hand has failed.

        Raises:
            AipoError: it could not get ready.
        """
        ready = await worker.pipe.receive()
        if not isinstance(ready, messages.Ready):
            raise RunError(await _end_of(worker))
        if ready.error is not None:
            raise ready.error
        for server in self._policy.pool.servers:
            if not server.up:
                worker.pipe.send(messages.ServerDown(server.url))
        self._workers.append(worker)
        await self._notify()
        error: str | None = None
        try:
            while (message := await worker.pipe.receive()) is not None:
                self._take(worker, message)
        except Exception as broken:  # whatever a graph or an environment has put into a trace
            error = (
                f"a message of worker process {worker.process.pid} that cannot be read: {error_text(broken)}"
            )
            worker.process.kill()
        finally:
            self._workers.remove(worker)
        error = error or await _end_of(worker)
        for number, done in worker.in_hand.items():
            done.set_result(messages.RolloutDone(number, (), error))

    def _take(self, worker: _Worker, message: Message) -> None:
        match message:
            case messages.RolloutDone(number):
                worker.in_hand.pop(number).set_result(message)
            case messages.ServerDown(url):
                self._policy.pool.take_out(self._policy.pool.server(url))
            case messages.ServerUp(url):
                self._spawn(self._answer(worker, url))
            case _:
                raise AssertionError(f"a message for a worker: {message}")

    async def _answer(self, worker: _Worker, url: str) -> None:
        error: AipoError | None = None
        try:
            await self._policy.pool.wait_until_up(self._policy.pool.server(url))
        except AipoError as broken:
            error = broken
        worker.pipe.send(messages.ServerUp(url, error))

    def _send_server_down(self, url: str) -> None:
        for worker in self._workers:
            worker.pipe.send(messages.ServerDown(url))

    async def _start(self, start: messages.Init) -> _Worker:
        ours, theirs = socket.socketpair()
        pipe = await Pipe.open(ours)
        try:
            process = subprocess.Popen(
                python_command("aipo.rollout.workers.process:main", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a terminal's Ctrl-C is for us alone
            )
        except BaseException:
            pipe.abort()
            raise
        finally:
            theirs.close()
        self._processes.append(process)
        worker = _Worker(process, pipe)
        worker.pipe.send(start)
        return worker

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _aclose(self) -> None:
        self._policy.pool.on_server_down = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _end_of(worker: _Worker) -> str:
    """How a worker ended that has closed its pipe."""
    await asyncio.to_thread(end, [worker.process])
    code = worker.process.returncode
    if worker.blocked:
        return (
            f"worker process {worker.process.pid}: got no rollout at its deadline (rollout.deadline), nor {GRACE_S:g} s after it, "
            "allowed code that awaits: a call such as time.sleep stops all rollouts of its process"
        )
    by = f" ({signal.Signals(-code).name})" if code < 0 else ""
    return f"worker process {worker.process.pid}: got exit code {code}{by}, allowed none while rollouts run"
