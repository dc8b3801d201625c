"""The guard of the server: it refuses requests that are not from this machine's reader or from its own pages.

Any web page in the reader's browser can send requests to any address. The `Host` header shows a name that was
rebound to this address; `Origin` and `Sec-Fetch-*` show a page of another origin. The headers of every answer
keep other pages from embedding, opening or reading it. Addresses other than loopback need a token.
"""

import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

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
    def hosts(self) -> set[str] | None:
        """Allowed values of `Host`. None = any, for an address that stands for many names; a rebound name has
        no cookie with the token."""
        if self.host in ANY:
            return None
        names = {*LOOPBACK, bracketed(self.host).lower()}
        return {f"{name}:{self.port}" for name in names} | (names if self.port == 80 else set())

    async def guard(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Passes on the requests that are allowed, and adds security headers to every answer."""
        refused = self.refusal(request)
        if refused is not None:
            status, reason = refused
            allow = {"allow": "GET, HEAD"} if status == 405 else None
            response: Response = PlainTextResponse(f"{reason}\n", status, headers=allow)
        elif self._is_token(request.query_params.get("token")):
            response = self._let_in(request)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        response.headers.setdefault("cache-control", "no-store")
        return response

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and reason of a refusal; None if the request is answered."""
        hosts, allowed = request.headers.getlist("host"), self.hosts
        if len(hosts) != 1 or (allowed is not None and hosts[0].lower() not in allowed):
            name = f"localhost:{self.port}"
            return 421, (
                f"This viewer answers as {name} only. Open http://{name}/; if you forward a port, forward "
                f"it to the same number ({self.port})."
            )
        if not _is_own_origin(request, hosts[0]):
            return 403, "This viewer answers its own pages only, and this request comes from another one."
        if request.method not in ("GET", "HEAD"):
            return 405, "This viewer is for reading: GET and HEAD."
        given = request.query_params.get("token"), request.cookies.get(self.cookie)
        if self.token is not None and not any(map(self._is_token, given)):
            return 401, "This viewer needs its token: open the address that `aipo view` printed."
        return None

    def _is_token(self, text: str | None) -> bool:
        if self.token is None or text is None:
            return False
        return secrets.compare_digest(text.encode(), self.token.encode())

    def _let_in(self, request: Request) -> Response:
        """Takes the token out of the address and gives a cookie for it.

        A page that goes on by itself, and no redirect: a browser that came from elsewhere would not send a
        strict cookie along with that.
        """
        rest = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != "token"])
        path = request.scope["path"].rpartition("/")[2] or "./"
        response = HTMLResponse(_GO_ON.format(f"{path}?{rest}" if rest else path))
        response.set_cookie(
            self.cookie, self.token or "", max_age=_COOKIE_MAX_AGE, httponly=True, samesite="strict"
        )
        return response


def _is_own_origin(request: Request, host: str) -> bool:
    headers = request.headers
    if headers.get("origin", f"http://{host}").lower() != f"http://{host.lower()}":
        return False
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A link in another page may lead here: the page opens by itself, where nobody else can look.
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
