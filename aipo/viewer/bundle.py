"""The static site: writes each page of a library to a file, for any web server or none.

Starting at the first page, links are followed: no link is dead, and every page can be reached. Each file is
written whole or not at all, and what only an earlier site had is removed last: one that fails leaves a usable site.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from aipo.errors import RunError
from aipo.util.console import Note
from aipo.util.files import taken, writing
from aipo.util.text import counted
from aipo.viewer.data.library import RunLibrary, RunView
from aipo.viewer.links import LEFT_OUT, group_path, trace_path
from aipo.viewer.responses import Page, static_files
from aipo.viewer.site import Site

MARK = ".aipo-bundle"
_FOLDERS = ("compare", "run", "static")


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
    site = Site(library, live=False, missing=missing)
    _write(out / MARK, b"A static site that `aipo view --static` wrote, and may write over.\n")
    files = {".nojekyll": Page(b"")} | {f"static/{name}": page for name, page in static_files().items()}
    if notes:
        files[LEFT_OUT] = site.notice(200, "Left out", " ".join(notes))
    paths = [*files, "index.html"]
    seen, faulty, size = set(paths), list[str](), 0
    for number, path in enumerate(paths, 1):  # it grows on the way
        page = files[path] if path in files else site.answer(path)
        _write(out / path, page.body)
        size += len(page.body)
        if page.status != 200:
            faulty.append(path)
        paths += sorted(page.follows - seen)
        seen |= page.follows
        note(number, len(paths), path[:60])
    _clear(out, {out / path for path in paths})
    return Bundle(out / "index.html", len(paths), size, tuple(faulty), notes)


def _left_out(runs: Collection[RunView], limit: int | None) -> tuple[set[str], tuple[str, ...]]:
    """Paths of the pages that are left out, and a sentence for each run."""
    missing: set[str] = set()
    notes: list[str] = []
    for run in runs:
        total, count = run.index.count(), 0
        if limit is None or total <= limit:
            continue
        groups = run.index.groups(limit=run.index.group_count())  # the most interesting first
        for group_id, traces in run.index.of_groups([group.group_id for group in groups]).items():
            if count + len(traces) <= limit:
                count += len(traces)
                continue
            missing.add(group_path(run.name, group_id))
            missing.update(trace_path(run.name, trace.trace_id) for trace in traces)
        notes.append(
            f"{run.name}: {count} of {counted(total, 'trace')} are here, the others were left out (--limit {limit})."
        )
    return missing, tuple(notes)


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    with writing(f"writing {path.name}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _clear(out: Path, kept: Collection[Path]) -> None:
    """Removes pages of an earlier bundle that this one does not have."""
    with writing("removing an earlier bundle's pages", out):
        for top in _FOLDERS:
            for folder, _, names in os.walk(out / top, topdown=False):
                for path in {Path(folder, name) for name in names}.difference(kept):
                    path.unlink()
                if not any(Path(folder).iterdir()):
                    Path(folder).rmdir()
        if out / LEFT_OUT not in kept:
            (out / LEFT_OUT).unlink(missing_ok=True)
