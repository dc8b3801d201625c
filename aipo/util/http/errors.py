"""Errors of HTTP clients in words: the cause, the address and the proxy that they leave out.

They are known by their attributes and names, as in `aipo.util.http.retry`, so that no client library has to be imported.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from aipo.util.http.urls import plain, proxy_of

_BODY = 500
"""Characters of a server's answer that an error shows."""
_TIMEOUTS = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "read",
    "WriteTimeout": "write",
    "PoolTimeout": "pool",
}
_TOO_LONG = ("context length", "context_length", "context window", "maximum context", "max_model_len")


def http_details(error: BaseException, *, address: bool = True) -> str:
    """What an HTTP client's error leaves out of its own text; empty if it is no such error.

    Args:
        address: name the address, too.
    """
    chain = list(_causes(error))
    request = next((found for one in chain if (found := _attribute(one, "request")) is not None), None)
    url = str(_attribute(request, "url") or "")
    if not url:
        return ""
    response = next((found for one in chain if (found := _attribute(one, "response")) is not None), None)
    said = str(error)
    details = _of_answer(response, url, said) if response is not None else _of_connection(chain, url)
    details += [f"at {plain(url)}"] if address else []
    status = 0 if response is None else response.status_code
    if (proxy := proxy_of(url)) and (response is None or status in (403, 407) or status >= 500):
        details.append(f"through the proxy {plain(proxy.url)}, which {proxy.variable} names")
    return ", ".join(details)


def retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks for before another attempt, if it does: a number, or the seconds until a date."""
    headers = _attribute(_attribute(error, "response"), "headers") or {}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            if isfinite(seconds):
                return max(0.0, seconds)
    with suppress(KeyError, ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what caused it. httpcore leaves it to the context; elsewhere that may be anything."""
    while error is not None:
        yield error
        inside = error.__context__ if type(error).__module__.startswith("httpcore") else None
        of_socket = isinstance(inside, OSError) or type(inside).__module__.startswith("anyio")
        error = error.__cause__ or (inside if of_socket else None)


def _attribute(holder: object, name: str) -> Any:
    """The attribute, None where there is none or it cannot be had."""
    with suppress(Exception):  # httpx raises where a request is not known
        return getattr(holder, name, None)
    return None


def _of_connection(chain: list[BaseException], url: str) -> list[str]:
    """Why no answer came."""
    for one in chain:
        phase = _TIMEOUTS.get(type(one).__name__, "")
        limits = (_attribute(_attribute(one, "request"), "extensions") or {}).get("timeout", {})
        if limits.get(phase) is not None:
            return [f"time-out of {limits[phase]:g} s ({phase})"]
    root = chain[-1]
    told = root is chain[0] or (str(root) != "" and str(root) in str(chain[0]))
    details = [] if told else [f"{type(root).__name__}: {root}".rstrip(".: ")]
    if isinstance(root, ConnectionRefusedError):
        details.append("nobody listens there")
    elif isinstance(root, socket.gaierror):
        details.append(f"no machine of the name {urlsplit(url).hostname!r} is known here")
    elif isinstance(root, ssl.SSLCertVerificationError):
        details.append("its certificate is not trusted here (SSL_CERT_FILE names other authorities)")
    elif url.startswith("https:") and (
        isinstance(root, ssl.SSLError) or type(root).__name__ == "EndOfStream"
    ):
        details.append("does it speak http:// only?")
    elif url.startswith("http:") and (isinstance(root, ConnectionResetError) or "disconnected" in str(root)):
        details.append("it closed the connection before its answer (does it speak https://?)")
    return details


def _of_answer(response: Any, url: str, said: str) -> list[str]:
    """What an answer with an error says, and what would have been right."""
    extensions = _attribute(response, "extensions") or {}
    body = " ".join(str(_attribute(response, "text") or "").split())
    details: list[str] = []
    if "answered" in extensions:
        details.append(f"an error in the body of an answer with status {extensions['answered']}")
    if moved := extensions.get("moved"):
        details.append(f"sent on to {plain(moved)}, where a POST cannot follow: give that address instead")
    message = _message(response)
    if body and message not in said and body[:40] not in said:
        details.append(body[:_BODY])
    if any(words in f"{body} {said}".lower() for words in _TOO_LONG):
        details.append("longer than the context of this model")
    if served := extensions.get("served"):
        details.append(f"served there are {served}")
    elif response.status_code == 404 and url.endswith("/chat/completions"):
        details.append("is the address right (most end with /v1)?")
    return details


def _message(response: Any) -> str:
    """The message in an error as OpenAI or vLLM words it; a text that stands nowhere if there is none."""
    with suppress(Exception):
        body = response.json()
        return str(body.get("error", body)["message"])
    return "\x00"
