"""A run folder: everything that one run leaves behind.

config.yaml      resolved configuration (names of secret variables, never their values)
manifest.json    versions; file and fingerprint of every graph, prompt and file of the environment
graph.json       the drawing of the graph, so that no viewer has to import it
tokenizer/       the policy's, so that every reader can tell a token's text
traces/          every trace, as it finished
lessons/         what the trainer did with each token of them
metrics.jsonl    one line per optimiser step
spending.jsonl   what the agents of each rollout cost, where they have prices
checkpoints/     at generation boundaries
model/           the trained policy
evaluations/     one JSON file per evaluation
exports/         what `aipo export` wrote
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aipo.errors import RunError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, resume: bool = False) -> "RunFolder":
        """Makes the folder, or takes it up again.

        Raises:
            RunError: it holds files and `resume` is off, or `resume` is on and there is no run in it, or it
                cannot be made.
        """
        folder = cls(path)
        with writing("run.out", path):
            if not resume and taken(path):
                raise RunError(f"run.out: got {path}, which is not empty, allowed a new folder (or --resume)")
            if resume and not folder.config.is_file():
                raise RunError(f"--resume: got {path}, allowed a folder with a config.yaml of a run")
            path.mkdir(parents=True, exist_ok=True)
        return folder

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

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def graph(self) -> Path:
        return self.path / "graph.json"

    @property
    def traces(self) -> Path:
        return self.path / "traces"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def lessons(self) -> Path:
        return self.path / "lessons"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def spending(self) -> Path:
        return self.path / "spending.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

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
        return _read_json(self.evaluation(name), "evaluation", "`aipo eval`")

    def read_manifest(self) -> dict[str, Any]:
        """What the run is made of; empty where that is not written down.

        Raises:
            RunError: its file is no manifest.
        """
        return _read_json(self.manifest, "manifest", "a run") if self.manifest.is_file() else {}

    def read_metrics(self, last: int = 0) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl that are complete, all or the `last` ones; a torn last line is being written right now."""
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8")
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole[-last:]]


def _read_json(file: Path, what: str, writer: str) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{what} {file}: got {error}, allowed what {writer} has written") from error


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


def taken(path: Path) -> bool:
    """Is there a file, or a folder that holds something? Hidden files do not count: a run that was killed before
    it began has left its lock."""
    return path.exists() and (
        not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())
    )


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Keeps other processes from writing the same run; the lock goes with the process, however it ends.

    Raises:
        RunError: another process holds it.
    """
    with writing("run folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"run folder: got {folder}, which another process is writing, allowed one at a time"
            ) from None
    try:
        yield
    finally:
        lock.release()


def busy(folder: Path) -> bool:
    """Is another process writing this run right now?

    Raises:
        RunError: the folder cannot be written.
    """
    if not (folder / ".lock").is_file():
        return False
    lock = FileLock(folder / ".lock")
    with writing("run folder", folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
    lock.release()
    return False


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


@contextmanager
def disk(what: str, folder: Path) -> Generator[None]:
    """Says what to do when `what` fails because the disk is full or broken.

    Raises:
        RunError: instead of the error of the operating system, or of the library that wraps it.
    """
    try:
        yield
    except Exception as error:
        # safetensors raises an error of its own, which holds the number in its text only.
        wrapped = type(error).__module__.startswith("safetensors") and "os error 28" in str(error)
        if wrapped or (isinstance(error, OSError) and error.errno in _DISK):
            raise RunError(
                f"{what}: got {error}, allowed a disk with room, in {folder}. Traces and checkpoints that were "
                "finished are kept. Make room, then go on with --resume."
            ) from error
        raise


@contextmanager
def writing(what: str, folder: Path) -> Generator[None]:
    """`disk` for a body that does nothing but write: every error of the operating system is about the folder.

    Raises:
        RunError: instead of it.
    """
    try:
        with disk(what, folder):
            yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{what}: got {error}, allowed a folder that can be written, in {folder}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        RunError: the disk is full or broken, or the folder cannot be written.
    """
    with writing(f"writing {path.name}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """`write_text` of indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
