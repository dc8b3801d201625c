"""A page as it leaves the viewer, and the files that pages load."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import orjson

from aipo.viewer.links import Links
from aipo.viewer.palette import palette

HTML = "text/html; charset=utf-8"
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


def html_page(html: str, links: Links, status: int = 200) -> Page:
    """A page of HTML that was made with `links`."""
    return Page(html.encode("utf-8", "replace"), status=status, follows=frozenset(links.followed))


def json_page(value: object) -> Page:
    """An answer for scripts."""
    return Page(orjson.dumps(value), "application/json")


def digest(content: bytes) -> str:
    """Tells one content from another."""
    return hashlib.sha256(content).hexdigest()[:32]


@cache
def static_files() -> Mapping[str, Page]:
    """Everything that pages load, by name. What is not listed here cannot be asked for."""
    found = {"palette.css": Page(palette().encode(), _TYPES["css"])}
    for room in ("aipo.render", "aipo.viewer"):
        for file in files(room).joinpath("static").iterdir():
            kind = _TYPES.get(file.name.rpartition(".")[2])
            if kind is not None:
                found[file.name] = Page(file.read_bytes(), kind)
    return found
