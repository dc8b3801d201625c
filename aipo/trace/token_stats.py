"""Lessons: what the trainer did with each token of a row.

A trace says what was sampled; a row of token stats says what became of it in the loss: the weight of A·∇log π, the
ratio π/π_old, and where the clip acted. One Parquet file per generation and process, one row per stats.
Reading token_stats needs nothing heavy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aipo.errors import TraceError
from aipo.trace.parquet_files import StepFiles

SCHEMA_VERSION = 1
_ARRAYS: dict[str, tuple[str, pa.DataType]] = {
    "segments_T": ("segments", pa.int32()),
    "codes_T": ("codes", pa.int8()),
    "weights_T": ("weights", pa.float32()),
    "ratios_T": ("ratios", pa.float32()),
    "clipped_T": ("clipped", pa.bool_()),
}
"""Fields that are arrays: their columns, and the types of their elements."""

SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("kind", pa.string()),
        ("step", pa.int32()),
        ("update", pa.int32()),
        ("advantage", pa.float64()),
        *((column, pa.list_(element)) for column, element in _ARRAYS.values()),
    ],
    metadata={"aipo.lessons": str(SCHEMA_VERSION)},
)
# Groups are what a reader skips: small ones, since it wants the few token_stats of one trace.
_TOKENS_PER_GROUP = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenStats:
    """What one optimiser step did with one row; T tokens after the row's prompt.

    Args:
        kind: the row as it was sampled, or distilled.
        step: generation, as on the trace.
        update: optimiser step, from 1, as in metrics.jsonl.
        segments_T: int32, which of the trace's segments a token is from. A row holds the first tokens of
            a segment, or all of them.
        codes_T: int8, see `aipo.method.rows.Code`.
        weights_T: float32, w of A·∇log π; what the objective leaves of ratio × importance for policy tokens, the
            weight for others; 0 where there is no gradient.
        ratios_T: float32, π/π_old; NaN where no policy token is.
        clipped_T: bool.

    Raises:
        TraceError: lengths differ.
    """

    trace_id: str
    kind: Literal["sampled", "distilled"]
    step: int
    update: int
    segments_T: npt.NDArray[np.int32]
    codes_T: npt.NDArray[np.int8]
    weights_T: npt.NDArray[np.float32]
    ratios_T: npt.NDArray[np.float32]
    clipped_T: npt.NDArray[np.bool_]
    advantage: float

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in _ARRAYS}
        if len(lengths) != 1:
            raise TraceError(
                f"arrays of a row of token stats: got lengths {lengths}, allowed one, in {self.trace_id!r}"
            )

    def __len__(self) -> int:
        return len(self.segments_T)


def positions(stats: TokenStats, lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """Index of each of the row's tokens in its trace; shape (T,).

    Args:
        lengths: of the trace's segments, in tokens.

    Raises:
        TraceError: the trace has no such segment, or fewer tokens in it.
    """
    own = stats.segments_T
    begins = np.flatnonzero(np.diff(own, prepend=-1))
    within = np.arange(len(own)) - np.repeat(begins, np.diff(begins, append=len(own)))
    sizes = np.asarray(lengths, np.int64)
    if len(own) and (own.max() >= len(sizes) or (within >= sizes[own]).any()):
        raise TraceError(f"segments of {stats.trace_id!r}: got lengths {list(lengths)}, allowed the row's")
    starts = np.cumsum(sizes) - sizes
    return (starts[own] + within).astype(np.int32)


class TokenStatsStore:
    """Lessons of one run, by generation: `folder/step-00012-00000.parquet`.

    Args:
        folder: made with the first file.
        process: whose files are written; everybody's are read.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        self._files = StepFiles(folder, process)

    def publish(self, step: int, token_stats: Sequence[TokenStats]) -> None:
        """Writes the token_stats of generation `step`.

        Raises:
            RunError: they are there already, or the disk is full or fails.
        """
        ordered = sorted(token_stats, key=_order)
        tokens = max(1, sum(map(len, token_stats)))
        self._files.publish(
            step,
            _table(ordered),
            rows_per_group=max(1, len(token_stats) * _TOKENS_PER_GROUP // tokens),
            use_dictionary=["trace_id", "kind"],
            use_byte_stream_split=["weights.list.element", "ratios.list.element"],
            write_statistics=["trace_id"],
        )

    def begin(self, step: int) -> None:
        """Sets aside what an earlier attempt left of `step` and of later generations.

        Raises:
            RunError: a file cannot be moved.
        """
        self._files.set_aside(step)

    def of(self, trace_id: str, step: int) -> list[TokenStats]:
        """Lessons of one trace: as sampled, then distilled, each by update; none if it was not trained on.

        Raises:
            TraceError: a file is torn or of another schema; names it.
        """
        files = (file.path for file in self._files.files() if file.step == step)
        found = (stats for path in files for stats in _read(path, trace_id))
        return sorted(found, key=_order)


def _order(stats: TokenStats) -> tuple[str, bool, int]:
    return stats.trace_id, stats.kind != "sampled", stats.update


def _table(token_stats: Sequence[TokenStats]) -> pa.Table:
    columns: dict[str, Any] = {
        name: [getattr(stats, name) for stats in token_stats]
        for name in ("trace_id", "kind", "step", "update", "advantage")
    }
    ends = np.cumsum([0, *map(len, token_stats)])
    for name, (column, element) in _ARRAYS.items():
        parts = [getattr(stats, name) for stats in token_stats]
        flat = np.concatenate([np.empty(0, element.to_pandas_dtype()), *parts])
        columns[column] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, element))
    return pa.table(columns, SCHEMA)


def _read(path: Path, trace_id: str) -> Iterator[TokenStats]:
    try:
        with pq.ParquetFile(path) as file:
            _check(file.schema_arrow, path)
            wanted = [
                i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), trace_id)
            ]
            table = file.read_row_groups(wanted)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(
            f"file of token stats {path}: got {error}, allowed Parquet as `aipo` writes it"
        ) from error
    ids = table.column("trace_id").to_pylist()
    for i in (i for i, own in enumerate(ids) if own == trace_id):
        yield _stats_of_row(table.slice(i, 1))


def _check(schema: pa.Schema, path: Path) -> None:
    said = (schema.metadata or {}).get(b"aipo.lessons", b"none").decode(errors="replace")
    if said != str(SCHEMA_VERSION):
        raise TraceError(f"schema version of {path}: got {said}, allowed {SCHEMA_VERSION}")
    if not schema.equals(SCHEMA):
        raise TraceError(f"columns of {path}: got {schema.names}, allowed {SCHEMA.names}")


def _may_hold(group: pq.RowGroupMetaData, trace_id: str) -> bool:
    known = group.column(0).statistics  # trace_id is the first column
    return known is None or not known.has_min_max or known.min <= trace_id <= known.max


def _stats_of_row(row: pa.Table) -> TokenStats:
    arrays: dict[str, Any] = {
        name: row.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        for name, (column, _) in _ARRAYS.items()
    }
    (facts,) = row.select(["trace_id", "kind", "step", "update", "advantage"]).to_pylist()
    return TokenStats(**facts, **arrays)
