"""The Jinja environment of every page: reports, comparisons and the viewer fill their templates here.

Everything that a template prints is escaped, and characters that would steer a reader's eye are shown by their
codes (`visible`). A template prints a string as it is only as `{{ value|e }}`, which still escapes it.
"""

import json
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aipo.util.text import counted, visible


def fill(package: str, template: str, **context: object) -> Markup:
    """A template from the folder `templates` of `package`. A name that the context lacks is an error."""
    return Markup(environment(package).get_template(template).render(**context))


@cache
def environment(package: str) -> Environment:
    """The environment of one package's templates."""
    pages = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals["counted"] = counted  # pyright: ignore[reportArgumentType]
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
