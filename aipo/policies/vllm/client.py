"""The HTTP client of one policy server."""

import asyncio
import ssl

import anyio
import httpx2

from aipo.util.http.client import describe, open_client

_CONNECT_S = 10.0
_IDLE_S = 4.0  # vLLM closes idle connections after 5
_JSON = {"Content-Type": "application/json"}


class Server:
    """One server, as this process sees it.

    Args:
        url: without /v1.
        key: sent as the bearer token; None = none is sent.
        requests: the most requests in flight.

    Attributes:
        up: may it be asked? The pool decides.
        trouble: why it did not answer when it was last looked at; empty if it did.
        in_flight: requests that it has, or that wait for a place.
    """

    def __init__(self, url: str, key: str | None, requests: int) -> None:
        self.url = url
        self.in_flight = 0
        self.up = True
        self.trouble = ""
        self._slots = asyncio.Semaphore(requests)
        self._leases: set[asyncio.Timeout] = set()
        self._client = open_client(
            f"{url}/",
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),  # the whole request's deadline is the pool's
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=requests, keepalive_expiry=_IDLE_S
            ),
        )

    async def ask(self, path: str, body: bytes | None = None) -> bytes:
        """Posts `body`, or gets `path` where there is none; returns the answer's bytes. One attempt.

        Raises:
            httpx2.HTTPStatusError: an answer with an error status; its text says what the server answered.
            httpx2.TransportError: no answer, also where the server has just closed an idle connection.
        """
        method = "GET" if body is None else "POST"
        try:
            response = await self._client.request(method, path, content=body, headers=_JSON)
        except (ssl.SSLError, anyio.EndOfStream) as error:  # httpx lets some of them through
            raise httpx2.ReadError(str(error), request=self._client.build_request(method, path)) from error
        if not response.is_success:
            raise httpx2.HTTPStatusError(
                f"status {response.status_code}: {response.text[:500]}".rstrip(": "),
                request=response.request,
                response=response,
            )
        return response.content

    async def send(self, path: str, body: bytes | None = None) -> bytes:
        """`ask`, as one of the requests in flight.

        Raises:
            ServerLostError: `abandon` was called meanwhile.
            httpx2.HTTPError: see `ask`.
        """
        self.in_flight += 1
        lease = asyncio.timeout(None)
        try:
            async with self._slots, lease:
                self._leases.add(lease)
                return await self.ask(path, body)
        except TimeoutError:
            if lease.expired():
                raise ServerLostError("nothing from a server that was taken out meanwhile") from None
            raise
        finally:
            self._leases.discard(lease)
            self.in_flight -= 1

    def abandon(self) -> None:
        """Ends every request in flight."""
        now = asyncio.get_running_loop().time()
        for lease in self._leases:
            lease.reschedule(now)

    async def healthy(self) -> bool:
        """Does it answer? A server that is still loading its model does not."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self.ask("health")
        except (httpx2.HTTPError, TimeoutError) as error:
            self.trouble = (
                f"no answer within {_CONNECT_S:g} s" if isinstance(error, TimeoutError) else describe(error)
            )
            return False
        self.trouble = ""
        return True

    async def aclose(self) -> None:
        await self._client.aclose()


class ServerLostError(ConnectionError):
    """The server was taken out while it had this request."""
