"""The page of a run: its curves, and its traces filtered, searched and sorted.

    run.metrics()  →  curves  ┐
    query string   →  Query   ├→  run.html.j2
    run.index      →  rows    ┘

A server filters and sorts. A static site lists all groups, some hundred a page, the most interesting ones first;
the marks of a group lead to its traces.
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
STATIC_GROUPS = 500
_STRANGERS = 40
_FAILED = Filter(failed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePage:
    """The rows of a page.

    Args:
        groups, traces: rows of one of the two views.
        matching: how many groups or traces match.
        first: number of the first row.
        rollouts: how many rollouts a static site has.
    """

    groups: Sequence[GroupRow] = ()
    traces: Sequence[TraceRow] = ()
    matching: int
    first: int = 1
    rollouts: int = 0

    @property
    def last(self) -> int:
        return self.first + max(len(self.groups), len(self.traces)) - 1


def run_page(run: RunView, params: Mapping[str, str], links: Links, *, source: RunView | None = None) -> str:
    """The page as HTML.

    Args:
        params: the query string; of a static site only the number of the page.
        source: the run that this one replays, if the site has it.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: another file of the run cannot.
    """
    query, live = parse(params), links.live
    index = run.index
    version = run.version()  # before anything is read: what changes meanwhile is then seen as a change
    config, manifest, drawing = run.config(), run.manifest(), run.drawing()
    agents, strangers = agent_names(config, index.agents())
    table = RunTable(run=run.name, links=links, agents=agents)
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
        replayed=run.replayed(),
        result=run.replay(),
        source=source,
        graph=Markup(graph_svg(drawing)) if drawing else None,
        origins=origins(manifest),
        query=query,
        given={name: params.get(name, "") for name in FIELDS},
        orders=ORDERS,
        kinds=KINDS,
        stops=index.stops(),
        agents=[(name, table.colour(name)) for name in agents],
        strangers=strangers[:_STRANGERS],
        listing=_matching(index, query, table) if live else _every_group(index, query.page, table),
        per_page=PER_PAGE[query.view] if live else STATIC_GROUPS,
        page_link=(lambda page: query.link(page=page)) if live else (lambda page: links.run(run.name, page)),
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


def _matching(index: TraceIndex, query: Query, table: RunTable) -> TablePage:
    """One page of the rows that match a query."""
    limit = PER_PAGE[query.view]
    offset = limit * (query.page - 1)
    if query.view == "traces":
        traces = index.traces(query.where, order=query.sort, limit=limit, offset=offset)
        matching = _total(len(traces), offset, limit) or index.count(query.where)
        return TablePage(traces=_trace_rows(traces, table), matching=matching, first=offset + 1)
    groups = index.groups(query.where, order=query.sort, limit=limit, offset=offset)
    matching = _total(len(groups), offset, limit) or index.group_count(query.where)
    return TablePage(groups=_group_rows(index, groups, table), matching=matching, first=offset + 1)


def _total(count: int, offset: int, limit: int) -> int | None:
    """How many rows match, where a page that is not full tells it; a search of all texts is slow."""
    return offset + count if 0 < count < limit else None


def _every_group(index: TraceIndex, page: int, table: RunTable) -> TablePage:
    """A page of a static site: groups, the most interesting ones first, without those that were left out."""
    groups = [group for group in index.groups(limit=index.group_count()) if table.has(group)]
    offset = STATIC_GROUPS * (page - 1)
    return TablePage(
        groups=_group_rows(index, groups[offset : offset + STATIC_GROUPS], table),
        matching=len(groups),
        first=offset + 1,
        rollouts=sum(group.traces for group in groups),
    )


def _group_rows(index: TraceIndex, groups: Sequence[Group], table: RunTable) -> list[GroupRow]:
    members = index.of_groups([group.group_id for group in groups])
    scale = scale_of(trace for group in groups for trace in members[group.group_id])
    return [table.group(group, members[group.group_id], scale) for group in groups]


def _trace_rows(traces: Sequence[Summary], table: RunTable) -> list[TraceRow]:
    scale = scale_of(traces)
    return [table.trace(trace, scale) for trace in traces]


_drawn: WeakKeyDictionary[RunView, tuple[object, Sequence[str], Curves]] = WeakKeyDictionary()


def _curves_of(run: RunView, agents: Sequence[str]) -> Curves:
    """The run's curves, drawn anew only when its metrics have changed: they are then another list."""
    metrics = run.metrics()
    if not metrics:
        return Curves()
    drawn = _drawn.get(run)
    if drawn is None or drawn[0] is not metrics or drawn[1] != agents:
        drawn = _drawn[run] = metrics, agents, curves(metrics, agents)
    return drawn[2]
