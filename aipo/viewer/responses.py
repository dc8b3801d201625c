"""A page as it leaves the viewer, and the files that pages load."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import orjson

from aipo.render import charts, colours, graph_svg
from aipo.render.templating import fill, static_text
from aipo.viewer.links import Links, slug

HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'"
)
"""Content-security policy of every page, as a page itself can say it; the server adds `frame-ancestors`."""
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


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
    common = {"policy": POLICY, "slug": slug, "verdict": verdict, "thousands": thousands}
    return fill("aipo.viewer", template, links=links, live=live, version=version, **common, **context)


def thousands(count: int) -> str:
    """25600 as 25 600, with a narrow space that does not break."""
    return f"{count:,}".replace(",", "\u202f")


def verdict(reward: float | None) -> str:
    """CSS class of a reward."""
    return "none" if reward is None else "good" if reward > 0 else "bad"


def json_page(value: object) -> Page:
    """An answer for scripts."""
    return Page(orjson.dumps(value), "application/json")


def digest(content: bytes) -> str:
    """A fingerprint of the content."""
    return hashlib.sha256(content).hexdigest()[:32]


@cache
def static_files() -> Mapping[str, Page]:
    """Every file that pages load, by name. Nothing else can be asked for."""
    texts = {"palette.css": f"{colours.sheet()}\n{colours.STYLE}\n{graph_svg.STYLE}"}
    texts |= {name: static_text(name) for name in (*charts.SCRIPTS, *charts.STYLES)}
    for file in files("aipo.viewer").joinpath("static").iterdir():
        texts[file.name] = file.read_text(encoding="utf-8")
    kinds = {name: _TYPES.get(name.rpartition(".")[2]) for name in texts}
    return {name: Page(texts[name].encode(), kind) for name, kind in kinds.items() if kind is not None}
