"""Traces as tables of DuckDB, brought up to date from what is on the disk.

`summaries` has everything but tokens, `contexts` the texts, `traces` all that the files hold. Sealed files
never change, so that each is looked at once; a journal is read on from where it was left.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from aipo.errors import TraceError
from aipo.trace.arrow import ADDED, INDEX, SCHEMA, to_table
from aipo.trace.filters import FLAWED
from aipo.trace.journal import read_journal
from aipo.trace.store import list_traces, open_file
from aipo.trace.types import SCHEMA_VERSION

_COLUMNS = ", ".join(f'"{name}"' for name in INDEX)
_KIND = "CASE kind WHEN 'forbidden' THEN 'suppressed' ELSE kind END AS kind"  # named so in older files
_STORED = ", ".join(_KIND if name == "kind" else f'"{name}"' for name in INDEX)
_FROM_FILES = f"SELECT {_STORED}, {FLAWED}, filename AS file, 0 AS start FROM"
_CHECKED = f"CASE schema_version WHEN {SCHEMA_VERSION} THEN trace_id ELSE error('another schema version') END"


class Tables:
    """The traces of one folder, as they were at the last `refresh`. Safe to share among threads.

    Args:
        resident: summaries are kept in memory, so that every look after the first is quick; off, they stay
            in the files, which is quicker for a single look.
    """

    def __init__(self, folder: Path, *, resident: bool = True) -> None:
        self.folder = folder
        self._resident = resident
        self._lock = threading.RLock()
        self._version = 0
        self._sealed: dict[Path, tuple[int, int]] = {}
        self._journals: dict[Path, tuple[int, int]] = {}  # inode, and the byte to read on from
        self._db = duckdb.connect()
        if resident:
            self._db.execute("SET parquet_metadata_cache = true")
        self._db.register("empty", to_table([]))
        self._db.execute("CREATE TABLE inflight AS SELECT *, '' AS file, 0::BIGINT AS start FROM empty")
        self._define()
        self.refresh()

    def refresh(self) -> int:
        """Reads what is new; returns a number that grows whenever something has changed.

        Raises:
            TraceError: a file is torn or of another schema version; names it.
        """
        with self._lock:
            sealed, journals = list_traces(self.folder)
            changed = self._read_journals([file.path for file in journals])
            changed |= self._take_sealed({file.path: _stamp(file.path) for file in sealed})
            self._version += changed
            return self._version

    def all(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self.query(query, values)[1]

    def query(self, query: str, values: Sequence[object] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Names of the columns, and rows.

        Raises:
            duckdb.Error: DuckDB refuses it.
            TraceError: a file is torn or of another schema version; names it.
        """
        with self._lock:
            try:
                result = self._db.execute(query, list(values))
                return [column[0] for column in result.description or ()], result.fetchall()
            except duckdb.Error:
                _blame(self._sealed)
                raise

    def _take_sealed(self, sealed: dict[Path, tuple[int, int]]) -> bool:
        if sealed == self._sealed:
            return False
        before, self._sealed = self._sealed, sealed
        grown = before.items() <= sealed.items()
        added = [path for path in sealed if not grown or path not in before]
        try:
            if self._resident and sealed:
                into = "INSERT INTO resident" if before and grown else "CREATE OR REPLACE TABLE resident AS"
                self._db.execute(f"{into} {_FROM_FILES} {_parquet(added)}")
                self._db.execute(f"SELECT {_CHECKED} FROM resident").fetchall()
            self._define()
        except duckdb.Error as error:
            self._sealed = {}
            _blame(added)
            raise TraceError(f"files of traces: got {error}, allowed Parquet as `aipo` writes it") from error
        return True

    def _define(self) -> None:
        """The views, over what is sealed and what is in flight."""
        files = _parquet(list(self._sealed)) if self._sealed else "empty"
        plain = ", ".join(f'"{name}"' for name in SCHEMA.names)
        sealed = f"SELECT {_COLUMNS}, {FLAWED}, '' AS file, 0 AS start FROM empty"
        if self._sealed:
            checked = f"SELECT * REPLACE ({_CHECKED} AS trace_id) FROM ({_FROM_FILES} {files})"
            sealed = "FROM resident" if self._resident else checked
        for view, own, journal in (
            (
                "summaries",
                f"SELECT *, true AS sealed FROM ({sealed})",
                f"{_COLUMNS}, {FLAWED}, file, start, false",
            ),
            ("contexts", f"SELECT trace_id, texts FROM {files}", "trace_id, texts"),
            ("traces", f"SELECT * REPLACE ({_KIND}) FROM (SELECT {plain} FROM {files})", plain),
        ):
            self._db.execute(
                f"CREATE OR REPLACE TEMP VIEW {view} AS {own} UNION ALL SELECT {journal} FROM inflight"
            )

    def _read_journals(self, paths: list[Path]) -> bool:
        """Reads journals on; forgets those that are not listed or begun anew. Did anything change?"""
        inodes = {path: _stamp(path)[0] for path in paths}
        gone = [path for path, (inode, _) in self._journals.items() if inodes.get(path) not in (inode, 0)]
        for path in gone:
            self._db.execute("DELETE FROM inflight WHERE file = ?", [str(path)])
            del self._journals[path]
        changed = bool(gone)
        for path, inode in inodes.items():
            start = self._journals.get(path, (inode, 0))[1]
            try:
                lines = list(read_journal(path, start)) if inode else []
            except FileNotFoundError:
                continue  # sealed just now; the next look finds it, and what was read stays till then
            if lines:
                starts = [start, *(end for _, end in lines)]
                table = to_table([stored for stored, _ in lines])
                table = table.append_column("file", [[str(path)] * len(lines)])
                self._db.register("fresh", table.append_column("start", [starts[:-1]]))
                self._db.execute("INSERT INTO inflight SELECT * FROM fresh")
                self._db.unregister("fresh")
                self._journals[path] = inode, starts[-1]
                changed = True
        return changed


def _blame(paths: Iterable[Path]) -> None:
    """Says which file is torn or of another version, and how; nothing if none is."""
    for path in paths:
        open_file(path).close()


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and time of a file, which tell it from another attempt's file of the same name."""
    try:
        status = path.stat()
    except FileNotFoundError:  # set aside just now; the next look does not find it
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def _parquet(paths: Sequence[Path]) -> str:
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    # By name: files of before a consult had a `fault` may lie beside others.
    files = f"read_parquet([{names}], filename = true, union_by_name = true)"
    added = ", ".join(f'NULL::VARCHAR AS "{name}"' for name in ADDED)
    return f"(SELECT {added} WHERE false UNION ALL BY NAME FROM {files})"
