"""Addresses: on this machine, behind a proxy, or wrong."""

import pytest

from aipo.errors import ConfigError
from aipo.util.http.urls import check_servers, flaw_of, is_here, is_loopback, plain, proxy_of

ONLY_HERE = (
    *("localhost", "LOCALHOST", "localhost.", "vllm.localhost"),
    *("127.0.0.1", "127.9.9.9", "127.1", "::1", "[::1]", "::ffff:127.0.0.1"),
)
ELSEWHERE = ("", "example.org", "localhost.example", "10.0.0.1", "128.0.0.1", "fe80::1", "notlocalhost")


@pytest.mark.parametrize(
    ("host", "loopback", "here"),
    [
        *((host, True, True) for host in ONLY_HERE),
        *((host, False, True) for host in ("0.0.0.0", "::")),
        *((host, False, False) for host in ELSEWHERE),
    ],
)
def test_which_hosts_are_this_machine(host: str, loopback: bool, here: bool) -> None:
    assert (is_loopback(host), is_here(host)) == (loopback, here)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "0.0.0.0", "vllm.localhost"]
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_nothing_on_this_machine_takes_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.setenv(variable, "http://proxy:3128")
    assert proxy_of(f"http://{address}:8000/v1") is None


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://far/v1", ("http://p:1", "HTTP_PROXY")),
        ({"http_proxy": "p:1"}, "http://far/v1", ("http://p:1", "http_proxy")),
        ({"HTTP_PROXY": "http://p:1"}, "https://far/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://far/v1", ("http://p:1", "HTTPS_PROXY")),
        ({"ALL_PROXY": "socks5://p:1"}, "https://far/v1", ("socks5://p:1", "ALL_PROXY")),
        ({"ALL_PROXY": "http://a:1", "HTTP_PROXY": "http://p:1"}, "http://far", ("http://p:1", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "far"}, "http://far:8000", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a, .cluster"}, "http://n1.cluster", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*.cluster"}, "http://n1.cluster", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8000", None),
        (
            {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"},
            "http://11.1.2.3",
            ("http://p:1", "HTTP_PROXY"),
        ),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "ar"}, "http://far", ("http://p:1", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "x,*"}, "http://far", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ""}, "http://far", ("http://p:1", "HTTP_PROXY")),
        ({"HTTP_PROXY": ""}, "http://far", None),
    ],
)
def test_the_proxy_of_an_address(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: tuple[str, str] | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy


@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("http://127.0.0.1:8000", None),
        ("https://api.example.org/v1/", None),
        ("http://[::1]:8000/v1", None),
        ("127.0.0.1:8000", "no http:// or https:// before it"),
        ("localhost:8000/v1", "no http:// or https:// before it"),
        ("ftp://a", "no http:// or https:// before it"),
        ("http:a", "no http:// or https:// before it"),
        ("http://", "no host"),
        ("http:///v1", "no host"),
        ("http://a:0", "port 0"),
        ("http://a:99999", "Port out of range 0-65535"),
        ("http://a:80a", "Port could not be cast to integer value as '80a'"),
        ("http://a\n", "a space or a line break in it"),
        ("http://a b", "a space or a line break in it"),
        ("http://user:key@a/v1", "a login in the open"),
        ("http://a/v1/chat/completions", "the path of a request, not the address of a server"),
        ("http://a/v1/completions/", "the path of a request, not the address of a server"),
        ("http://a/v1/models", "the path of a request, not the address of a server"),
    ],
)
def test_what_is_wrong_with_an_address(url: str, flaw: str | None) -> None:
    assert flaw_of(url) == flaw


@pytest.mark.parametrize(
    "url", ["http://a:1/v1", "http://a:1/v1/", "http://a:1/v1/x", "a:1", "http://a:1/v1/completions"]
)
def test_policy_servers_are_named_without_a_path(url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"policy\.vllm\.servers: got 'http|policy\.vllm\.servers: got 'a:1'"
    ):
        check_servers([url])
    check_servers(["http://a:1", "http://a:2/gateway"])


def test_an_address_is_shown_without_login_and_query() -> None:
    assert plain("http://user:key@a:1/v1?key=secret#x") == "http://a:1/v1"
