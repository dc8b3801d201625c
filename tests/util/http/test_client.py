"""The client of models' servers, against sockets that answer anything."""

import asyncio
import gzip
import json
import socket
import zlib
from typing import Any

import httpx2
import openai
import pytest

from aipo.config.build_chat import build_chat
from aipo.config.schema import AgentConfig
from aipo.errors import AnswerError, ConfigError
from aipo.util.event_loop import LOOP
from aipo.util.http.client import LARGEST, LARGEST_CHAT, describe, open_client, open_sync_client
from aipo.util.http.errors import http_details
from aipo.util.http.retry import status_of, transient
from kit.raw_http import CHAT, LIMITS, TIMEOUT, answering, chat, http_answer, post
from kit.servers import free_port


@pytest.mark.parametrize(
    ("body", "kind", "status", "again"),
    [
        (b'{"error": {"code": 429, "message": "slow down"}}', openai.RateLimitError, 429, True),
        (b'{"error": "overloaded"}', openai.InternalServerError, 503, True),
        (b'{"error": {"message": "boom"}}', openai.InternalServerError, 500, True),
        (b'{"error": {"code": 400, "message": "no such field"}}', openai.BadRequestError, 400, False),
        (b'{"error": {"type": "authentication_error"}}', openai.AuthenticationError, 401, False),
        (b'{"detail": "Not Found"}', openai.NotFoundError, 404, False),
    ],
)
def test_an_error_with_status_200_is_the_error_that_it_says(
    body: bytes, kind: type[Exception], status: int, again: bool
) -> None:
    with answering(http_answer(body)) as (url, _):
        error = chat(url)
    assert (type(error), status_of(error), transient(error)) == (kind, status, again)
    details = http_details(error)
    assert "an error in the body of an answer with status 200" in details
    assert f"at {url}/v1/chat/completions" in details


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b'{"choices": []}'),
        http_answer(b"{}"),
        http_answer(b"[]"),
        http_answer(b'"seven"'),
        http_answer(b""),
        http_answer(b'{"choices": [{"mess'),
        http_answer(b"<html>gateway</html>", type="text/html"),
        http_answer(b"7", type="text/plain"),
    ],
)
def test_what_is_no_reply_is_named_and_tried_again(answer: bytes) -> None:
    with answering(answer) as (url, _):
        error = chat(url)
    assert isinstance(error, AnswerError) and transient(error)
    assert f"answer of {url}/v1/chat/completions: got '" in str(error)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            b"",
            "Server disconnected without sending a response, it closed the connection before its answer (does it",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "RemoteProtocolError: Server disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "received 0 bytes, expected 99"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "received 1 bytes, expected 99"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}{\r\n", "incomplete chunked read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "RemoteProtocolError"),
        (http_answer(b"abc", "Content-Encoding: gzip"), "incorrect header check"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "RemoteProtocolError"),
    ],
)
def test_what_ends_half_way_is_named_and_tried_again(answer: bytes, says: str) -> None:
    with answering(answer) as (url, _):
        error = chat(url)
    details = http_details(error)
    assert isinstance(error, openai.APIConnectionError) and transient(error)
    assert says in details and f"at {url}/v1/chat/completions" in details


@pytest.mark.parametrize(
    "status", ["502 Bad Gateway", "429 Too Many Requests", "404 Not Found", "418 Teapot"]
)
def test_a_gateways_page_is_shown(status: str) -> None:
    page = b"<html><h1>the gateway says why</h1></html>"
    with answering(http_answer(page, status=status, type="text/html")) as (url, _):
        error = chat(url)
    assert status_of(error) == int(status[:3])
    assert "the gateway says why" in http_details(error)


def test_compressed_answers_and_chunks_are_read() -> None:
    packed = gzip.compress(CHAT)
    with answering(http_answer(packed, "Content-Encoding: gzip")) as (url, _):
        assert post(url).json()["choices"][0]["message"]["content"] == "7"
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CHAT[:9], CHAT[9:])) + b"0\r\n\r\n"
    with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts) as (url, _):
        assert post(url).content == CHAT


def test_a_stream_of_events_is_read_as_it_comes() -> None:
    with answering(http_answer(b"data: {}\n\n", type="text/event-stream; charset=utf-8")) as (url, _):
        assert post(url).content == b"data: {}\n\n"


def test_an_answer_has_a_largest_size() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(LARGEST_CHAT + 1)) as (url, _):
        error = chat(url)
    assert "status 200 with more than 4 MiB" in str(error)
    assert not transient(error)
    says = "status 200 with more than 32 MiB"
    endless = answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(LARGEST + 1))
    with endless as (url, _), pytest.raises(httpx2.HTTPStatusError, match=says):
        post(url, "v1/completions")


def test_the_largest_size_is_of_the_decoded_answer() -> None:
    for kind, packed in (
        ("gzip", gzip.compress(bytes(200 << 20))),
        ("deflate", zlib.compress(bytes(200 << 20))),
    ):
        assert len(packed) < 300_000
        with answering(http_answer(packed, f"Content-Encoding: {kind}")) as (url, _):
            assert "status 200 with more than 4 MiB" in str(chat(url))
    whole = gzip.compress(CHAT)
    with answering(http_answer(whole, "Content-Encoding: gzip")) as (url, _):
        headers = post(url).headers
    assert (headers.get("content-encoding"), headers["content-length"]) == (None, str(len(CHAT)))


