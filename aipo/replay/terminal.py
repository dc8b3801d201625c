"""Tables of numbers for the terminal: what a line is about gives way, its numbers do not."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from aipo.util.text import visible


def numbers(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A table whose first column says what the others count."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    first, *others = columns
    shown.add_column(first, overflow="fold")
    for name in others:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(visible(cell)) for cell in row))
    return shown


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that there are; None if there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
