"""The user's cache of models: each folder in it is made once, however many processes ask for it at the same time."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from aipo.util.files import writing
from aipo.util.whole import damage, written_whole


def cached_folder(name: str, make: Callable[[Path], None], *, what: str, cache: Path | None = None) -> Path:
    """The folder `name` of the cache. If it is not there, or not whole any more, it is made, whole or not at all.

    Args:
        make: writes its files into the empty folder that it gets.
        what: the folder holds, for messages.
        cache: where the folder is; default: `aipo` in the user's cache folder.

    Raises:
        RunError: the cache cannot be written, or the disk is full or broken.
    """
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