def test_each_request_takes_the_proxy_of_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(*urls: str) -> list[bytes]:
        async with open_client(limits=LIMITS, timeout=TIMEOUT) as client:
            return [(await client.get(url)).content for url in urls]

    with answering(http_answer(b"1")) as (proxy, proxied), answering(http_answer(b"2")) as (url, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert asyncio.run(fetch("http://far.invalid/a", url, "http://far.invalid/b")) == [b"1", b"2", b"1"]
        with open_sync_client() as client:
            assert [client.get(one).content for one in (url, "http://far.invalid/c")] == [b"2", b"1"]
    assert [request.split()[1] for request in proxied] == [
        b"http://far.invalid/%s" % p for p in (b"a", b"b", b"c")
    ]
    assert len(seen) == 2


def built(kind: str, **options: str) -> Any:
    config = {"graph": "none:none", "model": f"langchain_openai:{kind}", "options": options}
    made = build_chat(
        "agents.judge", AgentConfig.model_validate(config | {"secrets": {"api_key": "AGENTS_KEY"}})
    )
    assert made is not None
    return made.model


def test_the_address_that_counts_is_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTS_KEY", "a-key")
    monkeypatch.setenv("HTTPS_PROXY", "socks4://p:1")  # cannot be used
    with pytest.raises(
        ConfigError, match=r"HTTPS_PROXY: got .socks4://p:1. for requests to https://api\.openai\.com"
    ):
        built("ChatOpenAI", model="m")
    azure = {"azure_deployment": "m", "api_version": "2024-10-21"}
    with answering(http_answer(CHAT)) as (url, seen):
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", url)
        answer = LOOP.run(built("AzureChatOpenAI", **azure).ainvoke("3+4?"))
        monkeypatch.setenv("OPENAI_BASE_URL", "no address")  # of nobody: the options name one
        LOOP.run(built("ChatOpenAI", model="m", base_url=f"{url}/v1").ainvoke("3+4?"))
    assert (answer.content, len(seen)) == ("7", 2)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "no address")
    with pytest.raises(ConfigError, match="got AZURE_OPENAI_ENDPOINT 'no address'"):
        built("AzureChatOpenAI", **azure)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://far.invalid")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY: .* for requests to https://far\.invalid"):
        built("AzureChatOpenAI", **azure)


def test_a_post_follows_only_what_keeps_its_body() -> None:
    with answering(http_answer(CHAT)) as (new, seen):
        for status in ("307 Temporary Redirect", "308 Permanent Redirect"):
            with answering(http_answer(b"", f"Location: {new}/v1/chat/completions", status=status)) as (
                url,
                _,
            ):
                assert post(url).content == CHAT
        assert [request.partition(b" ")[0] for request in seen] == [b"POST", b"POST"]
        for status in ("301 Moved", "302 Found", "303 See Other"):
            with answering(http_answer(b"", f"Location: {new}/login?key=1", status=status)) as (url, _):
                error = chat(url)
            assert f"sent on to {new}/login, where a POST cannot follow" in http_details(error)
            assert not transient(error)
        assert len(seen) == 2


def test_redirects_come_to_an_end() -> None:
    with answering(http_answer(b"", "Location: /v1/chat/completions", status="307 Loop")) as (url, _):
        assert "TooManyRedirects" in http_details(chat(url))


def test_a_model_that_is_not_served_is_told_which_are() -> None:
    lost = http_answer(b'{"error": {"message": "The model `m` does not exist."}}', status="404 Not Found")
    cards = [{"id": name} for name in ("large", "small")]
    listed = http_answer(json.dumps({"data": cards}).encode())
    with answering(lost, listed) as (url, seen):
        error = chat(url)
    assert http_details(error) == f"served there are large, small, at {url}/v1/chat/completions"
    assert "does not exist" in str(error)
    assert seen[1].startswith(b"GET /v1/models HTTP/1.1\r\n") and b"Bearer k\r\n" in seen[1]


@pytest.mark.parametrize(
    "listing", [b"", http_answer(b"[]"), http_answer(b'{"data": [1]}'), http_answer(b"<")]
)
def test_a_404_of_a_server_without_a_list(listing: bytes) -> None:
    with answering(http_answer(b"", status="404 Not Found"), listing) as (url, _):
        assert http_details(chat(url)).startswith("is the address right (most end with /v1)?, at ")


def test_a_context_that_is_too_long_is_named() -> None:
    body = b'{"error": {"message": "This model\'s maximum context length is 8 tokens.", "code": 400}}'
    with answering(http_answer(body, status="400 Bad Request")) as (url, _):
        error = chat(url)
    assert "longer than the context of this model" in http_details(error)
    assert not transient(error)


def test_nobody_listens_and_no_such_machine() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    refused = http_details(chat(url))
    assert refused.startswith("ConnectionRefusedError: [Errno ") and "nobody listens there" in refused
    unknown = http_details(chat("http://no-such-machine.invalid"))
    assert "no machine of the name 'no-such-machine.invalid' is known here" in unknown


def test_https_is_asked_where_http_is_spoken() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (url, _):
        assert "does it speak http:// only?" in http_details(chat(url.replace("http:", "https:")))


@pytest.mark.parametrize("protocol", ["ftp://a", "a/b"])
def test_a_request_that_is_wrong_in_itself_is_not_tried_again(protocol: str) -> None:
    assert not transient(chat(protocol))


def test_a_time_out_says_how_long_and_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(httpx2.ReadTimeout) as caught:
        post(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=httpx2.Timeout(20, read=0.1))
    assert describe(caught.value) == "ReadTimeout (), time-out of 0.1 s (read)"
