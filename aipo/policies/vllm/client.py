"""The HTTP client of one policy server."""

import asyncio

import httpx2

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
        in_flight: requests that it has, or that wait for a place.
    """

    def __init__(self, url: str, key: str | None, requests: int) -> None:
        self.url = url
        self.in_flight = 0
        self.up = True
        self._slots = asyncio.Semaphore(requests)
        self._leases: set[asyncio.Timeout] = set()
        self._client = httpx2.AsyncClient(
            base_url=f"{url}/",
            headers={"Authorization": f"Bearer {key}"} if key else None,
            follow_redirects=True,
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
        response = await self._client.request(method, path, content=body, headers=_JSON)
        if response.is_error:
            raise httpx2.HTTPStatusError(
                f"status {response.status_code}: {response.text[:500]}",
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
        except (httpx2.HTTPError, TimeoutError):
            return False
        return True

    async def aclose(self) -> None:
        await self._client.aclose()


class ServerLostError(ConnectionError):
    """The server was taken out while it had this request."""


def retry_after(error: Exception) -> float | None:
    """Seconds that the server asks for before another attempt, if it does."""
    if not isinstance(error, httpx2.HTTPStatusError):
        return None
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):  # not sent, or a date, which servers of models do not send
        return None


def describe(error: Exception) -> str:
    """The error in words."""
    if isinstance(error, httpx2.HTTPStatusError | ServerLostError):
        return str(error)
    return f"{type(error).__name__} ({error})"
