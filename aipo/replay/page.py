"""The page of a replay: tables and figures, one HTML file that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aipo.render import charts as chart
from aipo.replay import bars
from aipo.util.files import write_text
from aipo.util.text import visible

COLOURS = tuple(f"{kind}{i}" for kind in "ck" for i in range(6))
"""CSS classes of lines; the page says which colours they are, for light and dark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table, figures, or both.

    Args:
        columns, rows: of the table; the first column names the row, the others hold numbers as text.
        keys: colour class of each row, where the figures show them.
        figures: `<svg>` elements.
    """

    title: str
    text: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    keys: Sequence[str] = ()
    figures: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A heading, facts by name, and sections."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    sections: Sequence[Section] = ()


def write_page(path: Path, page: Page) -> None:
    """Writes the page.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    shown = Page(
        title=visible(page.title),
        facts={visible(name): visible(value) for name, value in page.facts.items()},
        sections=[_shown(section) for section in page.sections],
    )
    template = _environment().get_template("replay.html.j2")
    write_text(
        path, template.render(page=shown, colours=COLOURS, style=Markup(f"{chart.STYLE}\n{bars.STYLE}"))
    )


def _shown(section: Section) -> Section:
    return Section(
        title=visible(section.title),
        text=visible(section.text),
        columns=[visible(name) for name in section.columns],
        rows=[[visible(cell) for cell in row] for row in section.rows],
        keys=section.keys,
        figures=[Markup(svg) for svg in section.figures],
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("aipo.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
