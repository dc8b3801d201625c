"""The static site: writes every page of a library to a file, for any web server or none.

Starting at the first page, links are followed: no link is dead, and every page can be reached. Each file is
written whole or not at all.
"""

import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from aipo.errors import RunError
from aipo.util.console import Note
from aipo.util.files import taken, writing
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.links import LEFT_OUT, group_path, trace_path
from aipo.viewer.responses import Page, static_files
from aipo.viewer.site import Site

MARK = ".aipo-bundle"
_OURS = ("compare", "run", "static")
_GROUPS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Bundle:
    """A static site on disk.

    Args:
        first: the file to open.
        files: how many there are.
        size: bytes of all of them.
        faulty: paths of pages that hold an error message.
        notes: a sentence for each run of which traces were left out.
    """

    first: Path
    files: int
    size: int
    faulty: tuple[str, ...]
    notes: tuple[str, ...]


def write_bundle(
    library: RunLibrary, out: Path, *, limit: int | None = None, note: Note = lambda done, total, text: None
) -> Bundle:
    """Writes the static site of `library` into `out`, over one that is there already.

    Args:
        limit: the most traces of each run: whole groups, the most interesting ones first. None = all.
        note: told how far it is.

    Raises:
        RunError: there is no run, `out` holds something else, or it cannot be written.
        TraceError: traces that have to be counted cannot be read.
    """
    runs = library.runs()
    if not runs:
        raise RunError(f"--static: got {library.root}, which has no runs, allowed a folder with runs in it")
    if taken(out) and not (out / MARK).is_file():
        raise RunError(f"--static: got {out}, which is not empty, allowed a new folder or an earlier bundle")
    missing, notes = _left_out(runs, limit)
    site = Site(library, live=False, has=lambda path: missing.isdisjoint(_needed(path)))
    sizes: dict[str, int] = {}
    faulty: list[str] = []
    _write(out / MARK, b"A static site that `aipo view --static` wrote, and may write over.\n")
    for path, page, waiting in _pages(site, notes):
        _write(out / path, page.body)
        sizes[path] = len(page.body)
        if page.status != 200:
            faulty.append(path)
        note(len(sizes), len(sizes) + waiting, f"{path[:60]}")
    _clear(out, sizes)
    return Bundle(out / "index.html", len(sizes), sum(sizes.values()), tuple(faulty), notes)


def _pages(site: Site, notes: Collection[str]) -> Iterator[tuple[str, Page, int]]:
    """Every file of the site, and how many more are waiting."""
    files = {".nojekyll": Page(b"")} | {f"static/{name}": page for name, page in static_files().items()}
    if notes:
        files[LEFT_OUT] = site.notice(200, "Left out", " ".join(notes))
    seen = {"index.html", *files}
    queue = deque(["index.html"])
    for path, page in files.items():
        yield path, page, len(queue)
    while queue:
        path = queue.popleft()
        page = site.answer(path)
        fresh = sorted(page.follows - seen)
        seen.update(fresh)
        queue.extend(fresh)
        yield path, page, len(queue)


def _left_out(runs: Collection[RunView], limit: int | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """Paths of the pages that are left out, and a sentence for each run."""
    if limit is None:
        return frozenset(), ()
    missing: set[str] = set()
    notes: list[str] = []
    for run in runs:
        total, count = run.index.count(), 0
        if total <= limit:
            continue
        for group_id, trace_ids in _groups(run):
            if count + len(trace_ids) <= limit:
                count += len(trace_ids)
                continue
            missing.add(group_path(run.name, group_id))
            missing.update(trace_path(run.name, trace_id) for trace_id in trace_ids)
        notes.append(
            f"{run.name}: {count} of {total} traces are here, the others were left out (--limit {limit})."
        )
    return frozenset(missing), tuple(notes)


def _groups(run: RunView) -> Iterator[tuple[str, list[str]]]:
    """Groups and their traces, the most interesting group first."""
    for offset in range(0, run.index.group_count(), _GROUPS_AT_ONCE):
        groups = run.index.groups(limit=_GROUPS_AT_ONCE, offset=offset)
        for group_id, traces in run.index.of_groups([group.group_id for group in groups]).items():
            yield group_id, [trace.trace_id for trace in traces]


def _needed(path: str) -> set[str]:
    """Pages that `path` needs: the two traces of a comparison, otherwise the page itself."""
    match path.removesuffix(".html").split("/"):
        case ["compare", first, left, second, right]:
            return {f"run/{first}/trace/{left}.html", f"run/{second}/trace/{right}.html"}
        case _:
            return {path}


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    with writing(f"writing {path.name}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)


def _clear(out: Path, paths: Collection[str]) -> None:
    """Removes pages of an earlier bundle that this one does not have."""
    with writing("removing an earlier bundle's pages", out):
        for top in _OURS:
            for folder, _, names in os.walk(out / top, topdown=False):
                for name in names:
                    path = Path(folder, name)
                    if path.relative_to(out).as_posix() not in paths:
                        path.unlink()
                if not any(Path(folder).iterdir()):
                    Path(folder).rmdir()
        if LEFT_OUT not in paths:
            (out / LEFT_OUT).unlink(missing_ok=True)
