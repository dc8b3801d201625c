"""The Jinja environment of every template: pages in HTML, cards in Markdown (`*.md.j2`).

Everything that a page prints is escaped. Characters that would steer a reader's eye are shown by their codes
(`visible`); a page prints a string without these codes only as `{{ value|e }}`, which still escapes it. A card prints
texts of users and of their machines as `{{ value|code }}`.
"""

import json
from functools import cache
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aipo.util.text import counted, visible


def fill(package: str, template: str, **context: object) -> Markup:
    """A page from the folder `templates` of `package`. A name that the context lacks is an error."""
    return Markup(fill_card(package, template, **context))


def fill_card(package: str, template: str, **context: object) -> str:
    """`fill` for Markdown, in which nothing is escaped."""
    return environment(package).get_template(template).render(**context)


def code(value: object) -> str:
    """Any text as a code span of Markdown, in which nothing is markup; one line, also in a cell of a table."""
    line = " ".join(str(value).split()).replace("`", "'")
    line = line.replace("\\|", "\\ |").replace("|", r"\|")  # a backslash before it would take the escape away
    return f"`{line}`"


@cache
def environment(package: str) -> Environment:
    """The environment of one package's templates, and of those of `aipo.render` that several packages share."""
    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("aipo.render")]),
        autoescape=lambda name: not (name or "").endswith(".md.j2"),
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals["counted"] = counted  # pyright: ignore[reportArgumentType]
    pages.filters["code"] = code
    return pages


def static_text(name: str) -> str:
    """A style sheet or script of `aipo/render/static`."""
    return files("aipo.render").joinpath("static", name).read_text(encoding="utf-8")


_INERT = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&"})


def json_block(block_id: str, value: object) -> Markup:
    """`value` as data for a page's script: `JSON.parse(document.getElementById(id).textContent)`.

    Nothing in it can end the element or begin another one.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_INERT)
    return Markup('<script type="application/json" id="{}">').format(block_id) + Markup(text + "</script>")
