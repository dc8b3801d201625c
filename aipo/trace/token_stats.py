"""Token stats: what the loss did with each token of a trained row.

A trace says what was sampled. Token stats say what the loss did with it: the weight of A·∇log π, the ratio π/π_old, and
where the clip acted. One Parquet file per rollout step; one table row per trained row and optimizer step.
Reading them needs neither torch nor transformers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aipo.errors import TraceError
from aipo.trace.parquet_files import StepFiles, check_version

SCHEMA_VERSION = 1
VERSION_KEY = "aipo.lessons"
SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("kind", pa.string()),
        ("step", pa.int32()),
        ("update", pa.int32()),
        ("advantage", pa.float64()),
        ("segments", pa.list_(pa.int32())),
        ("codes", pa.list_(pa.int8())),
        ("weights", pa.list_(pa.float32())),
        ("ratios", pa.list_(pa.float32())),
        ("clipped", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("agent_advantage", pa.float64()),
        ("push", pa.float64()),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)
_FIRST = SCHEMA.names[:10]
"""The columns of files that have no others; what they lack is read as None."""
# A reader skips whole row groups. They are small because it looks for the few token stats of one trace.
_TOKENS_PER_GROUP = 1 << 16


RowKind = Literal["sampled", "exchanged", "distilled", "rehearsed"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenStats:
    """The effect of one optimizer step on one row; T tokens after the row's prompt.

    Args:
        kind: the row as it was sampled, with its prompt exchanged, or distilled.
        step: rollout step, as on the trace.
        optimizer_step: from 1, as `step` in metrics.jsonl.
        segments_T: int32, index of the token's segment in the trace. A row holds the first tokens of a segment, or all
            of them.
        codes_T: int8, see `aipo.method.rows.Code`.
        weights_T: float32, weight of A·∇log π in the gradient; 0 where there is no gradient.
        ratios_T: float32, π/π_old; NaN on tokens that are not the policy's.
        clipped_T: bool.
        logprobs_T: float32, log π of each token in this row, by the weights before this optimizer step. The row's context
            counts: a distilled one has no help in it, an exchanged one has another prompt.
        agent_advantage: A of agents' tokens; 1 for a coefficient that ignores the advantage.
        push: Σ_t |A·w| / the row's denominator, without the KL term: what the row weighs in the optimizer step.

    Raises:
        TraceError: lengths differ.
    """

    trace_id: str
    kind: RowKind
    step: int
    optimizer_step: int
    segments_T: npt.NDArray[np.int32]
    codes_T: npt.NDArray[np.int8]
    weights_T: npt.NDArray[np.float32]
    ratios_T: npt.NDArray[np.float32]
    clipped_T: npt.NDArray[np.bool_]
    advantage: float
    logprobs_T: npt.NDArray[np.float32] | None = None
    agent_advantage: float | None = None
    push: float | None = None

    def __post_init__(self) -> None:
        arrays = [getattr(self, name) for name in _COLUMNS if name.endswith("_T")]
        lengths = {len(array) for array in arrays if array is not None}
        if len(lengths) != 1:
            raise TraceError(
                f"arrays of a row of token stats: got lengths {lengths}, allowed one, in {self.trace_id!r}"
            )

    def __len__(self) -> int:
        return len(self.segments_T)


_COLUMNS = {
    name: {"optimizer_step": "update"}.get(name, name.removesuffix("_T"))
    for name in TokenStats.__dataclass_fields__
}
"""The column of each field."""


def positions(stats: TokenStats, lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """Index of each of the row's tokens in its trace; shape (T,).

    Args:
        lengths: of the trace's segments, in tokens.

    Raises:
        TraceError: the trace has no such segment, or fewer tokens in it.
    """
    segments_T = stats.segments_T
    count = len(segments_T)
    begins = np.flatnonzero(np.diff(segments_T, prepend=-1))
    within = np.arange(count) - np.repeat(begins, np.diff(begins, append=count))
    sizes = np.asarray(lengths, np.int64)
    if count and (segments_T.max() >= len(sizes) or (within >= sizes[segments_T]).any()):
        raise TraceError(f"segments of {stats.trace_id!r}: got lengths {list(lengths)}, allowed the row's")
    starts = np.cumsum(sizes) - sizes
    return (starts[segments_T] + within).astype(np.int32)


class TokenStatsStore:
    """Token stats of one run, by rollout step: `folder/step-00012-00000.parquet`."""

    def __init__(self, folder: Path) -> None:
        self._files = StepFiles(folder)

    def publish(self, step: int, token_stats: Sequence[TokenStats]) -> None:
        """Writes the token stats of rollout step `step`.

        Raises:
            RunError: the file exists already, or the disk is full or fails.
        """
        ordered = sorted(token_stats, key=_order)
        tokens = max(1, sum(map(len, token_stats)))
        self._files.publish(
            step,
            _table(ordered),
            rows_per_group=max(1, len(token_stats) * _TOKENS_PER_GROUP // tokens),
            use_dictionary=["trace_id", "kind"],
            use_byte_stream_split=[f"{name}.list.element" for name in ("weights", "ratios", "logprobs")],
            write_statistics=["trace_id"],
        )

    def begin(self, step: int) -> None:
        """Sets aside the files of `step` and later rollout steps that an earlier attempt wrote.

        Raises:
            RunError: a file cannot be moved.
        """
        self._files.set_aside(step)

    def pushes(self, step: int) -> dict[int, float]:
        """Σ `push` of all rows of rollout step `step`, by optimizer step; none where a row does not tell its own.

        Raises:
            TraceError: a file is torn or has another schema; names it.
        """
        tables = [_read(file.path, ["update", "push"]) for file in self._files.files() if file.step == step]
        if not tables or any(table.column("push").null_count for table in tables):
            return {}
        rows = pa.concat_tables(tables).group_by("update").aggregate([("push", "sum")])
        return dict(zip(rows["update"].to_pylist(), rows["push_sum"].to_pylist(), strict=True))

    def of(self, trace_id: str, step: int) -> list[TokenStats]:
        """Token stats of one trace: by kind of row (`RowKind`), each by optimizer step; empty if the
        trace was not trained on.

        Raises:
            TraceError: a file is torn or has another schema; names it.
        """
        files = (file.path for file in self._files.files() if file.step == step)
        return sorted((stats for path in files for stats in _stats(path, trace_id)), key=_order)


def _order(stats: TokenStats) -> tuple[str, int, int]:
    return stats.trace_id, get_args(RowKind).index(stats.kind), stats.optimizer_step


def _table(token_stats: Sequence[TokenStats]) -> pa.Table:
    rows = [{column: getattr(stats, name) for name, column in _COLUMNS.items()} for stats in token_stats]
    return pa.Table.from_pylist(rows, SCHEMA)


def _stats(path: Path, trace_id: str) -> Iterator[TokenStats]:
    table = _read(path, SCHEMA.names, filters=[("trace_id", "==", trace_id)])
    for row in table.to_batches(max_chunksize=1):
        yield TokenStats(**{name: _value(row[column]) for name, column in _COLUMNS.items()})


def _read(path: Path, columns: Sequence[str], **how: Any) -> pa.Table:
    """Columns of a file; those that older files lack are null.

    Raises:
        TraceError: it is torn or has another schema; names it.
    """
    try:
        schema = pq.read_schema(path)
        check_version(schema, str(path), VERSION_KEY, SCHEMA_VERSION)
        if schema.names not in (SCHEMA.names, _FIRST) or schema != pa.schema(
            [SCHEMA.field(n) for n in schema.names]
        ):
            raise TraceError(f"columns of {path}: got {schema.names}, allowed {SCHEMA.names}")
        table = pq.read_table(path, columns=[name for name in columns if name in schema.names], **how)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(
            f"file of token stats {path}: got {error}, allowed Parquet as `aipo` writes it"
        ) from error
    for name in columns:
        if name not in schema.names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table


def _value(cell: pa.Array) -> Any:
    if cell.null_count:
        return None
    return cell.flatten().to_numpy(zero_copy_only=False) if pa.types.is_list(cell.type) else cell[0].as_py()
