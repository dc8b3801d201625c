"""The site: turns a path and a query string into a page. The server and the static site both use it."""

import logging
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from aipo.errors import AipoError, RunError
from aipo.trace.filters import Filter
from aipo.util.text import visible
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.data.overview import state
from aipo.viewer.links import Links, compare_path, slug, unslug
from aipo.viewer.pages.compare.runs import compare_runs
from aipo.viewer.pages.compare.traces import compare_traces
from aipo.viewer.pages.evaluation import evaluation_page
from aipo.viewer.pages.group import group_page
from aipo.viewer.pages.home import home_page
from aipo.viewer.pages.run import run_page
from aipo.viewer.pages.task import find_task, task_page
from aipo.viewer.pages.trace import trace_page
from aipo.viewer.responses import Page, digest, json_page, render, static_files

_log = logging.getLogger("aipo.viewer")
_MISSING = "There is no such page. The run or the trace may have been moved or deleted."
_UNEXPECTED = "Something went wrong that should not have. The terminal that runs the viewer says what."


class Site:
    """All pages of a library.

    Args:
        library: the runs.
        live: a server answers: pages keep up to date, forms have an effect.
        missing: pages that were left out, see `Links`.
    """

    def __init__(self, library: RunLibrary, *, live: bool, missing: Collection[str] = frozenset()) -> None:
        self.library = library
        self._live = live
        self._missing = missing

    def answer(self, path: str, query: Mapping[str, str] | None = None) -> Page:
        """The page at `path`, or a page with the error, which is also logged."""
        depth = path.count("/")
        try:
            page = self.page(path, query or {})
        except AipoError as error:
            _log.error("%s: %s", visible(path), visible(str(error)))
            return self.notice(500, "This page cannot be shown", str(error), depth)
        except Exception:
            _log.exception("%s failed", visible(path))
            return self.notice(500, "This page cannot be shown", _UNEXPECTED, depth)
        return self.notice(404, "Not found", _MISSING, depth) if page is None else page

    def notice(self, status: int, title: str, message: str, depth: int = 0) -> Page:
        """A page that holds a message."""
        return self._html(
            depth, lambda links: render("notice.html.j2", links, title=title, message=message), status
        )

    def _html(self, depth: int, build: Callable[[Links], str], status: int = 200) -> Page:
        """A page that lies `depth` folders below the first one."""
        links = Links(depth, live=self._live, missing=self._missing)
        body = build(links).encode("utf-8", "replace")
        return Page(body, status=status, follows=frozenset(links.followed))

    def page(self, path: str, query: Mapping[str, str]) -> Page | None:
        """The page at `path`, from the site's root; None if there is none.

        Raises:
            AipoError: the page is there, but what it shows cannot be read.
        """
        match path.split("/"):
            case [""] | ["index.html"]:
                return self._html(0, lambda links: home_page(self.library, links, now=self._now()))
            case ["static", name]:
                return static_files().get(name)
            case ["version"] if self._live:
                return self._version()
            case ["compare"] if self._live:
                return self._chosen(query)
            case ["compare", *names, file] if file.endswith(".html"):
                return self._compare([*names, file.removesuffix(".html")])
            case ["run", name, *rest]:
                run = self._run(name)
                return None if run is None else self._of_run(run, rest, query)
            case _:
                return None

    def _of_run(self, run: RunView, rest: Sequence[str], query: Mapping[str, str]) -> Page | None:
        first = run_page if run.evaluation is None else evaluation_page
        match rest:
            case [""] | ["index.html"]:
                return self._html(2, lambda links: first(run, query, links, self.library, now=self._now()))
            case ["traces.html"] if self._live and run.evaluation is not None:
                return self._html(2, lambda links: run_page(run, query, links, self.library, now=self._now()))
            case [file] if not self._live and (number := re.fullmatch(r"page-(\d+)\.html", file)):
                page = {"page": number[1]}
                return self._html(2, lambda links: first(run, page, links, self.library))
            case ["task", split, file] if run.evaluation is not None and file.endswith(".html"):
                run.index.refresh()
                key = find_task(run, split, file.removesuffix(".html"))
                return None if key is None else self._html(4, lambda links: task_page(run, key, links))
            case ["version"] if self._live:
                return json_page({"version": f"{run.version()} {_state(run, self._now())}"})
            case ["trace" | "group" as kind, file] if file.endswith(".html"):
                name = _id_of(run, kind, file.removesuffix(".html"))
                build = partial(trace_page, library=self.library) if kind == "trace" else group_page
                return None if name is None else self._html(3, lambda links: build(run, name, links))
            case _:
                return None

    def _compare(self, names: Sequence[str]) -> Page | None:
        """Two runs, or twice a run and a trace."""
        if len(names) not in (2, 4):
            return None
        left, right = (self._run(name) for name in names[:: len(names) // 2])
        if left is None or right is None:
            return None
        if len(names) == 2:
            left.index.refresh()
            right.index.refresh()
            return self._html(2, lambda links: compare_runs(left, right, links))
        left_id, right_id = _id_of(left, "trace", names[1]), _id_of(right, "trace", names[3])
        if left_id is None or right_id is None:
            return None
        return self._html(4, lambda links: compare_traces(left, left_id, right, right_id, links))

    def _chosen(self, query: Mapping[str, str]) -> Page:
        """From the form with two runs to their page."""
        left, right = query.get("left", ""), query.get("right", "")
        if left == right or not {left, right} <= {run.name for run in self.library.runs()}:
            return self.notice(400, "Two runs are compared", "Choose two different runs, A and B.")
        return Page(b"", status=303, location=compare_path(left, right))

    def _version(self) -> Page:
        runs, now = self.library.runs(), self._now()
        changes = [f"{run.name} {run.changed()} {_state(run, now)}" for run in runs]
        return json_page({"version": digest("\n".join(changes).encode("utf-8", "replace"))})

    def _now(self) -> float | None:
        return time.time() if self._live else None

    def _run(self, text: str) -> RunView | None:
        """The run whose slug is `text`."""
        name = unslug(text)
        if name is None:  # it was shortened
            return next((run for run in self.library.runs() if slug(run.name) == text), None)
        try:
            return self.library.run(name)
        except RunError:
            return None


def _state(run: RunView, now: float | None) -> str:
    try:
        return state(run, now).state
    except AipoError:  # the page says what is wrong with the file
        return ""


def _id_of(run: RunView, kind: str, text: str) -> str | None:
    """The id of a trace or a group whose slug is `text`, as of now; None if there is none."""
    run.index.refresh()
    name = unslug(text)
    if name is None:  # it was shortened
        ids = run.index.sql(f"SELECT DISTINCT {kind}_id FROM summaries")[1]
        return next((name for (name,) in ids if slug(name) == text), None)
    exists = run.index.count(Filter(group=name)) if kind == "group" else run.index.summary(name)
    return name if exists else None
