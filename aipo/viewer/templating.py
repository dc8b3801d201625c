"""Templates of the viewer's pages. Everything printed is escaped; `|visible` disarms what a model wrote."""

from functools import cache
from typing import cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from aipo.render.shown import visible
from aipo.viewer.links import Links, json_block, slug

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'"
)
"""Content-security policy of every page, as a page itself can say it; the server adds `frame-ancestors`."""


def render(
    template: str, links: Links, *, live: str | None = None, version: object = None, **context: object
) -> str:
    """A page of `templates/` that extends `base.html.j2`.

    Args:
        template: name of the file.
        links: from the page's own place; templates see them as `links`.
        live: address to ask whether the page has changed; its element `#live` is then replaced. None: never.
        version: what `live` had said before the page was made; None: the page asks as soon as it is shown.
        context: what else the template needs; a name that is missing is an error.
    """
    return (
        environment()
        .get_template(template)
        .render(links=links, live=live, version=version, policy=POLICY, **context)
    )


@cache
def environment() -> Environment:
    """The one environment of all pages."""
    made = Environment(
        loader=PackageLoader("aipo.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["visible"] = lambda text: visible(str(text))
    made.filters["slug"] = slug
    # Its declared type is that of what jinja itself puts there.
    cast(dict[str, object], made.globals)["json_block"] = json_block
    return made
