"""The Jinja environment of every page: reports, comparisons and the viewer fill their templates here.

Everything that a template prints is escaped, and characters that would steer a reader's eye are shown by their
codes (`visible`). A template prints a string as it is only as `{{ value|e }}`, which still escapes it.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from aipo.util.text import visible


def fill(package: str, template: str, **context: object) -> str:
    """A template from the folder `templates` of `package`. A name that the context lacks is an error."""
    return environment(package).get_template(template).render(**context)


@cache
def environment(package: str) -> Environment:
    """The environment of one package's templates."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
