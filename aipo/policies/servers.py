"""A pool of policy servers: who is asked, how often it is tried again, and who is out.

All requests of one session go to one server, which has its context in the cache; a new session goes to
the one that is least busy. A server that does not answer is taken out, its sessions move to the others,
and it comes back when it is healthy again and `restore` is done with it: whoever restarts may have old
weights.
"""

import asyncio
import contextvars
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, HttpxBinaryResponseContent

from aipo.errors import AipoError, ConfigError, PolicyError

Restore = Callable[[str], Awaitable[None]]

_SESSIONS = 1 << 16
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_HEALTH_TIMEOUT = 10.0
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class Server:
    """One server, as this process sees it."""

    def __init__(self, url: str, key: str | None, requests: int) -> None:
        self.url = url
        self.in_flight = 0
        self.up = True
        self.slots = asyncio.Semaphore(requests)
        self.client = AsyncOpenAI(
            base_url=f"{url}/",
            api_key=key or "none",
            max_retries=0,  # we retry what is transient and nothing else
            http_client=DefaultAsyncHttpxClient(timeout=None),  # the deadline of the whole request is ours
        )

    async def ask(self, path: str, body: bytes | None = None) -> bytes:
        """Posts `body`, or gets where there is none; the answer's bytes.

        Raises:
            openai.APIError: no answer, or one with an error status.
        """
        if body is None:
            return (await self.client.get(path, cast_to=HttpxBinaryResponseContent)).content
        answer = await self.client.post(
            path, content=body, cast_to=HttpxBinaryResponseContent, options={"headers": _JSON}
        )
        return answer.content

    async def healthy(self) -> bool:
        """Does it answer? A server that is still loading its model does not."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self.ask("health")
        except (openai.APIError, TimeoutError):
            return False
        return True


class ServerPool:
    """Servers that are one for who asks. Belongs to the event loop that uses it first.

    Args:
        urls: of the servers, without /v1.
        key: sent as the bearer token; None = none is needed.
        requests: the most requests in flight at one server.
        deadline: seconds that one request may take, waiting and retries included.
        attempts: how often a request is tried while the server lives.

    Attributes:
        restore: awaited before a server that was out serves again. What it raises of `AipoError` ends the
            run: every request from then on raises it.
        lost: called with the address of a server that is taken out.

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
        for url in urls:
            if not url.startswith(("http://", "https://")) or url.rstrip("/").endswith("/v1"):
                raise ConfigError(
                    f"policy.vllm.servers: got {url!r}, allowed addresses such as http://127.0.0.1:8000 (without /v1)"
                )
        self.urls = tuple(url.rstrip("/") for url in urls)
        if not urls or len(set(self.urls)) < len(urls):
            raise ConfigError(
                f"policy.vllm.servers: got {list(urls)}, allowed one or more different addresses"
            )
        self.restore: Restore | None = None
        self.lost: Callable[[str], None] | None = None
        self._key, self._requests = key, requests
        self._deadline, self._attempts = deadline, attempts
        self._servers: tuple[Server, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: OrderedDict[int, Server] = OrderedDict()
        self._returns: set[asyncio.Task[None]] = set()
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
            self._returns.clear()
        return self._servers

    async def ask(self, path: str, body: bytes | None = None, *, session: int = 0) -> bytes:
        """Asks the session's server, or to another one when that is out. Cancelling closes the connection,
        upon which the server stops.

        Raises:
            PolicyError: refused (a status that another attempt does not change), no answer after so many
                attempts, or none within the deadline.
        """
        failures: list[str] = []
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    server = await self._server_of(session)
                    try:
                        return await self._at(server, path, body)
                    except openai.APIError as error:
                        failures.append(_what(error))
                        if not _transient(error):
                            raise PolicyError(
                                f"{server.url}/{path}: got {failures[-1]}, allowed an answer"
                            ) from error
                        if await self._gone(server, error):
                            continue  # it does not count: the request was never the problem
                        if len(failures) >= self._attempts:
                            raise PolicyError(
                                f"{server.url}/{path}: got no answer in {len(failures)} attempts, the last was "
                                f"{failures[-1]}, allowed one within policy.vllm.attempts"
                            ) from error
                        await asyncio.sleep(self._wait(len(failures), error))
        except TimeoutError:
            said = f"; before that: {failures[-1]}" if failures else ""
            out = [server.url for server in self._servers if not server.up]
            raise PolicyError(
                f"{path}: got no answer within {self._deadline:g} s, servers that are out: {out or 'none'}{said}. "
                "Allowed an answer in that time (policy.vllm.deadline)"
            ) from None

    def check(self) -> None:
        """Raises what went wrong for good when a server came back.

        Raises:
            AipoError: it could not be given the weights.
        """
        if self._fatal is not None:
            raise self._fatal

    async def meet(self) -> None:
        """Sees whether all servers are there, before anything is begun.

        Raises:
            PolicyError: names those that do not answer.
        """
        answers = await asyncio.gather(*(server.healthy() for server in self.servers))
        silent = [server.url for server, there in zip(self.servers, answers, strict=True) if not there]
        if silent:
            raise PolicyError(
                f"policy.vllm.servers: got no answer from {silent}, allowed servers that are up (`aipo serve` starts "
                "one; it takes a minute to load a model)"
            )

    async def someone(self) -> None:
        """Waits until a server is up.

        Raises:
            PolicyError: none within the deadline.
        """
        try:
            async with asyncio.timeout(self._deadline):
                await self._server_of(0)
        except TimeoutError:
            raise PolicyError(
                f"policy.vllm.servers: got none that answers within {self._deadline:g} s, allowed one of "
                f"{list(self.urls)}"
            ) from None

    def take_out(self, server: Server) -> None:
        """Nobody asks `server` until it has come back."""
        if server.up:
            server.up = False
            if self.lost is not None:
                self.lost(server.url)
            # A context of its own: it outlives the rollout that happens to find out.
            task = asyncio.get_running_loop().create_task(
                self._bring_back(server), context=contextvars.Context()
            )
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    def server(self, url: str) -> Server:
        """The one at `url`, which is one of `urls`."""
        return next(server for server in self.servers if server.url == url)

    async def back(self, server: Server) -> None:
        """Waits until `server` serves, however long it takes.

        Raises:
            AipoError: see `check`.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: server.up or self._fatal is not None)
        self.check()

    async def aclose(self) -> None:
        """Closes every connection and stops looking after servers that are out."""
        if self._loop is not asyncio.get_running_loop():
            return
        for task in self._returns:
            task.cancel()
        await asyncio.gather(*self._returns, return_exceptions=True)
        for server in self._servers:
            await server.client.close()
        self._loop, self._servers = None, ()

    async def _at(self, server: Server, path: str, body: bytes | None) -> bytes:
        server.in_flight += 1
        try:
            async with server.slots:
                return await server.ask(path, body)
        finally:
            server.in_flight -= 1

    async def _server_of(self, session: int) -> Server:
        """The session's server; a new one where it has none that lives. Waits while there is none at all."""
        servers = self.servers
        while True:
            self.check()
            own = self._sessions.get(session)
            if own is not None and own.up:
                self._sessions.move_to_end(session)
                return own
            alive = [server for server in servers if server.up]
            if alive:
                chosen = min(alive, key=lambda server: server.in_flight)
                self._sessions[session] = chosen
                if len(self._sessions) > _SESSIONS:
                    self._sessions.popitem(last=False)
                return chosen
            async with self._changed:
                await self._changed.wait()

    async def _gone(self, server: Server, error: openai.APIError) -> bool:
        """Was it the connection, and is nobody there? Then the server is out, until it comes back."""
        if not isinstance(error, openai.APIConnectionError):
            return False
        if server.up and await server.healthy():
            return False
        self.take_out(server)
        return True

    async def _bring_back(self, server: Server) -> None:
        wait = _FIRST_WAIT
        while True:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            if not await server.healthy():
                continue
            try:
                if self.restore is not None:
                    await self.restore(server.url)
            except openai.APIError:
                continue  # gone again
            except AipoError as error:
                self._fatal = error
            except Exception as error:  # whoever waits for this server would wait for ever
                self._fatal = PolicyError(
                    f"{server.url}, which came back: got {type(error).__name__}: {error}"
                )
                self._fatal.__cause__ = error
            server.up = True
            async with self._changed:
                self._changed.notify_all()
            return

    def _wait(self, failures: int, error: openai.APIError) -> float:
        """Seconds until the next attempt: what the server asks for, none after a first lost connection (an idle
        one that it closed under our feet), else twice as long each time, and not everybody at once."""
        if isinstance(error, openai.APIStatusError):
            asked = _retry_after(error.response.headers)
            if asked is not None:
                return asked
        elif failures == 1:
            return 0.0
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (failures - 1)) * self._jitter.uniform(0.5, 1.0)


def _transient(error: openai.APIError) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code == 429 or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _retry_after(headers: Mapping[str, Any]) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):  # not sent, or a date, which nobody who serves models sends
        return None


def _what(error: openai.APIError) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}: {error.message[:500]}"
    return f"{type(error).__name__} ({error.__cause__!r})"
