"""Writing files whole or not at all, one writer to a folder, and errors of a full or broken disk in words."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aipo.errors import RunError

_PATIENCE_S = 1.0
"""Whoever asks whether a run is `busy` holds its lock for a moment."""


def taken(path: Path) -> bool:
    """Is there a file, or a folder that holds one? Hidden files do not count: a run that was killed before it began has
    left its lock."""
    if not path.is_dir():
        return path.exists()
    return any(taken(entry) for entry in path.iterdir() if not entry.name.startswith("."))


def no_text(start: bytes) -> str | None:
    """What a file is that begins with `start`, if it is one of those that are often taken for text in UTF-8."""
    if start.startswith((b"version https://git-lfs", b"# xet version")):
        return "a pointer of git-lfs in place of the file (git lfs pull)"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    return "a byte 0, which no text has" if b"\0" in start else None


def read_text(path: Path) -> str:
    """The text of a file that somebody has written, with a byte order mark or without.

    Raises:
        ValueError: it is no text in UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if (kind := no_text(file.read(64))) is not None:
            raise ValueError(kind)
    return path.read_text(encoding="utf-8-sig")


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Keeps other processes from writing the same run; the lock goes with the process, however it ends. If the body
    fails and has made nothing, the folder that was made for it goes, too.

    Raises:
        RunError: another process holds it.
    """
    new = missing(folder)
    with writing("run folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=_PATIENCE_S)
        except Timeout:
            raise RunError(
                f"run folder: got {folder}, which another process is writing, allowed one at a time"
            ) from None
    try:
        yield
    except Exception:
        if new and folder.is_dir() and [*folder.iterdir()] == [folder / ".lock"]:
            (folder / ".lock").unlink()
            remove_empty(new)
        raise
    finally:
        lock.release()


def missing(path: Path) -> list[Path]:
    """`path` and the folders above it, as far as they are not there."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes those that are empty; inner ones first."""
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


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


_DISK = {
    errno.ENOSPC: "a disk with room",
    errno.EDQUOT: "room in the quota",
    errno.EFBIG: "a file system, and a `ulimit -f`, that takes a file of this size",
    errno.EIO: "a disk that works",
    errno.EROFS: "a file system that can be written",
}
"""What is needed instead, by the operating system's number."""
_OF_RUST = re.compile(r"os error (\d+)")
"""How safetensors and tokenizers tell the operating system's number, in errors of their own."""
_OF_TORCH = re.compile("inline_container|PytorchStreamWriter|iostream error")
"""What torch.save says: its messages are about positions, and have no number."""


def _failed_write(error: Exception) -> tuple[str, str] | None:
    """What the disk said, and what is needed; None if it is something else that went wrong."""
    if _OF_TORCH.search(str(error)):
        return "a file that torch.save could not write to its end", _DISK[errno.ENOSPC]
    told = _OF_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else told and int(told[1])
    return (str(error), _DISK[number]) if number in _DISK else None


@contextmanager
def disk(what: str, folder: Path) -> Generator[None]:
    """Says what to do when `what` fails because the disk is full or broken.

    Raises:
        RunError: instead of the error of the operating system, or of the library that wraps it.
    """
    try:
        yield
    except Exception as error:
        if (failed := _failed_write(error)) is not None:
            raise RunError(
                f"{what}: got {failed[0]}, allowed {failed[1]}, in {folder}. Traces and checkpoints that were finished "
                "are kept. See to the disk, then start again; a training run goes on with --resume."
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


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
