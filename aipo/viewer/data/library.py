"""The library: finds the runs below a folder.

A run here is any set of traces: what a training run left, or one of its evaluations.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

from aipo.errors import RunError
from aipo.run import POLICIES
from aipo.viewer.data.run import RunView, entries

__all__ = ["RunLibrary", "RunView"]

_DEPTH = 4
_NEVER = {"checkpoints", "lessons", "token_stats", "model", "tokenizer", "traces"}


class RunLibrary:
    """Every run in a folder: the folder itself if it is one, else all below it, four levels deep.

    Raises:
        RunError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise RunError(f"viewer: got {root}, allowed a run folder, or a folder with runs in it")
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, Path], RunView] = {}

    def runs(self) -> list[RunView]:
        """All runs at this moment, by folder; the evaluations of a run come after it."""
        with self._lock:
            runs = {(run.name, run.traces): run for run in self._scan(self.root, 0)}
            self._runs = {key: self._runs.get(key, run) for key, run in runs.items()}
            return sorted(self._runs.values(), key=lambda run: run.place.parts)

    def run(self, name: str) -> RunView:
        """The run of this name.

        Raises:
            RunError: there is none; says which there are.
        """
        cached = next((run for run in list(self._runs.values()) if run.name == name), None)
        if cached is not None and cached.traces.is_dir():
            return cached
        runs = {run.name: run for run in self.runs()}
        if name not in runs:
            raise RunError(f"run: got {name!r}, allowed {', '.join(runs) or 'no run at all'}, in {self.root}")
        return runs[name]

    def names(self) -> dict[Path, str]:
        """Names of all runs at this moment, by the folder of their traces."""
        return {run.traces: run.name for run in self.runs()}

    def _scan(self, folder: Path, depth: int) -> Iterator[RunView]:
        if depth == 0 and _holds_traces(folder):
            yield self._view_of_traces(folder)
            return
        shared = (folder / POLICIES).is_dir()  # by several policies, each of which has its own run there
        is_run = _holds_traces(folder / "traces") or (_begun(folder) and not shared)
        if is_run:
            yield RunView(self.name_of(folder), folder, folder / "traces")
        for entry in entries(folder / "evaluations"):
            if _holds_traces(Path(entry.path)):
                yield RunView(self.name_of(Path(entry.path)), folder, Path(entry.path), entry.name)
        if not is_run and depth < _DEPTH:
            for entry in entries(folder):
                searched = entry.name[0] not in "._" and entry.name not in _NEVER
                if searched and entry.is_dir(follow_symlinks=False):
                    yield from self._scan(Path(entry.path), depth + 1)

    def _view_of_traces(self, folder: Path) -> RunView:
        """The folder is one set of traces; its run, if it belongs to one, lies above."""
        if folder.parent.name == "evaluations":
            return RunView(folder.name, folder.parents[1], folder, folder.name)
        above = folder.parent if folder.name == "traces" else folder
        return RunView(above.name, above, folder)

    def name_of(self, folder: Path) -> str:
        """Where a folder is below the library's."""
        return folder.relative_to(self.root).as_posix() if folder != self.root else self.root.name


def _holds_traces(folder: Path) -> bool:
    names = [entry.name for entry in entries(folder)]
    sealed = any(name.startswith("step-") and name.endswith(".parquet") for name in names)
    return sealed or ("__journal" in names and any(entries(folder / "__journal")))


def _begun(folder: Path) -> bool:
    """A run that has no trace yet."""
    return (folder / "config.yaml").is_file() and (folder / "manifest.json").is_file()
