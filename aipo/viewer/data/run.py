"""A run for pages: one set of traces, and the files around it.

No graph is imported and no model is loaded. Files are read again whenever they change.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import yaml

from aipo import recorded
from aipo.errors import RunError
from aipo.run import RunFolder
from aipo.trace.index import TraceIndex
from aipo.trace.store import list_traces
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from aipo.viewer.data.metrics_files import EvaluationFile, read_evaluation, read_metrics
from aipo.viewer.data.replay import FILE as REPLAY
from aipo.viewer.data.replay import ReplayResult, read_replay
from aipo.viewer.data.tokens import Tokens

_T = TypeVar("_T")


class RunView:
    """One set of traces and the files around it.

    Args:
        name: where it is below the library's folder; its id in links.
        folder: the run folder, with the configuration and the metrics; an evaluation's is its run's.
        traces: the folder with the traces.
        evaluation: name of the evaluation, None for a run.
        evaluations: where the run's evaluations are below the library's folder; None if they are not.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        traces: Path,
        evaluation: str | None = None,
        *,
        evaluations: str | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.traces = traces
        self.evaluation = evaluation
        self._evaluations_name = evaluations
        self._run = RunFolder(folder)
        self._lock = threading.RLock()
        self._read: dict[Path, tuple[tuple[int, int, int], Any]] = {}
        self._catalogue: TraceIndex | None = None
        self._tokens: Tokens | None = None

    @property
    def index(self) -> TraceIndex:
        """The traces, as they were at the last `refresh`.

        Raises:
            TraceError: a file is torn or of another schema version; names it.
        """
        with self._lock:
            if self._catalogue is None:
                self._catalogue = TraceIndex(self.traces)
            return self._catalogue

    def version(self) -> int:
        """A number that grows when there are new traces, metrics or evaluations.

        Raises:
            TraceError: see `index`.
        """
        files = [] if self.evaluation else [self._run.metrics, self.folder / REPLAY]
        stamps = [_stamp(path) for path in [*files, *self._evaluation_files()]]
        return self.index.refresh() + sum(stamp[2] for stamp in stamps if stamp)

    def size(self) -> tuple[int, int]:
        """Number of traces and of steps, without reading the traces.

        Raises:
            RunError: a file is torn.
        """
        sealed, journals = list_traces(self.traces)
        rows = [self._parsed(file.path, _rows) for file in sealed]
        lines = [self._parsed(file.path, _lines) for file in journals]
        steps = [file.step + 1 for file in (*sealed, *journals)]
        return sum(count or 0 for count in (*rows, *lines)), max(steps, default=0)

    def changed(self) -> float:
        """When a trace, a line of metrics or a score was last written, in seconds since 1970; 0.0 if never."""
        journals = [entry.path for entry in entries(self.traces / "__journal")]
        metrics = [] if self.evaluation else [self._run.metrics]
        stamps = [
            _stamp(Path(path)) for path in [self.traces, *journals, *metrics, *self._evaluation_files()]
        ]
        return max((stamp[1] / 1e9 for stamp in stamps if stamp), default=0.0)

    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, empty if there is none.

        Raises:
            RunError: the file is no mapping in YAML.
        """
        return self._parsed(self._run.config, _settings) or {}

    def metrics(self) -> list[dict[str, float | None]]:
        """One row for each optimizer step so far; an evaluation has none. For values that are no numbers see `problems`.

        Raises:
            RunError: the file cannot be read.
        """
        file = None if self.evaluation else self._parsed(self._run.metrics, read_metrics)
        return [] if file is None else file.rows

    def drawing(self) -> Mapping[str, Any] | None:
        """The graph as `aipo.render.graph_svg` takes it.

        Raises:
            RunError: the file is no object in JSON.
        """
        return self._parsed(self._run.graph, _json)

    def manifest(self) -> Mapping[str, Any] | None:
        """Versions and fingerprints of what the run used.

        Raises:
            RunError: the file is no object in JSON.
        """
        return self._parsed(self._run.manifest, _json)

    def replay(self) -> ReplayResult | None:
        """The result, if the run is a replay and has ended.

        Raises:
            RunError: the file has another shape.
        """
        return None if self.evaluation else self._parsed(self.folder / REPLAY, read_replay)

    def replayed(self) -> tuple[str, Path] | None:
        """What kind of replay the run is, and the folder that it replays; None if it is none."""
        origin = (self.manifest() or {}).get("replay_of")
        if self.evaluation or not isinstance(origin, dict) or not isinstance(origin.get("path"), str):
            return None
        return str(origin.get("what", "")), Path(origin["path"])

    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """The run's evaluations by name; an evaluation has itself. For values that are no scores see `problems`.

        Raises:
            RunError: a file cannot be read.
        """
        return {name: evaluation.splits for name, evaluation in self._evaluations().items()}

    def problems(self) -> list[str]:
        """Sentences about wrong values in metrics and evaluations; each names the file.

        Raises:
            RunError: a file cannot be read.
        """
        metrics = None if self.evaluation else self._parsed(self._run.metrics, read_metrics)
        files = [metrics, *self._evaluations().values()]
        return [problem for file in files if file is not None for problem in file.problems]

    def page_of(self, evaluation: str) -> str | None:
        """The name under which the library has the evaluation of this run; None if it has no traces of it."""
        if self._evaluations_name is None or not any(list_traces(self.folder / "evaluations" / evaluation)):
            return None
        return f"{self._evaluations_name}/{evaluation}"

    def token_stats(self, trace_id: str, step: int) -> list[TokenStats]:
        """The token stats of a trace of rollout step `step`; an evaluation has none.

        Raises:
            TraceError: a file of token stats cannot be read.
        """
        return [] if self.evaluation else TokenStatsStore(self._run.token_stats).of(trace_id, step)

    def token_texts(self, ids: Sequence[int]) -> list[str] | None:
        """Text of each token; None when the run kept no tokenizer."""
        with self._lock:
            if self._tokens is None:
                self._tokens = Tokens.find([self._run.tokenizer, self._run.model])
            return None if self._tokens is None else self._tokens.texts(ids)

    def _evaluations(self) -> dict[str, EvaluationFile]:
        files = {path.stem: self._parsed(path, read_evaluation) for path in self._evaluation_files()}
        return {name: value for name, value in files.items() if value is not None}

    def _evaluation_files(self) -> list[Path]:
        if self.evaluation is not None:
            return [self._run.evaluation(self.evaluation)]
        paths = [Path(entry.path) for entry in entries(self.folder / "evaluations")]
        return [path for path in paths if path.suffix == ".json" and not path.name.startswith(".")]

    def _parsed(self, path: Path, parse: Callable[[Path], _T]) -> _T | None:
        """A file's content, parsed again when it has changed; None if there is none."""
        stamp = _stamp(path)
        if stamp is None:
            return None
        with self._lock:
            cached = self._read.get(path)
            if cached is None or cached[0] != stamp:
                try:
                    cached = self._read[path] = stamp, parse(path)
                except FileNotFoundError:
                    return None
                except (ValueError, OSError, RecursionError, yaml.YAMLError) as error:
                    raise RunError(
                        f"{path.name}: got {error}, allowed what `aipo` writes, in {path}"
                    ) from error
            return cached[1]


def entries(folder: Path) -> Sequence["os.DirEntry[str]"]:
    """Entries of a folder by name; none if it cannot be read."""
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _rows(path: Path) -> int:
    return pq.read_metadata(path).num_rows


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _json(path: Path) -> Mapping[str, Any]:
    return _mapping(json.loads(path.read_text(encoding="utf-8")))


def _settings(path: Path) -> Mapping[str, Any]:
    return recorded.settings(_mapping(yaml.safe_load(path.read_text(encoding="utf-8"))))


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value
