"""Another attempt: which errors are worth one, and how to make it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from aipo.util.http.answers import error_status
from aipo.util.http.errors import retry_after

T = TypeVar("T")

_STATUSES = frozenset({408, 409, 425, 429})
_ERRORS = frozenset(
    {
        "ConnectionError",
        "TimeoutError",
        "NodeTimeoutError",  # of LangGraph
        "APIConnectionError",  # of the openai client, also for a body that ends half-way
        "TransportError",  # of httpx, also for an idle connection that the server has just closed
        "DecodingError",
        "JSONDecodeError",
        "AnswerError",  # JSON, but no reply
    }
)
_NEVER = frozenset({"UnsupportedProtocol", "LocalProtocolError"})  # of httpx: the request itself is wrong


def transient(error: Exception) -> bool:
    """Is the same request worth another attempt?

    Yes for lost connections, time-outs, bodies that end half-way or are no JSON, and for answers that say "not
    now": 408 (too slow), 409 (locked), 425 (too early), 429 (too many) and 5xx. No for the rest of 4xx: the same
    request would be refused again. Errors are known by name, so that no client library has to be imported.
    """
    status = status_of(error)
    if status is not None:
        return status in _STATUSES or status >= 500
    if {type(error).__name__, type(error.__cause__).__name__} & _NEVER:
        return False
    return not _ERRORS.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def status_of(error: Exception) -> int | None:
    """HTTP status that `error` is about; openai has it on the error, httpx on the error's response. An error within a
    stream has it in its body only.

    A status below 400 is not what is wrong: LangChain hangs the response on an error in reading its body, too.
    """
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    body = getattr(error, "body", None)
    return error_status(body) if isinstance(body, dict) else None


async def retry(
    call: Callable[[], Awaitable[T]], *, when: Callable[[Exception], bool], waits: Iterable[float]
) -> T:
    """Awaits `call()`, and again after each error for which `when` holds.

    Args:
        waits: seconds before each further attempt; after the last one the error passes on.
    """
    for wait in waits:
        try:
            return await call()
        except Exception as error:
            if not when(error):
                raise
        await asyncio.sleep(wait)
    return await call()


class Pause:
    """Until when a server wants to be left alone, as its Retry-After says. Requests to it are made inside `async with`.

    Args:
        longest: seconds. A server that wants more is asked again then, and its error names the reason.
    """

    def __init__(self, longest: float) -> None:
        self._longest, self._until = longest, 0.0

    async def __aenter__(self) -> None:
        """Waits until then."""
        if (seconds := self._until - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Notes what the server's error says of it, if it says something."""
        if error is not None and (seconds := retry_after(error)):
            self._until = max(self._until, time.monotonic() + min(seconds, self._longest))
