"""A page as it leaves the viewer, and the files that pages load."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import orjson

from aipo.render import colours, graph_svg
from aipo.render.templating import fill
from aipo.viewer.links import Links, json_block, slug

HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'"
)
"""Content-security policy of every page, as a page itself can say it; the server adds `frame-ancestors`."""
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Args:
        follows: paths of the pages that it links to.
        location: where a redirect leads, from the page's own place.
    """

    body: bytes
    media_type: str = HTML
    status: int = 200
    location: str | None = None
    follows: frozenset[str] = field(default=frozenset())

    @property
    def etag(self) -> str:
        return f'"{digest(self.body)}"'


def render(
    template: str, links: Links, *, live: str | None = None, version: object = None, **context: object
) -> str:
    """A page of `templates/` that extends `base.html.j2`.

    Args:
        template: name of the file.
        links: from the page's own place; templates see them as `links`.
        live: address that tells whether the page has changed; its element `#live` is then replaced. None: never.
        version: the answer of `live` before the page was built; None: the page asks as soon as it is open.
        context: what else the template needs; a name that is missing is an error.
    """
    page = {"links": links, "live": live, "version": version, "policy": POLICY}
    page |= {"json_block": json_block, "slug": slug}
    return fill("aipo.viewer", template, **page, **context)


def html_page(html: str, links: Links, status: int = 200) -> Page:
    """A page of HTML whose addresses come from `links`."""
    return Page(html.encode("utf-8", "replace"), status=status, follows=frozenset(links.followed))


def json_page(value: object) -> Page:
    """An answer for scripts."""
    return Page(orjson.dumps(value), "application/json")


def digest(content: bytes) -> str:
    """A fingerprint of the content."""
    return hashlib.sha256(content).hexdigest()[:32]


@cache
def static_files() -> Mapping[str, Page]:
    """Every file that pages load, by name. Nothing else can be asked for."""
    style = "\n".join([colours.sheet(), colours.STYLE, graph_svg.STYLE, ""])
    pages = {"palette.css": Page(style.encode(), _TYPES["css"])}
    for room in ("aipo.render", "aipo.viewer"):
        for file in files(room).joinpath("static").iterdir():
            kind = _TYPES.get(file.name.rpartition(".")[2])
            if kind is not None:
                pages[file.name] = Page(file.read_bytes(), kind)
    return pages
