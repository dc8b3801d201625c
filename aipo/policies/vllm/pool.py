"""A pool of policy servers: which one is asked, how often a request is tried again, and which are out.

All requests of one session go to one server, which has its context in the cache; a new session goes to
the one that is least busy. A server that does not answer is taken out, its sessions and what it has in hand
move to the others, and it comes back when it is healthy again and `restore` is done with it: whoever
restarts may have old weights.
"""

import asyncio
import contextvars
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from aipo.errors import AipoError, PolicyError
from aipo.policies.vllm.client import Server, ServerLostError
from aipo.util.http.client import describe
from aipo.util.http.errors import retry_after
from aipo.util.http.retry import status_of, transient
from aipo.util.http.urls import check_servers

_SESSIONS = 1 << 16
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_BEAT = 15.0  # seconds between two looks at a server that is up
_LOSSES = 3  # servers that one request may have been at when they were lost


@dataclass(slots=True)
class _History:
    """The history of one request."""

    failures: list[str] = field(default_factory=list[str])
    losses: int = 0
    failed: set[Server] = field(default_factory=set[Server])


class ServerPool:
    """Asks several servers as if they were one. Belongs to one event loop until it is closed.

    Args:
        urls: of the servers, without /v1.
        key: sent as the bearer token; None = none is needed.
        requests: the most requests in flight at one server.
        deadline: seconds that one request may take, waiting and retries included.
        attempts: how often a request is tried while the server lives.

    Attributes:
        restore: awaited before a server that was out serves again. An `AipoError` that it raises ends the
            run: every request from then on raises it.
        on_server_down: called with the address of a server that is taken out.

    Raises:
        ConfigError: no server, or a URL that is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str | None = None,
        requests: int = 256,
        deadline: float = 600.0,
        attempts: int = 5,
    ) -> None:
        check_servers(urls)
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.restore: Callable[[str], Awaitable[None]] | None = None
        self.on_server_down: Callable[[str], None] | None = None
        self._key, self._requests = key, requests
        self.deadline, self._attempts = deadline, attempts
        self._servers: tuple[Server, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: OrderedDict[int, Server] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()
        self._fatal: AipoError | None = None
        self._jitter = random.Random(0)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All of them, in the order of `urls`; to be asked for in the event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._changed = loop, asyncio.Condition()
            self._servers = tuple(Server(url, self._key, self._requests) for url in self.urls)
            self._sessions.clear()
            self._background.clear()
            for server in self._servers:
                self._start(self._look_after(server))
        return self._servers

    async def ask(self, path: str, body: bytes | None = None, *, session: int = 0) -> bytes:
        """Asks the session's server, or to another one when that is out. Cancelling closes the connection,
        upon which the server stops.

        Raises:
            PolicyError: refused (a status that another attempt does not change), no answer after so many
                attempts, or none within the deadline.
        """
        history = _History()
        try:
            async with asyncio.timeout(self.deadline):
                while True:
                    server = await self._server_of(session, history.failed)
                    try:
                        return await server.send(path, body)
                    except (httpx2.HTTPError, ServerLostError) as error:
                        wait = await self._wait_after(error, server, f"{server.url}/{path}", history)
                    await asyncio.sleep(wait)
        except TimeoutError:
            last = f"; before that: {history.failures[-1]}" if history.failures else ""
            out = [named(server) for server in self._servers if not server.up]
            raise PolicyError(
                f"{path}: got no answer within {self.deadline:g} s, servers that are out: {out or 'none'}{last}. "
                "Allowed an answer in that time (policy.vllm.deadline)"
            ) from None

    def check(self) -> None:
        """Raises what went wrong for good when a server came back: it could not be given the weights."""
        if self._fatal is not None:
            raise self._fatal

    async def check_servers(self) -> None:
        """Checks that all servers answer, before anything is begun.

        Raises:
            PolicyError: names those that do not answer.
        """
        answers = await asyncio.gather(*(server.healthy() for server in self.servers))
        silent = [server for server, there in zip(self.servers, answers, strict=True) if not there]
        if silent:
            reasons = "; ".join(named(server) for server in silent)
            raise PolicyError(
                f"policy.vllm.servers: got no answer from {[server.url for server in silent]}, allowed servers that are "
                f"up (`aipo serve` starts one; it takes a minute to load a model). {reasons}"
            )

    async def wait_for_any(self) -> None:
        """Waits until a server is up.

        Raises:
            PolicyError: none within the deadline.
        """
        try:
            async with asyncio.timeout(self.deadline):
                await self._server_of(0)
        except TimeoutError:
            raise PolicyError(
                f"policy.vllm.servers: got none that answers within {self.deadline:g} s (policy.vllm.deadline), "
                f"allowed one of {list(self.urls)}. {'; '.join(named(server) for server in self.servers)}"
            ) from None

    def take_out(self, server: Server) -> None:
        """Takes `server` out: it gets no request until it has come back."""
        if server.up:
            server.up = False
            server.abandon()
            if self.on_server_down is not None:
                self.on_server_down(server.url)
            self._start(self._bring_back(server))

    def server(self, url: str) -> Server:
        """The one at `url`, which is one of `urls`."""
        return next(server for server in self.servers if server.url == url)

    async def wait_until_up(self, server: Server) -> None:
        """Waits until `server` serves, however long it takes; raises as `check` does."""
        await self._until(lambda: server.up)

    async def aclose(self) -> None:
        """Closes every connection and stops looking after servers that are out."""
        if self._loop is not asyncio.get_running_loop():
            return
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.aclose()
        self._loop, self._servers = None, ()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts `work` in a context of its own: it outlives the rollout that happens to start it."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: holds() or self._fatal is not None)
        self.check()

    async def _look_after(self, server: Server) -> None:
        """Is `server` still there? One that hangs closes no connection, and one that restarts while nobody asks it
        would go on with the weights that it started with."""
        while True:
            await asyncio.sleep(_BEAT)
            if server.up and not await server.healthy():
                self.take_out(server)

    async def _server_of(self, session: int, failed: Collection[Server] = ()) -> Server:
        """The session's server; a new one where it has none that lives, or there are others than those that
        `failed`. Waits while there is none at all."""
        servers = self.servers
        await self._until(lambda: any(server.up for server in servers))
        alive = [server for server in servers if server.up]
        candidates = [server for server in alive if server not in failed] or alive
        server = self._sessions.get(session)
        if server is None or server not in candidates:
            server = self._sessions[session] = min(candidates, key=lambda server: server.in_flight)
        self._sessions.move_to_end(session)
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return server

    async def _wait_after(self, error: Exception, server: Server, where: str, history: _History) -> float:
        """Seconds until the next attempt after `error`.

        Raises:
            PolicyError: there is none.
        """
        text = describe(error)
        if not transient(error):
            raise PolicyError(f"{where}: got {text}, allowed an answer") from error
        status = status_of(error)
        # An error below 500 is an answer.
        if (status is None or status >= 500) and not (server.up and await server.healthy()):
            self.take_out(server)
            # It does not count, unless servers are lost wherever this request is.
            history.losses += not isinstance(error, httpx2.ConnectError)
            if history.losses < _LOSSES:
                return 0.0
            raise PolicyError(
                f"{where}: got {history.losses} servers lost while they had this request, the last by {text}, "
                "allowed a request that they survive"
            ) from error
        history.failures.append(text)
        if len(history.failures) >= self._attempts:
            raise PolicyError(
                f"{where}: got no answer in {len(history.failures)} attempts, the last was {text}, allowed one "
                "within policy.vllm.attempts"
            ) from error
        if status is not None and status >= 500:
            history.failed.add(server)  # a broken server answers fastest, and would get every request
        if (seconds := retry_after(error)) is not None:
            return seconds
        if status is None and len(history.failures) == 1:
            return 0.0  # an idle connection that the server had closed
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (len(history.failures) - 1))
        return wait * self._jitter.uniform(0.5, 1.0)  # not everybody at once

    async def _bring_back(self, server: Server) -> None:
        wait = _FIRST_WAIT
        while not server.up:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            server.up = await server.healthy() and await self._restored(server)
        async with self._changed:
            self._changed.notify_all()

    async def _restored(self, server: Server) -> bool:
        """Whether it needs no further attempt; what goes wrong for good is raised by `check`."""
        try:
            if self.restore is not None:
                await self.restore(server.url)
        except (httpx2.TransportError, TimeoutError):
            return False  # gone again
        except AipoError as error:
            self._fatal = error
        except Exception as error:  # whoever waits for this server would wait for ever
            self._fatal = PolicyError(f"{server.url}, which came back: got {type(error).__name__}: {error}")
            self._fatal.__cause__ = error
        return True


def named(server: Server) -> str:
    """A server's address, with what is wrong with it if that is known."""
    return f"{server.url}: {server.trouble}" if server.trouble else server.url
