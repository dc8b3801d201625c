"""Traces listed in the terminal: a table to look at, or lines of JSON for scripts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aipo.errors import RunError
from aipo.render.display import show
from aipo.trace.filters import Filter
from aipo.trace.index import Group, Summary, TraceIndex
from aipo.util.console import line_table
from aipo.util.text import counted, cut, visible

_TRACES = ("trace", "question", "kind", "reward", "advantage", "agent", "stop", "error", "reason")
_GROUPS = ("group", "question", "rollouts", "reward", "consults", "failed")
_LONGEST = 200
"""Characters of one value that a query's table shows; `--json` has them all."""
_CUT = (
    ("question", 8),
    ("error", 8),
    ("reason", 0),
    ("agent", 6),
    ("advantage", 0),
    ("stop", 0),
    ("agent", 0),
    ("consults", 0),
)
"""Columns that give way in a narrow terminal."""


def print_list(
    index: TraceIndex,
    where: Filter,
    *,
    groups: bool,
    order: str | None,
    limit: int,
    as_json: bool,
    console: Console,
) -> None:
    """Traces that match, or the groups in which one matches, a line each.

    Args:
        order: default: `step`, and of groups `interesting`.

    Raises:
        ConfigError: an unknown order.
    """
    if groups:
        found = index.groups(where, order=order or "interesting", limit=limit)
        table = _table(_GROUPS, map(_group_row, found), console)
    else:
        found = index.traces(where, order=order or "step", limit=limit)
        table = _table(_TRACES, map(_trace_row, found), console)
    if as_json:
        _print_json(asdict(each) for each in found)
        return
    console.print(table)
    total = len(found)
    if not 0 < total < limit:  # counting goes through all files once more
        total = index.group_count(where) if groups else index.count(where)
    note = counted(total, "group" if groups else "trace")
    note = note if len(found) == total else f"{len(found):,} of {note} (--limit shows more)"
    console.print(note, style="dim", highlight=False)
    if groups and where.splits_groups:
        console.print("in which a trace matches; numbers are of whole groups", style="dim", highlight=False)


def print_trace(index: TraceIndex, trace_id: str, *, as_json: bool, console: Console) -> None:
    """One trace, coloured by producer; or all of it as JSON.

    Raises:
        TraceError: there is none of this id.
    """
    stored = index.stored(trace_id)
    if as_json:
        print(stored.trace.to_json().decode())
    else:
        console.print(show(stored), soft_wrap=True)


def print_query(index: TraceIndex, query: str, *, as_json: bool, console: Console) -> None:
    """The answer of DuckDB; the view `traces` has all columns of all traces.

    Raises:
        RunError: DuckDB refuses the query, or two columns of a line of JSON would have one name.
    """
    names, rows = index.sql(query)
    if as_json and len(set(names)) < len(names):
        raise RunError(f"--sql with --json: got the columns {names}, allowed a name for each (AS ...)")
    if as_json:
        _print_json(dict(zip(names, row, strict=True)) for row in rows)
        return
    cells = [[_cell(value, _LONGEST) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 1) for i, name in enumerate(names)]
    if sum(widths) + 2 * len(widths) <= console.width:
        console.print(_table(names, cells, console))
        return
    for number, row in enumerate(cells):  # too wide for a table: a column a line
        console.print(f"row {number}", style="dim", highlight=False)
        upright = Table(box=None, show_header=False, pad_edge=False)
        for name, cell in zip(names, row, strict=True):
            upright.add_row(Text(visible(name), style="bold"), Text(cell))
        console.print(upright)


def _trace_row(summary: Summary) -> Sequence[Any]:
    """A cell says what its column's filter takes: `kind=solo`, `agent=verify`, `stop=eos`."""
    advantage = None if summary.advantage is None else f"{summary.advantage:+.2f}"
    agents = ", ".join(name or "(nobody)" for name in summary.agents)
    ended = (summary.stop_reason, summary.error or "", summary.reason or "")
    return (summary.trace_id, summary.question, summary.kind, summary.reward, advantage, agents, *ended)


def _group_row(group: Group) -> Sequence[Any]:
    mean = None if group.reward_mean is None else f"{group.reward_mean:.2f}"
    if group.reward_min != group.reward_max:
        mean = f"{mean} ({group.reward_min:g} to {group.reward_max:g})"
    return (group.group_id, group.question, group.traces, mean, group.consults, group.failed)


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]], console: Console) -> Table:
    cells = [[_cell(value) for value in row] for row in rows]
    return line_table(names, cells, width=console.width, cut=_CUT)


def _cell(value: object, longest: int | None = None) -> str:
    """Any value as one line of text that cannot steer the terminal; '–' for None, which is not 0."""
    printed = "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    text = visible(printed).strip()
    return text if longest is None else cut(text, longest)


def _print_json(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False, default=str))
