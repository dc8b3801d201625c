"""The rows of a file or of a data set of the hub: a mapping from column to value for each."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aipo.errors import LoadError
from aipo.util.files import no_text
from envs.file.source import FILES, SplitSource

Row = Mapping[str, Any]


def rows(source: SplitSource, split: str, folder: Path | None) -> Iterator[Row]:
    """The rows of a source.

    Args:
        split: name of the split: its file in `folder` is called so.
        folder: of files that stand in for data sets of the hub.

    Raises:
        LoadError: there is no such file or data set, or it cannot be read.
    """
    if source.file is not None:
        return file_rows(source.file.expanduser())
    if folder is not None:
        return file_rows(entry_of(split, folder.expanduser(), source.columns))
    return _hub(source, split)


def entry_of(split: str, folder: Path, columns: str, *, folders: bool = False) -> Path:
    """The file of a split in `folder`: its name counts, without `-` and `_`, whatever the case.

    Args:
        columns: that it has to have, in words.
        folders: a folder of files may be called so, too.

    Raises:
        LoadError: there is none, or more than one.
    """
    entries = sorted(
        entry for entry in folder.glob("*") if entry.name.endswith(FILES) or (folders and entry.is_dir())
    )
    named = [entry for entry in entries if folded(entry.name.partition(".")[0]) == folded(split)]
    if len(named) != 1:
        what = "file or folder" if folders else "file"
        raise LoadError(
            f"env.options.folder: got {[entry.name for entry in named or entries]} in {folder}, allowed one {what} called "
            f"{split} with {', '.join(FILES)} and the columns {columns}"
        )
    return named[0]


def folded(name: str) -> str:
    """A name as it is compared: `GPQA_diamond` is `gpqa-diamond`."""
    return name.lower().replace("-", "").replace("_", "")


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        LoadError: it is not there, or cannot be read.
    """
    try:
        with path.open("rb") as begin:
            if kind := no_text(begin.read(64).partition(b"\0")[0]):
                raise LoadError(f"file of a split: got {kind}, allowed the data, in UTF-8, at {path}")
        read = {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _json_lines)
        yield from read(path)
    except (OSError, EOFError, zlib.error) as error:
        raise LoadError(f"file of a split: got {error}, allowed one that can be read, at {path}") from error


def _json_lines(path: Path) -> Iterator[Row]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                raise LoadError(f"JSON: got {error}, allowed an object, in {path}:{number}") from error
            if not isinstance(row, dict):
                raise LoadError(f"JSON: got {type(row).__name__}, allowed an object, in {path}:{number}")
            yield row


def _csv(path: Path) -> Iterator[Row]:
    """Rows of CSV with a head; every value is text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in table:
            if None in row or None in row.values():
                names = table.fieldnames or []
                raise LoadError(
                    f"CSV: got a row that is not as long as the head, allowed {len(names)} values, in "
                    f"{path}:{table.line_num}"
                )
            yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise LoadError(
            f"CSV: got {error}, allowed a table in UTF-8 with a head and commas, at {path}"
        ) from error


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise LoadError(f"Parquet: got {error}, allowed a file of it, at {path}") from error


def _hub(source: SplitSource, split: str) -> Iterator[Row]:
    assert source.hub is not None and source.split is not None, "a source without a file has them"
    instead = (
        f"put a file {split}.jsonl (or {', '.join(FILES[1:])}) with the columns {source.columns} into a folder, and name that: "
        "env.options.folder=FOLDER"
    )
    return hub_rows(source.hub, instead, source.hub, source.config, split=source.split)


def hub_rows(name: str, instead: str, *of: Any, **which: Any) -> Iterator[Row]:
    """The rows of the hub's data set `name`.

    Args:
        instead: what to do without the hub.
        of, which: what `datasets.load_dataset` is given.

    Raises:
        LoadError: it cannot be loaded; says what to do instead.
    """
    from datasets import load_dataset  # slow to import

    try:
        dataset: Any = load_dataset(*of, **which)
        yield from dataset
    except Exception as error:  # of many kinds: the hub's libraries and the network
        raise LoadError(
            f"data set of the hub: got {type(error).__name__}: {error}, allowed one that can be loaded, {name!r}. Without the "
            f"hub, {instead}"
        ) from error
