"""Progress, lines and tables of numbers, alike in every command."""

import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from aipo.util.output import EventConsole, end_line, write_event
from aipo.util.text import age, visible

Note = Callable[[int, int, str | Mapping[str, float]], None]
"""Called with how much is done, of how much, and what to show beside it: a text, or metrics by their names."""
QUIET_S = 30.0
"""After so many seconds without a line, one says where the work is."""


class WrittenProgress(Progress):
    """Progress where no bar can move: a plain line for a step or, with an `EventConsole`, a JSON object. While a step
    takes long, a line every `QUIET_S` seconds says where it is.

    Args:
        get_time: seconds on a clock, for the time left.
    """

    def __init__(self, console: Console, get_time: Callable[[], float] | None = None) -> None:
        # The time left comes from all steps, however long they take.
        super().__init__(console=console, disable=True, get_time=get_time, speed_estimate_period=math.inf)
        self._noted: dict[TaskID, tuple[Task, str | Mapping[str, float]]] = {}
        self._latest = self._noted
        self._quiet = True
        self._over = threading.Event()

    def start(self) -> None:
        """Begins to look after stages that say nothing."""
        super().start()
        self._over.clear()
        threading.Thread(target=self._look_often, name="progress", daemon=True).start()

    def stop(self) -> None:
        """Says nothing more by itself."""
        self._over.set()
        super().stop()

    def _look_often(self) -> None:
        while not self._over.wait(QUIET_S):
            self.look()

    def look(self) -> None:
        """Writes where the stages are that went on since the last look, or else the last one that did; nothing if a line
        was written since."""
        with self._lock:
            self._latest = self._noted or self._latest
            for task, values in self._latest.values() if self._quiet else ():
                self.write(task, values)
            self._latest, self._noted = dict([*self._latest.items()][-1:]), {}
            self._quiet = True

    def note(self, task: Task, values: str | Mapping[str, float], *, due: bool) -> None:
        """Takes in where a stage is, and writes it if it is `due`."""
        with self._lock:
            self._noted.pop(task.id, None)
            self._noted[task.id] = task, values
            if due:
                self.write(task, values)

    def remove_task(self, task_id: TaskID) -> None:
        """Forgets a stage."""
        with self._lock:
            self._noted.pop(task_id, None)
            self._latest.pop(task_id, None)
            super().remove_task(task_id)

    def write(self, task: Task, values: str | Mapping[str, float]) -> None:
        """Writes the step that a stage is at."""
        self._quiet = False
        done, total, left_s = int(task.completed), int(task.total or 0), task.time_remaining
        if isinstance(self.console, EventConsole):
            said = {"text": values} if isinstance(values, str) else {"metrics": dict(values)}
            steps = {"stage": task.description, "step": done, "steps": total}
            write_event(self.console, "step", **steps, left_s=left_s, **said)
            return
        counted = f"{done} of {total}" if total else ""
        left = f"{age(left_s)} left" if left_s else ""
        end_line(self.console.file)
        parts = [f"{task.description:<16}", counted, _shown(values), left]
        print_line(self.console, "  ".join(part for part in parts if part))


def bars(console: Console) -> Progress:
    """A place for the stages of a command: bars in a terminal, lines or events elsewhere; `stage` adds one."""
    can_move = console.is_terminal and not console.is_dumb_terminal
    if isinstance(console, EventConsole) or not (can_move or console.is_jupyter):
        return WrittenProgress(console)
    own = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description:<16}", markup=False, table_column=own),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=own),
        # The time left; at the end, the time that it took.
        TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=own),
        # In a narrow terminal this is what is cut.
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, ratio=1),
        ),
        console=console,
        expand=True,
        speed_estimate_period=math.inf,
    )


def stage(progress: Progress, name: str, *, lines: int | None = 20) -> Note:
    """Adds a bar and returns what moves it. One that goes back has begun again.

    Args:
        lines: without a terminal, the most lines until it is full; None = one for each step. 0 is for a part of a step:
            it has a line only where nothing was said for a while.
    """
    bar = progress.add_task(name, total=None, note="")
    task = next(task for task in progress.tasks if task.id == bar)
    written: tuple[int, object] = (0, None)

    def note(done: int, total: int, values: str | Mapping[str, float]) -> None:
        nonlocal written
        if done < task.completed:
            progress.reset(bar)
        progress.update(bar, completed=done, total=total, note=_shown(values))
        part = done if lines is None else done * lines // max(total, 1)
        due = lines != 0 and (part > written[0] or (done == total and (part, values) != written))
        written = (part, values) if due else written
        if isinstance(progress, WrittenProgress):
            progress.note(task, values, due=due)

    return note


