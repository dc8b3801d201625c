"""The first page: every run and evaluation at a glance, and any two of them to be compared.

An evaluation stands below its run. Where there is no such run (`aipo eval --config`), it stands by itself.
"""

from itertools import combinations

from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.overview import overview
from aipo.viewer.links import Links
from aipo.viewer.responses import render

MOST_PAIRED = 6


def home_page(library: RunLibrary, links: Links, *, now: float | None) -> str:
    """The page as HTML. `now`: seconds since 1970, None where nothing is live."""
    places = library.names()
    rows = [overview(run, now=now, places=places) for run in library.runs()]
    names = [row.name for row in rows]
    trained = [row.name for row in rows if row.kind != "evaluation"]
    # A static site has a page for every two runs, unless they are many.
    pairs = [] if links.live or len(names) > MOST_PAIRED else combinations(names, 2)
    return render(
        "home.html.j2",
        links,
        live=links.version() if links.live else None,
        root=str(library.root) if links.live else library.root.name,
        rows=rows,
        running=any(row.state == "running" for row in rows),
        second=(trained[1:] or names[1:] or [""])[0],
        pairs=list(pairs),
    )
