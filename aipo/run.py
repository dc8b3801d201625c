"""A run folder: everything that one run leaves behind.

config.yaml      resolved configuration (names of secret variables, never their values)
manifest.json    versions; file and fingerprint of every graph, prompt and file of the environment
graph.json       the drawing of the graph, so that no viewer has to import it
tokenizer/       the policy's, so that every reader can tell a token's text
traces/          every trace, as it finished
token_stats/     what the trainer did with each token of them
metrics.jsonl    one line per optimizer step; rehearsal.jsonl: what the policy rehearses
spending.jsonl   what the agents of each rollout cost, where they have prices
checkpoints/     each between two rollout steps
model/           the trained policy
policies/        where several policies learn together: a run folder for each; abilities.jsonl: what each could do
evaluations/     one JSON file per evaluation, its tables in Markdown, and a folder with its samples and traces
warmup.json      of a warm-up: how often the policy asks before and after
exports/         what `aipo export` wrote
ended.json       how it ended, and why; not there while it runs
"""

import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from aipo import recorded
from aipo.errors import LimitError, RunError
from aipo.util.files import exclusive, missing, remove_empty, taken, write_json, writing
from aipo.util.termination import TERMINATION
from aipo.util.text import error_text

POLICIES = "policies"  # the folder, in that of a run, with a run folder for each of several policies


class RunFolder:
    """Paths of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.graph = path / "graph.json"
        self.tokenizer = path / "tokenizer"
        self.traces = path / "traces"
        older = path / "lessons"
        self.token_stats = older if older.is_dir() else path / "token_stats"
        self.metrics, self.rehearsal = path / "metrics.jsonl", path / "rehearsal.jsonl"
        self.spending = path / "spending.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.warmup = path / "warmup.json"
        self.abilities = path / "abilities.jsonl"
        self.ended = path / "ended.json"

    @classmethod
    def create(cls, path: Path, *, resume: bool = False) -> "RunFolder":
        """Makes the folder, or takes it up again.

        Raises:
            RunError: it holds files and `resume` is off, or `resume` is on and there is no run in it, or it
                cannot be made.
        """
        cls.check(path, resume=resume)
        with writing("run.out", path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def check(cls, path: Path, *, resume: bool = False) -> None:
        """Refuses a folder that `create` would refuse, and makes nothing.

        Raises:
            RunError: it holds files and `resume` is off, or `resume` is on and there is no run in it.
        """
        with writing("run.out", path):
            if not resume and taken(path):
                raise RunError(f"run.out: got {path}, which is not empty, allowed a new folder (or --resume)")
            if resume and not (path / "config.yaml").is_file():
                raise RunError(f"--resume: got {path}, allowed a folder with a config.yaml of a run")

    @classmethod
    @contextmanager
    def taken(cls, path: Path, *, resume: bool = False) -> Generator["RunFolder"]:
        """`create`, and no other process writes it for as long as the run lasts. A new run that fails before its first
        trace removes what it has made, and nothing else.

        Raises:
            RunError: see `create`; or another process holds it.
        """
        new = missing(path)
        folder = cls.create(path, resume=resume)
        with exclusive(path):
            cls.check(path, resume=resume)  # another process may have had it until now
            before = {*path.iterdir()} - {path / ".lock"}
            try:
                yield folder
            except Exception:
                if not resume:
                    _undo({*path.iterdir()} - before, new)
                raise

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run.

        Raises:
            RunError: `path` holds no config.yaml.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise RunError(f"run folder: got {path}, allowed a folder with a config.yaml of a run")
        return folder

    def of_policy(self, name: str) -> "RunFolder":
        """The folder of one of several policies that learn together."""
        return RunFolder(self.path / POLICIES / name)

    @contextmanager
    def evaluation_taken(self, name: str) -> Generator[None]:
        """During the body no other process makes this evaluation; how it ends is written beside its traces. If it fails
        before the first trace, what it has made is removed; the tokenizer only where no other evaluation is.

        Raises:
            RunError: another process makes it, or the folder cannot be written.
        """
        place = self.evaluation_traces(name)
        new = missing(place)
        tokenizer = [] if self.tokenizer.exists() else [self.tokenizer]
        with writing("run.out", place):
            place.mkdir(parents=True, exist_ok=True)
        with exclusive(place):
            try:
                with recorded_end(RunFolder(place)):
                    yield
            except Exception:
                if new:
                    # Another evaluation needs the tokenizer, whichever of the two has written it.
                    others = any(entry != place for entry in place.parent.iterdir())
                    _undo([*place.iterdir(), *(() if others else tokenizer)], new)
                raise

    def evaluation(self, name: str) -> Path:
        """File of the evaluation called `name`."""
        return self.path / "evaluations" / f"{name}.json"

    def evaluation_traces(self, name: str) -> Path:
        """Folder of the traces that the evaluation called `name` has kept."""
        return self.path / "evaluations" / name

    def read_evaluation(self, name: str) -> dict[str, Any]:
        """The evaluation called `name`: split → setting → result.

        Raises:
            RunError: its file is no evaluation.
        """
        return recorded.evaluation(_read_json(self.evaluation(name), "evaluation", "`aipo eval`"))

    def read_warmup(self) -> dict[str, Any]:
        """What a warm-up has measured so far, `before` and `after`; empty in any other run.

        Raises:
            RunError: its file is none.
        """
        return _read_json(self.warmup, "warm-up", "`aipo warmup`") if self.warmup.is_file() else {}

    def read_date(self) -> datetime.date | None:
        """The day that its chat template is told; None in a run from before this was recorded.

        Raises:
            RunError: its configuration says no day.
        """
        if not self.config.is_file():
            return None
        try:
            settings = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            date = settings.get("run", {}).get("date")
            return date if date is None else datetime.date.fromisoformat(str(date))
        except (yaml.YAMLError, ValueError, AttributeError) as error:
            raise RunError(
                f"run.date in {self.config}: got {error}, allowed a day like 2026-01-31"
            ) from error

    def read_manifest(self) -> dict[str, Any]:
        """The manifest of the run; empty if it has none.

        Raises:
            RunError: its file is no manifest.
        """
        if not self.manifest.is_file():
            return {}
        return recorded.manifest(_read_json(self.manifest, "manifest", "a run"))

    def read_metrics(self, last: int = 0) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl that are complete, all or the `last` ones; a torn last line is being written right now."""
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8")
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        rows: list[dict[str, Any]] = [json.loads(line) for line in whole[-last:]]
        return [{recorded.metric(name): value for name, value in row.items()} for row in rows]


