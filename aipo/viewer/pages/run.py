"""The page of a run: its curves, and its traces filtered, searched and sorted.

    run.metrics()  →  curves  ┐
    query string   →  Query   ├→  run.html.j2
    run.index  →  rows    ┘

On a server a page holds one screenful of rows, which the index has chosen. In a static site nobody
answers: all rows are in the page, and its script chooses by the same names in the same address.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from markupsafe import Markup

from aipo.render.graph_svg import graph_svg
from aipo.trace.filters import KINDS, Filter
from aipo.trace.index import Group, Summary, TraceIndex
from aipo.viewer.data.library import RunView
from aipo.viewer.data.query import FIELDS, ORDERS, Query, parse
from aipo.viewer.data.run_summary import agent_names, head, origins, scores
from aipo.viewer.links import Links
from aipo.viewer.pages.curves import Curves, curves
from aipo.viewer.pages.run_table import GroupRow, RunTable, TraceRow, scale_of
from aipo.viewer.responses import render

PER_PAGE = {"groups": 50, "traces": 100}
STATIC_TRACES = 5000
_STRANGERS = 40
_FAILED = Filter(failed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePage:
    """The rows of a page: `matching` groups or traces there are, these from number `first` on."""

    groups: Sequence[GroupRow] = ()
    traces: Sequence[TraceRow] = ()
    matching: int
    first: int = 1

    @property
    def last(self) -> int:
        return self.first + max(len(self.groups), len(self.traces)) - 1


def run_page(run: RunView, query: Mapping[str, str], links: Links, *, live: bool) -> str:
    """The page as HTML. `live`: a server answers, so that choosing rows is its work.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: another file of the run cannot.
    """
    asked = parse(query)
    index = run.index
    version = run.version()  # before anything is read: what changes meanwhile is then seen as a change
    config, manifest, drawing = run.config(), run.manifest(), run.drawing()
    agents, strangers = agent_names(config, index.agents())
    rows = RunTable(run=run.name, links=links, agents=agents)
    return render(
        "run.html.j2",
        links,
        live=links.version(run.name) if live else None,
        version=version,
        name=run.name,
        parent=_parent(run),
        static=not live,
        head=head(config, manifest),
        steps=index.steps(),
        total=index.count(),
        failed=index.count(_FAILED),
        curves=_curves_of(run, [*agents, "unknown"]),
        scores=scores(run.evaluations()),
        page_of=run.page_of,
        problems=run.problems(),
        graph=Markup(graph_svg(drawing)) if drawing else None,
        origins=origins(manifest),
        asked=asked,
        given={name: query.get(name, "") for name in FIELDS},
        orders=ORDERS,
        kinds=KINDS,
        stops=index.stops(),
        agents=[(name, rows.colour(name)) for name in agents],
        strangers=strangers[:_STRANGERS],
        listing=_chosen(index, asked, rows) if live else _everything(index, rows),
        per_page=PER_PAGE,
        thousands=thousands,
    )


def _parent(run: RunView) -> str | None:
    """The name of the run that an evaluation is of; None for a run, and where there is no such run."""
    if run.evaluation is None or not run.config():
        return None
    above = run.name.removesuffix(f"evaluations/{run.evaluation}").removesuffix("/")
    return above if above != run.name and above else run.folder.name


def thousands(count: int) -> str:
    """25600 as 25 600, with a narrow space that does not break."""
    return f"{count:,}".replace(",", "\u202f")


def _chosen(index: TraceIndex, asked: Query, rows: RunTable) -> TablePage:
    """What a server shows: one page of what was asked for."""
    limit = PER_PAGE[asked.view]
    offset = limit * (asked.page - 1)
    if asked.view == "traces":
        traces = index.traces(asked.where, order=asked.sort, limit=limit, offset=offset)
        matching = _total(len(traces), offset, limit) or index.count(asked.where)
        return TablePage(traces=_trace_rows(traces, rows), matching=matching, first=offset + 1)
    groups = index.groups(asked.where, order=asked.sort, limit=limit, offset=offset)
    members = index.of_groups([group.group_id for group in groups])
    matching = _total(len(groups), offset, limit) or index.group_count(asked.where)
    return TablePage(groups=_group_rows(groups, members, rows), matching=matching, first=offset + 1)


def _total(found: int, offset: int, limit: int) -> int | None:
    """How many there are in all, where a page that is not full says so; a search of all texts is slow."""
    return offset + found if 0 < found < limit else None


def _everything(index: TraceIndex, rows: RunTable) -> TablePage:
    """What a static page holds: the most interesting groups, whole, as far as a browser can bear."""
    chosen: list[Group] = []
    room = STATIC_TRACES
    for group in index.groups(limit=index.group_count()):
        if group.traces <= room and rows.has(group):
            chosen.append(group)
            room -= group.traces
    members = index.of_groups([group.group_id for group in chosen])
    traces = sorted(
        (t for own in members.values() for t in own), key=lambda t: (-t.step, t.group_id, t.index)
    )
    return TablePage(
        groups=_group_rows(chosen, members, rows), traces=_trace_rows(traces, rows), matching=len(chosen)
    )


def _group_rows(
    groups: Sequence[Group], members: Mapping[str, Sequence[Summary]], rows: RunTable
) -> list[GroupRow]:
    scale = scale_of(trace for group in groups for trace in members[group.group_id])
    return [rows.group(group, members[group.group_id], scale) for group in groups]


def _trace_rows(traces: Sequence[Summary], rows: RunTable) -> list[TraceRow]:
    scale = scale_of(traces)
    return [rows.trace(trace, scale) for trace in traces]


_drawn: WeakKeyDictionary[RunView, tuple[object, Sequence[str], Curves]] = WeakKeyDictionary()


def _curves_of(run: RunView, agents: Sequence[str]) -> Curves:
    """The run's curves, drawn anew only when its metrics have changed: they are then another list."""
    metrics = run.metrics()
    if not metrics:
        return Curves()
    kept = _drawn.get(run)
    if kept is None or kept[0] is not metrics or kept[1] != agents:
        kept = _drawn[run] = metrics, agents, curves(metrics, agents)
    return kept[2]
