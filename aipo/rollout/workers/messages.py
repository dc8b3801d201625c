"""Messages between the main process and a worker process, and the pipe that carries them.

Only the two ends of one socket pair, both of them ours, ever speak here: messages are pickles.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from aipo.errors import AipoError
from aipo.rollout.spec import ForkStart, RolloutSpec
from aipo.trace import Trace
from aipo.trace.arrays import packed, unpacked

if TYPE_CHECKING:
    from aipo.policies.vllm.policy import VLLMPolicy
    from aipo.rollout.engine import RolloutEngine

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """To a new worker: what returns its engine and policy, and the files the parent has read."""

    build: "Build"
    fingerprints: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it has built all that it needs; or, with an error, it could not."""

    error: AipoError | None = None


@dataclass(frozen=True, slots=True)
class RunRollout:
    """To a worker: a rollout, with the policy that the servers have by now."""

    number: int
    spec: RolloutSpec
    version: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """To a worker: rollout `number` is to end."""

    number: int


@dataclass(frozen=True, slots=True)
class RolloutDone:
    """From a worker: what rollout `number` left, in the order of ending, and the states that it can be forked from; none
    where it had not begun."""

    number: int
    traces: tuple[Trace, ...]
    error: str | None = None
    starts: Mapping[int, ForkStart] = field(default_factory=dict[int, ForkStart])


@dataclass(frozen=True, slots=True)
class ServerDown:
    """To and from a worker: the policy server at `url` is gone and gets no more requests."""

    url: str


@dataclass(frozen=True, slots=True)
class ServerUp:
    """From a worker: may I ask `url` again? To a worker: yes; or, with an error, never."""

    url: str
    error: AipoError | None = None


Build = Callable[[], tuple["RolloutEngine", "VLLMPolicy"]]
Message = Init | Ready | RunRollout | Cancel | RolloutDone | ServerDown | ServerUp


class Pipe:
    """One end. Messages arrive in the order in which they were sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Takes `end` over. A fork must not keep it open, or nobody would see that this process has died."""
        os.register_at_fork(after_in_child=end.close)
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Message) -> None:
        """Sends without waiting. A message to a closed end is lost.

        Raises:
            Exception: the message holds something that cannot be pickled.
        """
        if not self._writer.is_closing():
            data = packed(message)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message; None when the other end is closed.

        Raises:
            Exception: the message holds something that cannot be unpickled here.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return unpacked(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def abort(self) -> None:
        """Closes at once."""
        self._writer.transport.abort()

    async def aclose(self) -> None:
        """Sends what is left, then closes."""
        self._writer.close()
        with suppress(ConnectionError):  # the other end was faster
            await self._writer.wait_closed()
