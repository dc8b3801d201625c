"""The web application: every request goes past the guard to the site."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from aipo.viewer.guard import Gate, Guard
from aipo.viewer.responses import Page
from aipo.viewer.site import Site


def create_app(site: Site, gate: Gate) -> Starlette:
    """The application of `site`, which answers those whom `gate` lets through."""

    def answer(request: Request) -> Response:
        return _response(site.answer(request.path_params["path"], request.query_params), request)

    return Starlette(routes=[Route("/{path:path}", answer)], middleware=[Middleware(Guard, gate=gate)])


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
