"""Progress bars, lines and tables of numbers for the terminal, alike in every command."""

import json
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text
from typer import Option

from aipo.util.text import visible

JsonOption = Annotated[
    bool, Option("--json", help="print the result as one JSON document; everything else goes to stderr")
]
Note = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and what to show behind the bar."""


def bars(console: Console) -> Progress:
    """A place for bars; `stage` adds one."""
    own = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description:<16}", table_column=own),
        BarColumn(bar_width=20),
        TaskProgressColumn(table_column=own),
        TimeElapsedColumn(table_column=own),
        # In a narrow terminal this is what is cut.
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True, ratio=1)),
        console=console,
        expand=True,
    )


def stage(progress: Progress, name: str) -> Note:
    """Adds a bar and returns what moves it."""
    bar = progress.add_task(name, total=None, note="")
    return lambda done, total, text: progress.update(bar, completed=done, total=total, note=text)


def put_away(progress: Progress, name: str) -> None:
    """Takes the bars of this name away: where there are many, those that are done push others off the screen."""
    for task in progress.tasks:
        if task.description == name:
            progress.remove_task(task.id)


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """One line as it is; control characters in it are shown, not obeyed."""
    console.print(visible(line), style=style, markup=False, highlight=False, soft_wrap=True)


_LINE_ENDS = re.compile(r"\s*[\n\t]\s*")


class ResultConsole(Console):
    """The console of a command with `--json`: on stderr, for stdout has nothing but the result."""

    def __init__(self, stdout: TextIO) -> None:
        super().__init__(stderr=True)
        self.stdout = stdout


@contextmanager
def output(as_json: bool) -> Generator[Console]:
    """Where a command prints. With `as_json` all of it goes to stderr, what libraries and users' code print, too."""
    if not as_json:
        yield Console()
        return
    console = ResultConsole(sys.stdout)
    with redirect_stdout(sys.stderr):
        yield console


def print_result(console: Console, result: object) -> None:
    """The result of a command as one JSON document on stdout, if its console is one of `--json`."""
    if isinstance(console, ResultConsole):
        print(json.dumps(result, indent=2, allow_nan=False, default=str), file=console.stdout, flush=True)


def line_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int, cut: Mapping[str, int]
) -> Table:
    """A table with one line for each row, however narrow the terminal. A column without any text is left out.

    Args:
        width: of the terminal.
        cut: columns that end with an ellipsis where there is no room, the first one first, and the width that each
            keeps. Others, such as ids to be copied, are cut only where the terminal is narrower than all of these.
    """
    cells = [[_LINE_ENDS.sub(" ", visible(cell)).rstrip() for cell in row] for row in rows]
    kept = [n for n in range(len(columns)) if not cells or any(row[n] for row in cells)]
    widths = {columns[n]: max(len(columns[n]), *(cell_len(row[n]) for row in cells), 0) for n in kept}
    missing = sum(widths.values()) + 2 * (len(widths) - 1) - width
    for name, least in cut.items():
        given = max(0, min(missing, widths.get(name, 0) - least))
        widths |= {name: widths[name] - given} if given else {}
        missing -= given
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, number in widths.items():
        table.add_column(Text(visible(name)), width=number, no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(Text(row[n]) for n in kept))
    return table


def number_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A table whose first column names the row. In a narrow terminal the names are folded, the numbers are not."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    first, *others = columns
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table