def _undo(made: Collection[Path], folders: Sequence[Path]) -> None:
    """Removes what a run that failed has made, and then those of `folders` that are empty, inner ones first. If it has made
    more than what every run begins with, all of it stays; a file without content is nothing."""
    begin = {"config.yaml", "manifest.json", "graph.json", "tokenizer", "ended.json", "setup.json"}
    results = [entry for entry in made if entry.name not in begin and not entry.name.startswith(".")]
    files = (file for entry in results for file in [entry, *entry.rglob("*")] if file.is_file())
    if any(file.stat().st_size for file in files):
        return
    for entry in made:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    remove_empty(folders)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: `finished`, `stopped` (it can go on with --resume) or `failed`.

    Args:
        reason: one line; empty where it finished.
    """

    state: str
    reason: str = ""

    @classmethod
    def by(cls, error: BaseException) -> "RunEnd":
        """The end of a run that `error` ends."""
        first, *_ = error_text(error).splitlines()
        if isinstance(error, KeyboardInterrupt):
            ended = TERMINATION.asked
            return cls("stopped", ended.name if ended else "interrupted (Ctrl-C)")
        if isinstance(error, LimitError | SystemExit):
            return cls("stopped", first)
        return cls("failed", first)


@contextmanager
def recorded_end(folder: RunFolder) -> Generator[None]:
    """Writes down how the body ends, however that is; until then there is no word of an end.

    Raises:
        RunError: the folder cannot be written.
    """
    with writing("taking up the run", folder.path):
        folder.ended.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        with suppress(RunError):  # a full disk may be what ended it
            write_json(folder.ended, asdict(RunEnd.by(error)))
        raise
    write_json(folder.ended, asdict(RunEnd("finished")))


def _read_json(file: Path, what: str, writer: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except ValueError as error:
        raise RunError(f"{what} {file}: got {error}, allowed what {writer} has written") from error
    return value


def keep_tokenizer(folder: RunFolder, save: Callable[[str], object]) -> None:
    """Has the policy's tokenizer saved into the folder, unless it is there; whole or not at all.

    Raises:
        RunError: the disk is full or broken, or the folder cannot be written.
    """
    if folder.tokenizer.is_dir():
        return
    with writing("saving the tokenizer", folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.path, prefix=".tokenizer.") as draft:
            save(f"{draft}/tokenizer")
            os.replace(f"{draft}/tokenizer", folder.tokenizer)


def run_of(traces: Path) -> RunFolder:
    """The folder with what is known of the run that these traces are from: RUN/traces, RUN/evaluations/NAME,
    or a folder of traces that stands by itself."""
    if traces.parent.name == "evaluations":
        return RunFolder(traces.parent.parent)
    return RunFolder(traces.parent if traces.name == "traces" else traces)


def tokenizer_of(run: RunFolder) -> Path | None:
    """The folder of the run's tokenizer; a trained policy has one, too. None where there is none."""
    folders = (run.tokenizer, run.model)
    return next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