def within(note: Note, at: int, steps: int, text: str) -> Callable[[int, int], None]:
    """What says how many rollouts of one step of a stage have ended."""
    return lambda done, total: note(at, steps, f"{text}, {done} of {total} rollouts")


def _shown(values: str | Mapping[str, float]) -> str:
    if isinstance(values, str):
        return values
    return "  ".join(f"{name.rpartition('/')[2]} {value:.2f}" for name, value in values.items())


def put_away(progress: Progress, name: str) -> None:
    """Takes the bars of this name away: where there are many, those that are done push others off the screen."""
    for task in progress.tasks:
        if task.description == name:
            progress.remove_task(task.id)


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """One line as it is; control characters in it are shown, not obeyed."""
    console.print(visible(line), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_warning(console: Console, text: str) -> None:
    """One line that somebody should read; for programs an event, too."""
    print_line(console, f"warning: {text}", "bold yellow")
    write_event(console, "warning", text=text)


_LINE_ENDS = re.compile(r"\s*[\n\t]\s*")


def line_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int, cut: Sequence[tuple[str, int]]
) -> Table:
    """A table with one line for each row, however narrow the terminal. A column without any text is left out.

    Args:
        width: of the terminal.
        cut: columns that end with an ellipsis where there is no room, the first one first, and the width that each
            keeps; 0: the column is left out then. Others, such as ids to be copied, are cut only where the terminal
            is narrower than all of these.
    """
    cells = [[_LINE_ENDS.sub(" ", visible(cell)).rstrip() for cell in row] for row in rows]
    kept = [n for n in range(len(columns)) if not cells or any(row[n] for row in cells)]
    widths = {columns[n]: max(len(columns[n]), *(cell_len(row[n]) for row in cells), 0) for n in kept}
    missing = sum(widths.values()) + 2 * (len(widths) - 1) - width
    for name, least in cut:
        if missing <= 0 or name not in widths:
            continue
        if least == 0:
            missing -= widths.pop(name) + 2
            continue
        given = max(0, min(missing, widths[name] - least))
        widths[name] -= given
        missing -= given
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, number in widths.items():
        table.add_column(Text(visible(name)), width=number, no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(Text(row[n]) for n in kept if columns[n] in widths))
    return table


_MARKUP = re.compile(r"[\\`*_<|]")
"""Characters that are markup in a table of Markdown."""
_NAMES = 12
"""Columns of a terminal in which names can be folded."""


@dataclass(frozen=True, slots=True)
class NumberTable:
    """A table whose first column names the row. In a narrow terminal the names are folded; where this is not enough, each
    number has a line of its own."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [self.columns, *self.rows]
        names, *numbers = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        fits = min(names, _NAMES) + sum(width + 2 for width in numbers) + 4 <= options.max_width
        if self.title is not None:
            yield Text(self.title, style="table.title")
        yield self._wide() if fits else self._narrow()

    def markdown(self) -> str:
        """The same as a table of Markdown, its title in bold above it."""
        head, *rows = ([*map(_escaped, row)] for row in (self.columns, *self.rows))
        lines = (head, ["---", *["---:"] * (len(head) - 1)], *rows)
        title = [] if self.title is None else [f"**{_escaped(self.title)}**", ""]
        return "\n".join([*title, *(f"| {' | '.join(line)} |" for line in lines)])

    def _wide(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
        first, *others = self.columns
        table.add_column(first, overflow="fold")
        for name in others:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def _narrow(self) -> Table:
        table = Table(box=None, show_header=False)
        for name, *numbers in self.rows:
            table.add_row(Text(name, style="bold"))
            for column, number in zip(self.columns[1:], numbers, strict=True):
                if number:
                    table.add_row(Text(f"  {column}"), Text(number))
        return table


def _escaped(text: str) -> str:
    """One line of text for Markdown."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def number_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None
) -> NumberTable:
    """A `NumberTable` of texts from anywhere."""
    return NumberTable([*map(visible, columns)], [[visible(cell) for cell in row] for row in rows], title)
