"""The page of a run: its curves, and its traces filtered, searched and sorted.

    run.metrics()  →  curves    ┐
    query string   →  Query     ├→  run.html.j2
    run.index      →  RunTable  ┘

A server filters and sorts. A static site lists all groups, some hundred a page, the most interesting ones first;
the marks of a group lead to its traces.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from markupsafe import Markup

from aipo.render.consults import UNASKED, silence_warning
from aipo.render.graph_svg import graph_svg
from aipo.trace import StopReason
from aipo.trace.filters import KINDS, Filter
from aipo.trace.index import TraceIndex
from aipo.viewer.data.consult_worth import consult_worth
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import source_of, state
from aipo.viewer.data.query import FIELDS, ORDERS, parse
from aipo.viewer.data.run_files import RunMetrics
from aipo.viewer.data.run_summary import agent_names, head, origins, score_table
from aipo.viewer.links import Links
from aipo.viewer.pages.curves import Curves, curves
from aipo.viewer.pages.run_table import RunTable
from aipo.viewer.responses import render

_STRANGERS = 40
_FAILED, _FLAWED, _SOUND = Filter(failed=True), Filter(flawed=True), Filter(flawed=False)
_ASSISTED = Filter(kind="assisted", failed=False)


def run_page(
    run: RunView, params: Mapping[str, str], links: Links, library: RunLibrary, *, now: float | None = None
) -> str:
    """The page as HTML.

    Args:
        params: the query string; of a static site only the number of the page.
        library: the runs that the page may link to.
        now: seconds since 1970; None where nothing is live.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: another file of the run cannot.
    """
    query, live = parse(params), links.live
    index = run.index
    version = run.version()  # before anything is read: what changes meanwhile is then seen as a change
    end = state(run, now)
    config, manifest, drawing = run.config(), run.manifest(), run.drawing()
    agents, strangers = agent_names(config, index.agents())
    table = RunTable(run=run, links=links, agents=agents)
    evaluations, replayed = run.evaluations(), run.replayed()
    # Only a run with relatives needs the whole library to be looked through.
    names = library.names() if run.evaluation or evaluations or replayed else {}
    return render(
        "run.html.j2",
        links,
        live=links.version(run.name) if live else None,
        version=f"{version} {end.state}",
        name=run.name,
        static=not live,
        head=head(config, manifest, run.warmup()),
        end=end,
        running=end.state == "running",
        steps=index.steps(),
        total=index.count(),
        failed=index.count(_FAILED),
        flawed=_flawed(index),
        curves=_curves(run.metrics(), (*agents, "unknown"), live),
        scores=score_table(evaluations),
        asking=consult_worth(
            run, tuple(agents), index.steps() if end.state == "running" else index.refresh()
        ),
        problems=[*run.problems(), *(_silence(index) if replayed is None else ())],
        replayed=replayed,
        compared=run.settings_compared(),
        result=run.replay(),
        source=source_of(run, names),
        evaluation_pages={name: names.get(run.folder / "evaluations" / name) for name in evaluations},
        graph=Markup(graph_svg(drawing)) if drawing else None,
        origins=origins(manifest),
        query=query,
        given={name: params.get(name, "") for name in FIELDS},
        orders=ORDERS,
        kinds=KINDS,
        stops=index.stops(),
        failing=[stop for stop in StopReason if stop.failed],
        agents=[*agents, *strangers[:_STRANGERS]],
        listing=table.matching(query) if live else table.static(query.page),
        page_link=(lambda page: query.link(page=page)) if live else (lambda page: links.run(run.name, page)),
    )


def _flawed(index: TraceIndex) -> int | None:
    """The number of rollouts that are rewarded although a step is wrong; None where no rewarded one was judged."""
    count = index.count(_FLAWED)
    return count if count or index.count(_SOUND) else None


def _silence(index: TraceIndex) -> list[str]:
    """The warning about a policy that never asks, if it does not."""
    assisted = index.count(_ASSISTED) if not index.agents() else 0
    return [silence_warning(assisted)] if assisted >= UNASKED else []


@lru_cache(maxsize=4)
def _curves(metrics: RunMetrics, agents: Sequence[str], leads: bool) -> Curves:
    """Made anew only when the metrics have changed: they are then another object."""
    return curves(metrics.rows, agents, leads=leads)
