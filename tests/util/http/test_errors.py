"""What an HTTP client's error leaves out: the proxy, and when to come back."""

import socket
import ssl
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

from aipo.errors import ConfigError
from aipo.util.http.client import check_way
from aipo.util.http.errors import http_details, retry_after
from kit.raw_http import CHAT, answering, chat, http_answer, post
from kit.servers import free_port


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with answering(http_answer(CHAT)) as (url, _):
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            assert post(url.replace("127.0.0.1", host)).content == CHAT


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_other_machines_are_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with answering(http_answer(CHAT)) as (proxy, seen):
        monkeypatch.setenv(variable, proxy)
        assert post("http://far.invalid:8000").content == CHAT
    assert seen[0].startswith(b"POST http://far.invalid:8000/v1/chat/completions HTTP/1.1\r\n")


def test_a_proxy_that_fails_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://user:key@127.0.0.1:{port}")
    details = http_details(chat("http://far.invalid"))
    assert f"through the proxy http://127.0.0.1:{port}, which HTTP_PROXY names" in details
    with answering(http_answer(b"who?", status="502 Bad Gateway")) as (proxy, _):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert f"through the proxy {proxy}, which HTTP_PROXY names" in http_details(
            chat("http://far.invalid")
        )
    with answering(http_answer(b'{"error": {"message": "no"}}', status="400 Bad")) as (proxy, _):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert "proxy" not in http_details(chat("http://far.invalid"))


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("socks5://user:key@p:1080", r"got 'socks5://p:1080' for .* allowed `pip install 'httpx2\[socks\]'`"),
        ("socks4://p:1080", "got 'socks4://p:1080' for .* allowed an address such as http://proxy:3128"),
        ("http://p:99999", "got 'http://p:99999' for"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, proxy: str, says: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match=f"^ALL_PROXY: {says}") as caught:
        check_way("http://far.invalid/v1")
    assert "key@" not in str(caught.value) and "`unset ALL_PROXY`" in str(caught.value)
    check_way("http://127.0.0.1/v1")


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(
        ConfigError, match=r"certificates for https://far\.invalid: got .'SSL_CERT_FILE': '.*gone"
    ):
        check_way("https://far.invalid")


def told(**headers: str) -> Exception:
    request = httpx.Request("POST", "http://a")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return openai.RateLimitError(
        "no", response=httpx.Response(429, headers=named, request=request), body=None
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry_After": "3"}, 3.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"Retry_After": "-3"}, 0.0),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": ""}, None),
        ({"Retry_After": "nan"}, None),
        ({"Retry_After": "inf"}, None),
        ({"Retry_After_Ms": "250", "Retry_After": "1"}, 0.25),
        ({"Retry_After_Ms": "x", "Retry_After": "1"}, 1.0),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry_After": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(told(**headers)) == seconds


def test_a_date_to_come_back_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    assert retry_after(told(Retry_After=formatdate(1_000_000_090.0, usegmt=True))) == 90.0


def test_an_error_without_an_answer_says_nothing_of_it() -> None:
    anything: list[Any] = [
        ValueError("x"),
        httpx2.ReadError("x"),
        openai.APIError("x", told().request, body=None),
    ]  # type: ignore[attr-defined]
    assert [retry_after(error) for error in anything] == [None, None, None]
    assert [http_details(error) for error in anything[:2]] == ["", ""]


@pytest.mark.parametrize(
    ("url", "cause", "says"),
    [
        ("https://a/v1", ssl.SSLCertVerificationError("self-signed"), "its certificate is not trusted here"),
        ("https://a/v1", ssl.SSLError("wrong version number"), "does it speak http:// only?"),
        ("http://a/v1", ConnectionResetError("reset"), "(does it speak https://?)"),
        ("http://a/v1", ConnectionRefusedError("refused"), "nobody listens there"),
        ("http://a/v1", socket.gaierror("unknown"), "no machine of the name 'a' is known here"),
    ],
)
def test_a_connection_that_fails_says_what_may_be_wrong(url: str, cause: Exception, says: str) -> None:
    error = httpx2.ConnectError("", request=httpx2.Request("POST", url))
    error.__cause__ = cause
    assert http_details(error).startswith(f"{type(cause).__name__}: {cause}, ")
    assert says in http_details(error) and http_details(error).endswith(f", at {url}")
