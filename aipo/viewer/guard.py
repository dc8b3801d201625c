"""The guard of the server: it refuses requests that are not from this machine's reader or from its own pages.

Any web page in the reader's browser can send requests to any address. The `Host` header shows a name that was
rebound to this address; `Origin` and `Sec-Fetch-*` show a page of another origin. The headers of every answer
keep other pages from embedding, opening or reading it. Addresses other than loopback need a token.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aipo.policies.vllm.launch import bracketed
from aipo.viewer.responses import POLICY

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ANY = ("0.0.0.0", "::")
_COOKIE_MAX_AGE = 30 * 24 * 3600
_GO_ON = Markup(
    '<!doctype html><title>AIPO</title><link rel="icon" href="data:,">'
    '<meta http-equiv="refresh" content="0; url={}">'
)
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides which requests are answered.

    Args:
        host: the address that the server is bound to.
        port: its port.
        token: the secret that a reader needs; None is for loopback only.
    """

    host: str
    port: int
    token: str | None = None

    @property
    def cookie(self) -> str:
        return f"aipo-{self.port}"  # a browser keeps one jar for all ports of a host

    @property
    def hosts(self) -> frozenset[str] | None:
        """Allowed values of `Host`. None = any, for an address that stands for many names; a rebound name has
        no cookie with the token."""
        if self.host in ANY:
            return None
        names = {*LOOPBACK, bracketed(self.host).lower()}
        bare = names if self.port == 80 else set[str]()
        return frozenset({f"{name}:{self.port}" for name in names} | bare)

    def refusal(self, method: str, headers: Headers, query: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and reason of a refusal; None if the request is answered."""
        hosts = headers.getlist("host")
        allowed = self.hosts
        if len(hosts) != 1 or (allowed is not None and hosts[0].lower() not in allowed):
            named = f"localhost:{self.port}"
            return 421, (
                f"This viewer answers as {named} only. Open http://{named}/; if you forward a port, forward "
                f"it to the same number ({self.port})."
            )
        if not self._own_origin(hosts[0], headers):
            return 403, "This viewer answers its own pages only, and this request comes from another one."
        if method not in ("GET", "HEAD"):
            return 405, "This viewer is for reading: GET and HEAD."
        if self.token is not None and not self._known(headers, query):
            return 401, "This viewer needs its token: open the address that `aipo view` printed."
        return None

    def _own_origin(self, host: str, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return False
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return True
        # A link in another page may lead here: the page opens by itself, where nobody else can look.
        return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"

    def _known(self, headers: Headers, query: Mapping[str, str]) -> bool:
        return self.brings_token(query) or self._same(_cookie(headers, self.cookie))

    def brings_token(self, query: Mapping[str, str]) -> bool:
        """Does the address itself hold the token?"""
        return self._same(query.get("token"))

    def _same(self, given: str | None) -> bool:
        if self.token is None or given is None:
            return False
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Guard:
    """Middleware: passes on the requests that its gate allows, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web socket is offered: a connection that is not accepted is refused
            await send({"type": "websocket.close", "code": 1008})
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        refused = self._gate.refusal(scope["method"], Headers(scope=scope), query)
        answer: ASGIApp = self._app
        if refused is not None:
            status, reason = refused
            allow = {"allow": "GET, HEAD"} if status == 405 else None
            answer = PlainTextResponse(f"{reason}\n", status_code=status, headers=allow)
        elif self._gate.brings_token(query):
            answer = self._let_in(scope, query)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await answer(scope, receive, send_guarded)

    def _let_in(self, scope: Scope, query: Mapping[str, str]) -> Response:
        """Takes the token out of the address and gives a cookie for it.

        A page that goes on by itself, and no redirect: a browser that came from elsewhere would not send a
        strict cookie along with that.
        """
        rest = urlencode([(name, value) for name, value in query.items() if name != "token"])
        path = scope["path"].rpartition("/")[2] or "./"
        target = f"{path}?{rest}" if rest else path
        response = HTMLResponse(_GO_ON.format(target))
        response.set_cookie(
            self._gate.cookie,
            self._gate.token or "",
            max_age=_COOKIE_MAX_AGE,
            httponly=True,
            samesite="strict",
        )
        return response


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value
