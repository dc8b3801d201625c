"""The HTTP client for servers of models.

Each request takes the proxy that the environment names for its address; one to this machine takes none. An answer is
read whole, up to a limit, and has the status of the error that its body holds. `aipo.util.http.errors` puts what goes wrong into words.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx2
import orjson

from aipo.errors import ConfigError
from aipo.util.http.answers import chat_answer, status_said
from aipo.util.http.errors import http_details
from aipo.util.http.urls import Proxy, plain, proxy_of

T = TypeVar("T")

LARGEST, LARGEST_CHAT = 32 << 20, 4 << 20
"""Bytes of a decoded answer, and of a chat's, whose reply is cut into tokens while other rollouts wait. The log-probs of a
context of 128k tokens take a third of the first; a reply of so many tokens takes a fifth of the second."""
_LISTED = 20
_CHAT = "/chat/completions"
_OF_THE_WAY = (b"content-encoding", b"content-length")
"""Headers of a body as it travels; the one that was read is decoded."""


def check_way(url: str) -> None:
    """Checks that requests can be sent to `url`, without sending one.

    Raises:
        ConfigError: the proxy or the certificates that the environment names for it cannot be used.
    """
    _Ways(httpx2.AsyncHTTPTransport).to(url)


def open_client(
    url: str = "",
    *,
    limits: httpx2.Limits,
    timeout: httpx2.Timeout,
    headers: Mapping[str, str] | None = None,
) -> httpx2.AsyncClient:
    """A client for the server at `url`; without one, requests name their server.

    Raises:
        ConfigError: see `check_way`.
    """
    ways = _Ways(httpx2.AsyncHTTPTransport, limits=limits)
    if url:
        ways.to(url)
    return httpx2.AsyncClient(
        base_url=url, transport=_Transport(ways), timeout=timeout, headers=headers, follow_redirects=True
    )


def open_sync_client() -> httpx2.Client:
    """The same for code that is not async, without the looks at answers: LangChain's classes want both."""
    return httpx2.Client(transport=_SyncTransport(_Ways(httpx2.HTTPTransport)), follow_redirects=True)


class _Ways(Generic[T]):
    """Transports, one for each proxy that the environment names for some address, and one for none.

    Attributes:
        open: those that were needed so far, by proxy.
    """

    def __init__(self, kind: Callable[..., T], **settings: Any) -> None:
        self._kind, self._settings = kind, settings
        self.open: dict[Proxy | None, T] = {}

    def to(self, url: str) -> T:
        """The transport to `url`.

        Raises:
            ConfigError: see `check_way`.
        """
        proxy = proxy_of(url)
        if proxy not in self.open:
            self.open[proxy] = self._opened(url, proxy)
        return self.open[proxy]

    def _opened(self, url: str, proxy: Proxy | None) -> T:
        try:
            if proxy is None:
                return self._kind(**self._settings)
            _ = urlsplit(proxy.url).port
            return self._kind(proxy=proxy.url, **self._settings)
        except OSError as error:
            files = {
                name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ
            }
            raise ConfigError(
                f"certificates for {plain(url)}: got {files} ({error}), allowed files of certificates, or `unset` them"
            ) from error
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            assert proxy is not None, "nothing else is read from the environment"
            if isinstance(error, ImportError):
                flaw, cure = "the package socksio is not installed", "`pip install 'httpx2[socks]'`"
            else:
                flaw, cure = str(error), "an address such as http://proxy:3128"
            raise ConfigError(
                f"{proxy.variable}: got {plain(proxy.url)!r} for requests to {plain(url)} ({flaw}), allowed {cure}, or "
                f"`unset {proxy.variable}`, or the host in NO_PROXY"
            ) from error


def describe(error: Exception) -> str:
    """The error in words, for a message that names the address itself."""
    details = http_details(error, address=False)
    said = str(error) if isinstance(error, httpx2.HTTPStatusError) else f"{type(error).__name__} ({error})"
    return ", ".join(filter(None, (said, details)))


class _Transport(httpx2.AsyncBaseTransport):
    """Reads answers as the module says."""

    def __init__(self, ways: _Ways[httpx2.AsyncHTTPTransport]) -> None:
        self._ways = ways

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._ways.to(str(request.url)).handle_async_request(request)
        if "event-stream" in response.headers.get("content-type", ""):
            return response  # its client reads it as it comes
        response = await _whole(response, request)
        posted = request.method == "POST"
        if response.is_success and (said := status_said(response.content)) is not None:
            response.extensions["answered"], response.status_code = response.status_code, said
        if posted and response.status_code in (301, 302, 303) and "location" in response.headers:
            response.extensions["moved"] = response.headers.pop("location")  # as a GET, without its body
        if posted and response.status_code == 404 and request.url.path.endswith("/completions"):
            response.extensions["served"] = await self._served(request)
        if response.is_success and request.url.path.endswith(_CHAT):
            content = chat_answer(response.content, plain(str(request.url)))
            if content is not response.content:
                return httpx2.Response(
                    200, headers={"Content-Type": "application/json"}, content=content, request=request
                )
        return response

    async def _served(self, request: httpx2.Request) -> str:
        """Names of the models that the server of `request` lists; empty if it lists none."""
        path = request.url.path.removesuffix("/completions").removesuffix("/chat")
        login = {"Authorization": request.headers.get("authorization", "")}
        listing = httpx2.Request("GET", request.url.copy_with(path=f"{path}/models"), headers=login)
        listing.extensions = request.extensions
        try:
            way = self._ways.to(str(listing.url))
            answer = await _whole(await way.handle_async_request(listing), listing)
            names = [str(card["id"]) for card in orjson.loads(answer.content)["data"]]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            return ""
        more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
        return ", ".join([*names[:_LISTED], *more])

    async def aclose(self) -> None:
        for way in self._ways.open.values():
            await way.aclose()


class _SyncTransport(httpx2.BaseTransport):
    def __init__(self, ways: _Ways[httpx2.HTTPTransport]) -> None:
        self._ways = ways

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._ways.to(str(request.url)).handle_request(request)

    def close(self) -> None:
        for way in self._ways.open.values():
            way.close()


async def _whole(response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    """`response`, read and decoded.

    Raises:
        httpx2.HTTPStatusError: it is too large.
    """
    largest = LARGEST_CHAT if request.url.path.endswith(_CHAT) else LARGEST
    response.request = request
    parts, size = list[bytes](), 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > largest:
                raise httpx2.HTTPStatusError(
                    f"status {response.status_code} with more than {largest >> 20} MiB, allowed less",
                    request=request,
                    response=httpx2.Response(413, request=request),
                )
            parts.append(part)
    finally:
        await response.aclose()
    return httpx2.Response(
        response.status_code,
        headers=[pair for pair in response.headers.raw if pair[0].lower() not in _OF_THE_WAY],
        content=b"".join(parts),
        extensions=response.extensions,
        request=request,
    )
