"""A run for pages: one set of traces, and the files around it.

No graph is imported and no model is loaded. Files are read again whenever they change.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer

from aipo import recorded
from aipo.errors import RunError
from aipo.evaluate.samples import SAMPLES, SampleResult, read_samples
from aipo.policies.text_tokenizer import TextTokenizer
from aipo.run import RunEnd, RunFolder, tokenizer_of
from aipo.trace import Mode, Trace
from aipo.trace.index import TraceIndex
from aipo.trace.store import list_traces
from aipo.trace.token_stats import TokenStats, TokenStatsStore
from aipo.viewer.data.run_files import (
    REPLAY,
    EvaluationFile,
    ReplayResult,
    RunMetrics,
    Splits,
    read_evaluation,
    read_metrics,
    read_replay,
)
from aipo.viewer.data.tokens import Texts, read_tokenizer, texts_of_tokens

_T = TypeVar("_T")
_NO_METRICS = RunMetrics()


@dataclass(eq=False, slots=True)
class RunView:
    """One set of traces and the files around it. Everything that reads a file raises a RunError if it cannot.

    Args:
        name: where it is below the library's folder; its id in links.
        folder: the run folder, with the configuration and the metrics; an evaluation's is its run's.
        traces: the folder with the traces.
        evaluation: name of the evaluation, None for a run.
    """

    name: str
    folder: Path
    traces: Path
    evaluation: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _read: dict[Path, tuple[tuple[int, int, int], Any]] = field(default_factory=dict[Path, Any])
    _index: TraceIndex | None = None
    _tokenizer: Tokenizer | None = None

    @property
    def place(self) -> Path:
        """The folder that is this run's alone: of an evaluation, that of its traces."""
        return self.folder if self.evaluation is None else self.traces

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def index(self) -> TraceIndex:
        """The traces, as they were at the last `refresh`.

        Raises:
            TraceError: a file is torn or of another schema version; names it.
        """
        with self._lock:
            if self._index is None:
                self._index = TraceIndex(self.traces)
            return self._index

    @property
    def _ended(self) -> Path:
        return RunFolder(self.place).ended

    def version(self) -> int:
        """A number that grows when there are new traces, metrics or evaluations.

        Raises:
            TraceError: see `index`.
        """
        files = [self.traces / SAMPLES] if self.evaluation else [self._run.metrics, self.folder / REPLAY]
        stamps = [_stamp(path) for path in [self._ended, *files, *self._evaluation_files()]]
        return self.index.refresh() + sum(stamp[2] for stamp in stamps if stamp)

    def size(self) -> tuple[int, int]:
        """Number of traces and of steps, without reading the traces."""
        sealed, journals = list_traces(self.traces)
        rows = [self._parsed(file.path, _rows) for file in sealed]
        lines = [self._parsed(file.path, _lines) for file in journals]
        steps = [file.step + 1 for file in (*sealed, *journals)]
        return sum(count or 0 for count in (*rows, *lines)), max(steps, default=0)

    def changed(self) -> float:
        """When a trace, a line of metrics or a score was last written, in seconds since 1970; 0.0 if never."""
        journals = [Path(entry.path) for entry in entries(self.traces / "__journal")]
        metrics = [self.traces / SAMPLES if self.evaluation else self._run.metrics]
        stamps = [_stamp(path) for path in [self.traces, *journals, *metrics, *self._evaluation_files()]]
        return max((stamp[1] / 1e9 for stamp in stamps if stamp), default=0.0)

    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, empty if there is none."""
        return self._parsed(self._run.config, _settings) or {}

    def metrics(self) -> RunMetrics:
        """One row for each optimizer step so far; an evaluation has none."""
        return (None if self.evaluation else self._parsed(self._run.metrics, read_metrics)) or _NO_METRICS

    def drawing(self) -> Mapping[str, Any] | None:
        """The graph as `aipo.render.graph_svg` takes it."""
        return self._parsed(self._run.graph, _json)

    def manifest(self) -> Mapping[str, Any]:
        """Versions and fingerprints of what the run used, empty if there is no such file."""
        return recorded.manifest(self._parsed(self._run.manifest, _json) or {})

    def warmup(self) -> Mapping[str, Any]:
        """How often the policy asks before and after a warm-up; empty in any other run."""
        return {} if self.evaluation else self._parsed(self._run.warmup, _json) or {}

    def end(self) -> RunEnd | None:
        """How the run ended; None while it runs, and where nobody wrote it down."""
        return self._parsed(self._ended, _end)

    def replay(self) -> ReplayResult | None:
        """The result, if the run is a replay and has ended."""
        return None if self.evaluation else self._parsed(self.folder / REPLAY, read_replay)

    def replayed(self) -> tuple[str, Path] | None:
        """What kind of replay the run is, and the folder that it replays; None if it is none."""
        origin = self.manifest().get("replay_of")
        if self.evaluation or not isinstance(origin, dict) or not isinstance(origin.get("path"), str):
            return None
        return str(origin.get("what", "")), Path(origin["path"])

    def settings_compared(self) -> Sequence[str]:
        """The settings that a replay compares, as recorded first; empty for all other runs."""
        names = self.manifest().get("settings")
        return [str(name) for name in names] if self.replayed() and isinstance(names, list) else []

    def evaluations(self) -> dict[str, Splits]:
        """The scores of the run's evaluations by name; an evaluation has itself."""
        return {name: evaluation.splits for name, evaluation in self._evaluations().items()}

    def samples(self) -> Sequence[SampleResult]:
        """Every sample of an evaluation so far; none in a run, or where nobody wrote them down."""
        return self._parsed(self.traces / SAMPLES, _samples) or () if self.evaluation else ()

    def setup(self) -> Mapping[str, Any]:
        """What an evaluation was asked for; empty where nobody wrote it down."""
        return self._parsed(self.traces / "setup.json", _json) or {} if self.evaluation else {}

    def problems(self) -> list[str]:
        """Sentences about wrong values in metrics and evaluations; each names the file."""
        return [
            problem for file in (self.metrics(), *self._evaluations().values()) for problem in file.problems
        ]

    def token_stats(self, trace_id: str, step: int) -> list[TokenStats]:
        """The token stats of a trace of rollout step `step`; an evaluation has none.

        Raises:
            TraceError: a file of token stats cannot be read.
        """
        return [] if self.evaluation else TokenStatsStore(self._run.token_stats).of(trace_id, step)

    def pushes(self, step: int) -> dict[int, float]:
        """What all rows of rollout step `step` weigh in each of its optimizer steps; empty where nobody recorded it.

        Raises:
            TraceError: a file of token stats cannot be read.
        """
        return {} if self.evaluation else TokenStatsStore(self._run.token_stats).pushes(step)

    def token_texts(self, trace: Trace) -> Texts:
        """A function of a segment's ids that returns the text of each token; None when the run kept no tokenizer."""
        if trace.mode is Mode.TEXT:
            return lambda ids: [TextTokenizer().decode([i]) for i in ids]
        with self._lock:
            if self._tokenizer is None and (folder := tokenizer_of(self._run)):
                self._tokenizer = read_tokenizer(folder)
            tokenizer = self._tokenizer
        return lambda ids: None if tokenizer is None else texts_of_tokens(tokenizer, ids)

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


def _end(path: Path) -> RunEnd:
    end = _json(path)
    return RunEnd(str(end.get("state", "")), str(end.get("reason", "")))


def _samples(path: Path) -> Sequence[SampleResult]:
    return read_samples(path.parent)


def _settings(path: Path) -> Mapping[str, Any]:
    return recorded.settings(_mapping(yaml.safe_load(path.read_text(encoding="utf-8"))))


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value
