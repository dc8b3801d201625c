"""The first page: every run and evaluation at a glance, and any two of them to be compared."""

from dataclasses import dataclass
from itertools import combinations

from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import RunOverview, overview
from aipo.viewer.links import Links
from aipo.viewer.responses import render

MOST_PAIRED = 6


@dataclass(frozen=True, slots=True)
class RunLine:
    """One line of the table: a run, with its name as the table says it (without the part that the line above says)
    and the address of its page."""

    run: RunOverview
    label: str
    href: str


def home_page(library: RunLibrary, links: Links, *, now: float | None) -> str:
    """The page as HTML. `now`: seconds since 1970, None where nothing is live."""
    runs = library.runs()
    names = [run.name for run in runs]
    trained = [run.name for run in runs if run.evaluation is None]
    # A static site has a page for every two runs, unless they are many.
    pairs = [] if links.live or len(names) > MOST_PAIRED else combinations(names, 2)
    return render(
        "home.html.j2",
        links,
        live=links.version() if links.live else None,
        root=str(library.root) if links.live else library.root.name,
        rows=[_line(run, links, now) for run in runs],
        second=(trained[1:] or names[1:] or [""])[0],
        pairs=list(pairs),
    )


def _line(run: RunView, links: Links, now: float | None) -> RunLine:
    below = run.name.rpartition("/evaluations/")[2] if run.evaluation else run.name
    return RunLine(overview(run, now=now), below, links.run(run.name))
