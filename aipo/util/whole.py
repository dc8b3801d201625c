"""A folder that is written whole or not at all, and that can be checked later: its files are in a manifest.

The files are written into a draft beside the folder. Then their sizes and hashes go into `manifest.json`, everything
is on the disk, and only then does the draft take the folder's name. Hashes are XXH3 (128 bits), which reads 24 GB/s,
where SHA-256 reads 2: they find damage, they do not prove who wrote a file.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aipo.util.files import disk, sync_folder, write_json, writing

MANIFEST = "manifest.json"
DRAFTS = ".draft"
CARD = "README.md"
"""A text for people, who may change it: no part of what is checked."""
_KIND = "files of a whole folder"
_CHUNK = 1 << 22

OfInterest = Callable[[str], bool]
"""Whether a file, by its name in the folder, is looked at."""


@contextmanager
def written_whole(folder: Path, what: str) -> Generator[Path]:
    """Gives a draft to write into, which becomes `folder` at the end; what had this name before is replaced.

    Args:
        what: is written, for the message.

    Raises:
        RunError: the disk is full or broken.
    """
    with disk(what, folder):
        draft = new_draft(folder)
        try:
            yield draft
            publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            with suppress(OSError):  # another folder is being written beside this one
                draft.parent.rmdir()


def cached_folder(name: str, make: Callable[[Path], None], *, what: str, cache: Path | None = None) -> Path:
    """The folder `name` of the user's cache, made once, however many processes ask for it at the same time. If it is not
    there, or not whole any more, it is made, whole or not at all.

    Args:
        make: writes its files into the empty folder that it gets.
        what: the folder holds, for messages.
        cache: where the folder is; default: `aipo` in the user's cache folder.

    Raises:
        RunError: the cache cannot be written, or the disk is full or broken.
    """
    from filelock import FileLock

    folder = (cache or user_cache()) / name
    if _is_whole(folder):
        return folder
    with writing(f"cache of {what} (XDG_CACHE_HOME names another one)", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)  # now, and not when minutes have been spent
        tempfile.TemporaryFile(dir=folder.parent).close()
        lock = FileLock(folder.parent / f".{name}.lock")
        lock.acquire()
    try:
        if not _is_whole(folder):  # another process may have made it while this one waited
            with written_whole(folder, f"saving {what}") as draft:
                make(draft)
    finally:
        lock.release()
    return folder


def user_cache() -> Path:
    """The folder for models in the user's cache."""
    # `expanduser` leaves the ~ of somebody without a home.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache") / "aipo"


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and damage(folder, hashes=False) is None


def new_draft(folder: Path) -> Path:
    """An empty folder beside `folder`, of the same name. What a killed process left there goes."""
    draft = folder.parent / DRAFTS / folder.name
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except (
        FileNotFoundError
    ):  # another process that was done removed the folder of drafts, which was empty just then
        draft.mkdir(parents=True)
    return draft


def drop_drafts(folder: Path) -> None:
    """Removes the drafts in `folder`, where nothing is being written now."""
    shutil.rmtree(folder / DRAFTS, ignore_errors=True)


def publish(draft: Path, folder: Path) -> None:
    """Writes the manifest of `draft` and gives it the name of `folder`.

    Raises:
        OSError: the disk is full or broken.
    """
    record(draft)
    remove(folder)
    draft.rename(folder)
    sync_folder(folder.parent)


def record(folder: Path, names: Collection[str] | None = None) -> None:
    """Writes the manifest of a folder: of all its files, which are on the disk then, or of `names`. Of these a manifest
    that is there already has the last word: what was damaged since must not be recorded as whole.

    Raises:
        OSError: the disk is full or broken.
    """
    known = {} if names is None else recorded_files(folder) or {}
    names = sorted({*(_files_of(folder) if names is None else names)} - {MANIFEST, CARD})
    files = {name: known.get(name) or _facts(folder / name) for name in names}
    for inner in {(folder / name).parent for name in names}:
        sync_folder(inner)
    write_json(folder / MANIFEST, {"kind": _KIND, "hash": "xxh3_128", "files": files})
    with (folder / MANIFEST).open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)


def remove(folder: Path) -> None:
    """Removes a folder: in one moment it has its name and all of its files, in the next it has no name."""
    if folder.exists():
        gone = new_draft(folder.with_name(f"{folder.name}.removed"))
        folder.rename(gone / folder.name)
        shutil.rmtree(gone, ignore_errors=True)


def recorded_files(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Size and hash of each file, by name, as the manifest has them; None without a manifest of this kind.

    Raises:
        ValueError: the manifest cannot be read, or names no file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(manifest, dict):
        raise ValueError("got no keys and values")
    if manifest.get("kind") != _KIND:
        return None
    if not manifest["files"]:
        raise ValueError("got no files")
    return manifest["files"]


def damage(folder: Path, *, hashes: bool = True, of_interest: OfInterest = lambda _: True) -> str | None:
    """What is wrong with a folder, in a few words; None if its files are those of the manifest, or it has none.

    Args:
        hashes: read every file; otherwise only sizes are compared.
        of_interest: which files are looked at.
    """
    try:
        files = recorded_files(folder) or {}
        for name, facts in sorted(files.items()):
            path = folder / name
            if name == CARD or not of_interest(name):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != facts["bytes"]:
                return f"{name} has {size:,} bytes, not {facts['bytes']:,}"
            if hashes and _hash(path) != facts["hash"]:
                return f"{name} is not what was written (its hash differs)"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    except OSError as error:
        return f"it cannot be read: {error}"
    return None


def _files_of(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _facts(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "hash": _hash(path)}


def _hash(path: Path) -> str:
    from xxhash import xxh3_128

    digest = xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
