"""A worker process: rollouts of a run whose store, guards and metrics are with another process.

It builds graphs, environment, chat models and the policy from the run's configuration, rolls out what it
is told and sends every trace back as it ends. It brings no weights to a server: where one was away, it
asks whether it has them again. It ends when the pipe does.
"""

import asyncio
import signal
import socket
import sys
from collections import Counter
from dataclasses import replace

from aipo.errors import AipoError, LoadError
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import ForkStart
from aipo.rollout.workers import messages
from aipo.rollout.workers.messages import Message, Pipe
from aipo.trace import Trace
from aipo.util.event_loop import LOOP
from aipo.util.masking import mask_output
from aipo.util.text import error_text


def build(init: messages.Init) -> tuple[RolloutEngine, VLLMPolicy]:
    """Builds the same objects as the parent, from the same files.

    Raises:
        LoadError: a file was edited since the parent read it.
        AipoError: see `aipo.config.build`.
    """
    engine, policy = init.build()
    read, parent = engine.fingerprints, init.fingerprints
    edited = sorted(name for name in parent.keys() & read.keys() if parent[name] != read[name])
    if edited:
        raise LoadError(f"files of a worker process: got {edited} edited, allowed what the run began with")
    return replace(engine, fingerprints=parent), policy


class Worker:
    """Executes the messages that come through `pipe`."""

    def __init__(self, pipe: Pipe, engine: RolloutEngine, policy: VLLMPolicy) -> None:
        self._pipe, self._engine, self._policy = pipe, engine, policy
        self._rollouts: dict[int, asyncio.Task[None]] = {}
        self._outs: Counter[str] = Counter()
        self._asked: dict[str, asyncio.Future[None]] = {}
        policy.pool.on_server_down = lambda url: pipe.send(messages.ServerDown(url))
        policy.pool.restore = self._restored

    async def run(self) -> None:
        """Works until the pipe is closed; rollouts in flight are then dropped."""
        while (message := await self._pipe.receive()) is not None:
            self._take(message)
        for rollout in self._rollouts.values():
            rollout.cancel()
        await asyncio.gather(*self._rollouts.values(), return_exceptions=True)
        await self._policy.aclose()

    def _take(self, message: Message) -> None:
        match message:
            case messages.RunRollout():
                self._begin(message)
            case messages.Cancel(number):
                if number in self._rollouts:
                    self._rollouts[number].cancel()
            case messages.ServerDown(url):
                self._outs[url] += 1
                self._policy.pool.take_out(self._policy.pool.server(url))
            case messages.ServerUp(url, error):
                asked = self._asked.pop(url)
                if error is None:
                    asked.set_result(None)
                else:
                    asked.set_exception(error)
            case _:
                raise AssertionError(f"a message for the parent: {message}")

    def _begin(self, do: messages.RunRollout) -> None:
        self._policy.advance(do.version)
        traces: list[Trace] = []
        starts: dict[int, ForkStart] = {}

        async def rollout() -> None:
            starts.update((await self._engine.rollout(do.spec, traces.append)).starts)

        def end(task: asyncio.Task[None]) -> None:
            del self._rollouts[do.number]
            error = None if task.cancelled() else task.exception()
            text = error_text(error) if error else None
            self._send(messages.RolloutDone(do.number, tuple(traces), text, starts))

        task = self._rollouts[do.number] = asyncio.create_task(rollout())
        task.add_done_callback(end)

    def _send(self, done: messages.RolloutDone) -> None:
        try:
            self._pipe.send(done)
        except Exception as error:  # whatever a graph or an environment has put into a trace
            self._pipe.send(
                messages.RolloutDone(done.number, (), f"a trace that cannot be sent: {error_text(error)}")
            )

    async def _restored(self, url: str) -> None:
        """Waits until the parent has brought the weights to `url`; for `ServerPool.restore`."""
        while True:
            before = self._outs[url]
            self._asked[url] = asyncio.get_running_loop().create_future()
            self._pipe.send(messages.ServerUp(url))
            await self._asked[url]
            if self._outs[url] == before:  # else it went away again while the answer was on its way
                return


async def serve(end: socket.socket) -> None:
    """Builds what the first message says, then works."""
    pipe = await Pipe.open(end)
    init = await pipe.receive()
    if isinstance(init, messages.Init):
        try:
            engine, policy = build(init)
        except AipoError as error:
            pipe.send(messages.Ready(error))
        else:
            freeze_gc()
            pipe.send(messages.Ready())
            await Worker(pipe, engine, policy).run()
    await pipe.aclose()


def main() -> None:
    """Works on the socket whose file descriptor is the first argument of the command."""
    mask_output()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent says what is to end, and when
    LOOP.keep_running()
    LOOP.run(serve(socket.socket(fileno=int(sys.argv[1]))))
