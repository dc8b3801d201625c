"""A server that sends any bytes: what no HTTP library would send."""

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx2
import openai

from aipo.util.http.client import open_client
from kit.servers import chat_completion

CHAT = json.dumps(chat_completion("m", "7", 3, 1)).encode()
LIMITS, TIMEOUT = httpx2.Limits(), httpx2.Timeout(20, connect=5)
"""Of a client. `CHAT` is a chat completion."""


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that sends these bytes, one for each connection and the last one from then on, and
    closes; and what it was sent."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for number in itertools.count():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    seen.append(_request_on(connection))
                    connection.sendall(answers[min(number, len(answers) - 1)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _request_on(connection: socket.socket) -> bytes:
    """One request, its body included: closing before it is read would be a reset."""
    connection.settimeout(10)
    request = connection.recv(65536)
    while b"\r\n\r\n" in request:
        head, _, body = request.partition(b"\r\n\r\n")
        length = next((h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), b":0")
        if len(body) >= int(length.partition(b":")[2]):
            break
        request += connection.recv(65536)
    return request


def http_answer(body: bytes, *headers: str, status: str = "200 OK", type: str = "application/json") -> bytes:
    """A whole answer, for `answering`."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(url: str, path: str = "v1/chat/completions", timeout: httpx2.Timeout = TIMEOUT) -> httpx2.Response:
    """The answer to a POST through our client."""

    async def main() -> httpx2.Response:
        async with open_client(f"{url}/", limits=LIMITS, timeout=timeout) as client:
            return await client.post(path, content=b"{}")

    return asyncio.run(main())


def chat(url: str) -> Exception:
    """What the openai client raises of the server at `url`."""

    async def main() -> Exception:
        async with open_client(url, limits=LIMITS, timeout=TIMEOUT) as http:
            client = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", http_client=http, max_retries=0)
            try:
                await client.chat.completions.create(model="m", messages=[])
            except Exception as error:
                return error
            raise AssertionError("it answered")

    return asyncio.run(main())
