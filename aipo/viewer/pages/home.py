"""The first page: every run and evaluation at a glance, and any two of them to be compared.

An evaluation stands below its run. Where there is no such run (`aipo eval --config`), it stands by itself.
"""

from dataclasses import dataclass
from itertools import combinations

from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import RunOverview, overview
from aipo.viewer.links import Links
from aipo.viewer.responses import render

MOST_PAIRED = 6


@dataclass(frozen=True, slots=True)
class RunLine:
    """One line of the table.

    Args:
        label: the name, without the part that the line above says.
        href: address of its page.
        part: it is an evaluation of the run above.
        rollouts: it has rollouts, or will have.
    """

    run: RunOverview
    label: str
    href: str
    part: bool

    @property
    def rollouts(self) -> bool:
        return self.run.kind == "run" or (self.run.kind == "replay" and self.run.traces > 0)


def home_page(library: RunLibrary, links: Links, *, now: float | None) -> str:
    """The page as HTML. `now`: seconds since 1970, None where nothing is live."""
    runs, places = library.runs(), library.names()
    names = [run.name for run in runs]
    trained = [run.name for run in runs if run.evaluation is None]
    # A static site has a page for every two runs, unless they are many.
    pairs = [] if links.live or len(names) > MOST_PAIRED else combinations(names, 2)
    rows = [_line(run, links, overview(run, now=now, places=places)) for run in runs]
    return render(
        "home.html.j2",
        links,
        live=links.version() if links.live else None,
        root=str(library.root) if links.live else library.root.name,
        rows=rows,
        running=any(row.run.state == "running" for row in rows),
        second=(trained[1:] or names[1:] or [""])[0],
        pairs=list(pairs),
    )


def _line(run: RunView, links: Links, line: RunOverview) -> RunLine:
    part = line.kind == "evaluation" and line.of is not None
    label = run.evaluation if part and run.evaluation else run.name
    return RunLine(line, label, links.run(run.name), part)
