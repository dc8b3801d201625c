"""`aipo view`: serves a folder's runs to this machine's browser, or writes them out as a static site."""

import secrets
import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from aipo.errors import AipoError, ConfigError, RunError
from aipo.policies.vllm.launch import bracketed, is_loopback
from aipo.util.console import bars, stage
from aipo.util.text import counted
from aipo.viewer.bundle import write_bundle
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.guard import Gate
from aipo.viewer.responses import Page
from aipo.viewer.site import Site


def view(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    static: Path | None = None,
    limit: int | None = None,
    open_browser: bool = False,
    console: Console,
) -> None:
    """Serves the runs in `root` until interrupted, or writes their static site to `static`.

    Args:
        root: a run folder, one of its evaluations, a folder of traces, or a folder with any of them below.
        host: the address to bind; other than loopback needs a token.
        port: 0 = any that is free.
        token: what a reader has to bring; None = made up where one is needed.
        limit: the most traces of each run in the static site; None = all.

    Raises:
        RunError: no such folder, the port is taken, or the static site cannot be written.
        ConfigError: a token that is too easily guessed.
    """
    library = RunLibrary(root)
    if static is not None:
        first = _write_static(library, static, limit, console)
        if open_browser:
            webbrowser.open(first.resolve().as_uri())
        return
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and len(token) < 16:
        raise ConfigError(f"--token: got {len(token)} characters, allowed at least 16")
    with bind(host, port) as listener:
        gate = Gate(host, listener.getsockname()[1], token)
        address = first_page(gate)
        runs = len(library.runs())
        hint = "" if runs else ": nothing to show until one begins there"
        console.print(f"{counted(runs, 'run')} in {library.root}{hint}", highlight=False, soft_wrap=True)
        console.print(f"viewer at {address}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        threading.Thread(target=_warm, args=(library,), daemon=True).start()
        if open_browser:
            webbrowser.open(address)  # it connects now and is answered as soon as the server runs
        with suppress(KeyboardInterrupt):  # raised once more when all is closed
            server(Site(library, live=True), gate).run(sockets=[listener])
        console.print("viewer closed")


def _warm(library: RunLibrary) -> None:
    """Reads the summaries of all runs before a page needs them."""
    for run in library.runs():
        with suppress(AipoError):  # its page will say what is wrong
            run.index.refresh()


def _write_static(library: RunLibrary, out: Path, limit: int | None, console: Console) -> Path:
    with bars(console) as progress:
        bundle = write_bundle(library, out, limit=limit, note=stage(progress, "pages"))
    for note in bundle.notes:
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for path in bundle.faulty:
        console.print(f"could not be shown: {path}", style="red", highlight=False, soft_wrap=True)
    console.print(f"{counted(bundle.files, 'file')}, {bundle.size / 1e6:.1f} MB", highlight=False)
    console.print(f"written to {bundle.first}", highlight=False, soft_wrap=True)
    return bundle.first


def server(site: Site, gate: Gate) -> uvicorn.Server:
    """A server of `site` for a socket that is bound already; requests that `gate` allows get a page."""

    def answer(request: Request) -> Response:
        return _response(site.answer(request.path_params["path"], request.query_params), request)

    app = Starlette(
        routes=[Route("/{path:path}", answer)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=gate.guard)],
    )
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )


def _response(page: Page, request: Request) -> Response:
    if page.location is not None:
        return RedirectResponse(page.location, status_code=page.status)
    if page.status != 200:
        return Response(page.body, page.status, media_type=page.media_type)
    # A browser may keep a page, but has to ask each time whether it is still the same.
    headers = {"etag": page.etag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == page.etag:
        return Response(status_code=304, headers=headers)
    return Response(page.body, media_type=page.media_type, headers=headers)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RunError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"viewer: got --host {host} --port {port}, which cannot be bound ({error}), "
            "allowed an address of this machine and a free port (--port 0 takes any)"
        ) from error


def first_page(gate: Gate) -> str:
    """Address of the first page, with the token if there is one."""
    name = socket.gethostname() if gate.hosts is None else bracketed(gate.host)
    query = "" if gate.token is None else f"?token={gate.token}"
    return f"http://{name}:{gate.port}/{query}"
