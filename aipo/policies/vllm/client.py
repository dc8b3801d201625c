"""One policy server, as this process sees it, and what its failures mean."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, HttpxBinaryResponseContent

_HEALTH_TIMEOUT = 10.0
_IDLE = 4.0  # seconds; vLLM closes idle connections after 5
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class Server:
    """One server, as this process sees it."""

    def __init__(self, url: str, key: str | None, requests: int) -> None:
        self.url = url
        self.in_flight = 0
        self.up = True
        self.leases: set[asyncio.Timeout] = set()
        self.watch: asyncio.Task[None] | None = None
        self.slots = asyncio.Semaphore(requests)
        self.client = AsyncOpenAI(
            base_url=f"{url}/",
            api_key=key or "none",
            max_retries=0,  # we retry what is transient and nothing else
            http_client=DefaultAsyncHttpxClient(
                timeout=httpx2.Timeout(None, connect=_HEALTH_TIMEOUT),  # the whole request's deadline is ours
                limits=httpx2.Limits(
                    max_connections=None, max_keepalive_connections=requests, keepalive_expiry=_IDLE
                ),
            ),
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


class LostError(Exception):
    """The server was taken out while it had this request."""


def transient(error: Exception) -> bool:
    """Is it worth another attempt?"""
    if isinstance(error, openai.APIStatusError):
        return error.status_code == 429 or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | LostError)


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds that the server asks for."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):  # not sent, or a date, which nobody who serves models sends
        return None


def told(error: Exception) -> str:
    """The error in words."""
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}: {error.message[:500]}"
    if isinstance(error, LostError):
        return "nothing from a server that was taken out meanwhile"
    return f"{type(error).__name__} ({error.__cause__!r})"
