"""Who is answered: the gate by itself, then a real server with requests written by hand."""

from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.requests import Request

from aipo.viewer.guard import Gate
from kit.viewing import ask

TOKEN = "a-token-of-some-length"
OWN = {"host": "localhost:8765"}
NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def status(
    gate: Gate, *, method: str = "GET", query: dict[str, str] | None = None, **headers: str | list[str]
) -> int:
    """Of a request with these headers (each once, or with every value of a list)."""
    given = {name.replace("_", "-"): value for name, value in {**OWN, **headers}.items()}
    pairs = [(k, v) for k, value in given.items() for v in (value if isinstance(value, list) else [value])]
    scope = {"type": "http", "method": method, "query_string": urlencode(query or {}).encode()}
    refused = gate.refusal(Request(scope | {"headers": [(k.encode(), v.encode()) for k, v in pairs]}))
    return 200 if refused is None else refused[0]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8765", 200), ("127.0.0.1:8765", 200), ("[::1]:8765", 200), ("LOCALHOST:8765", 200),
        ("localhost", 421), ("localhost:8766", 421), ("user@localhost:8765", 421),
        ("evil.example:8765", 421), ("localhost.evil.example:8765", 421), ("127.0.0.1.evil.example:8765", 421),
        ("", 421), ([], 421), (["localhost:8765", "evil.example"], 421),
    ],
)  # fmt: skip
def test_a_loopback_server_answers_to_its_own_names(host: str | list[str], expected: int) -> None:
    assert status(Gate("127.0.0.1", 8765), host=host) == expected


@pytest.mark.parametrize(
    ("gate", "host", "token", "expected"),
    [
        (Gate("gpu7.lab.example", 80, TOKEN), "gpu7.lab.example", TOKEN, 200),
        (Gate("gpu7.lab.example", 80, TOKEN), "gpu7.lab.example:80", TOKEN, 200),
        (Gate("gpu7.lab.example", 80, TOKEN), "gpu8.lab.example", TOKEN, 421),
        (Gate("0.0.0.0", 8765, TOKEN), "whatever:8765", TOKEN, 200),
        (Gate("0.0.0.0", 8765, TOKEN), "whatever:8765", "", 401),
    ],
)
def test_a_configured_address_is_a_name(gate: Gate, host: str, token: str, expected: int) -> None:
    assert status(gate, host=host, query={"token": token}) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://localhost:8765"}, 200), ({"origin": "https://localhost:8765"}, 403),
        ({"origin": "http://localhost:3000"}, 403), ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200), ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", **NAVIGATION}, 200),  # a link that a reader follows
        ({"sec_fetch_site": "cross-site", **NAVIGATION, "sec-fetch-dest": "iframe"}, 403),
        ({"sec_fetch_site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}, 403),
    ],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(headers: dict[str, str], expected: int) -> None:
    assert status(Gate("127.0.0.1", 8765), **headers) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_nothing_can_be_changed(method: str) -> None:
    assert status(Gate("127.0.0.1", 8765), method=method) == 405
    assert status(Gate("127.0.0.1", 8765), method="HEAD") == 200


@pytest.mark.parametrize(
    ("query", "cookie", "expected"),
    [
        ({"token": TOKEN}, "", 200),
        ({"token": TOKEN + "x"}, "", 401), ({"token": "é"}, "", 401), ({"token": ""}, "", 401),
        ({}, f"aipo-8765={TOKEN}", 200), ({}, f"other=1; aipo-8765={TOKEN}", 200),
        ({}, f"aipo-8766={TOKEN}", 401), ({}, "aipo-8765=wrong", 401), ({}, '"[]=;,', 401), ({}, "", 401),
    ],
)  # fmt: skip
def test_a_token_is_asked_for(query: dict[str, str], cookie: str, expected: int) -> None:
    assert status(Gate("127.0.0.1", 8765, TOKEN), query=query, cookie=cookie) == expected


@pytest.mark.parametrize("path", ["/", "/static/base.js", "/version", "/nowhere", "/run/aipo/version"])
def test_every_answer_keeps_other_pages_out(address: str, path: str) -> None:
    headers = ask(address, path).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert not [name for name in headers if name.startswith("access-control") or name == "server"]


def test_refusals_say_what_to_do_and_are_guarded_too(address: str) -> None:
    port = urlsplit(address).port
    rebound = ask(address, host="evil.example")
    assert rebound.status == 421
    assert f"answers as localhost:{port} only" in rebound.body
    foreign = ask(address, origin="http://evil.example")
    assert (foreign.status, "another one" in foreign.body) == (403, True)
    posted = ask(address, method="POST")
    assert (posted.status, posted.headers["allow"]) == (405, "GET, HEAD")
    for refused in (rebound, foreign, posted):
        assert "frame-ancestors 'none'" in refused.headers["content-security-policy"]
        assert refused.headers["cache-control"] == "no-store"
        assert "aipo/" not in refused.body


def test_a_token_becomes_a_strict_cookie_and_leaves_the_address(serve, little_runs: Path) -> None:
    address = serve(little_runs, token=TOKEN)
    port = urlsplit(address).port
    assert ask(address).status == 401
    assert ask(address, "/static/base.css").status == 401
    let_in = ask(address, f"/run/aipo/index.html?sort=step&q=%22%3E&token={TOKEN}")
    assert let_in.status == 200
    assert 'url=index.html?sort=step&amp;q=%22%3E"' in let_in.body
    assert TOKEN not in let_in.body
    cookie = let_in.headers["set-cookie"]
    assert cookie.startswith(f"aipo-{port}={TOKEN}; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert ask(address, cookie=cookie.partition(";")[0]).status == 200
    assert 'url=./"' in ask(address, f"/?token={TOKEN}").body


def test_web_sockets_are_refused(address: str) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    answer = ask(address, sec_websocket_key="eA==", **upgrade)
    assert answer.status in (200, 400, 403, 426)
    assert "sec-websocket-accept" not in answer.headers
