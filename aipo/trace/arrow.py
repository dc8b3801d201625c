"""Traces as an Arrow table, and back without loss.

One row is one trace. What a reader filters by comes first, as plain columns; some of it is derived
(`question`, `agents`, `tokens`, `texts`, ...) so that nobody needs this package to use the files. Free-form
mappings (a task's metadata, sampling settings, a call's messages) are JSON strings. Token ids are int32,
log-probs and entropies float32, bit for bit as they were sampled.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from aipo.errors import TraceError
from aipo.trace.parquet_files import check_version
from aipo.trace.segment import Consult, Fault, Role, Segment
from aipo.trace.types import SCHEMA_VERSION, Call, Trace, Visit
from aipo.util.text import clean, to_json


class Stored(NamedTuple):
    """A trace as it was stored, with the text of each of its segments (None: it could not be decoded)."""

    trace: Trace
    texts: tuple[str, ...] | None


_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()
_IDS = pa.list_(pa.int32())
_TYPES: dict[Any, pa.DataType] = {
    str: _TEXT,
    Role: _TEXT,
    Fault: _TEXT,
    int: _INT,
    float: _REAL,
    bool: pa.bool_(),
    npt.NDArray[np.int32]: _IDS,
    npt.NDArray[np.float32]: pa.list_(pa.float32()),
}


def _struct(noun: type, **types: pa.DataType) -> pa.DataType:
    """The fields of a dataclass, by their annotations; `types` for those whose annotation has no column type."""
    columns: list[tuple[str, pa.DataType]] = []
    for name, hint in get_type_hints(noun).items():
        kind = get_args(hint)[0] if NoneType in get_args(hint) else hint
        columns.append((name, types[name] if name in types else _TYPES[kind]))
    return pa.struct(columns)


_CALL = _struct(Call, messages=_TEXT, settings=_TEXT)
_COLUMNS: dict[str, pa.DataType] = {
    "trace_id": _TEXT,
    "run_id": _TEXT,
    "group_id": _TEXT,
    "task_id": _TEXT,
    "step": _INT,
    "index": _INT,
    "kind": _TEXT,
    "mode": _TEXT,
    "policy": _TEXT,
    "parent_id": _TEXT,
    "fork_token": _INT,
    "question": _TEXT,
    "answer": _TEXT,
    "reward": _REAL,
    "reason": _TEXT,
    "advantage": _REAL,
    "stop_reason": _TEXT,
    "error": _TEXT,
    "agents": pa.list_(_TEXT),
    "consult_errors": _INT,
    "tokens": _INT,
    "policy_tokens": _INT,
    "agent_tokens": _INT,
    "started": _REAL,
    "seconds": _REAL,
    "schema_version": _INT,
    "policy_version": _INT,
    "reward_parts": _TEXT,
    "task": _TEXT,
    "seed": _INT,
    "sampling": _TEXT,
    "fingerprints": _TEXT,
    "forbidden_ids": _IDS,
    "texts": pa.list_(_TEXT),
    "segments": pa.list_(_struct(Segment)),
    "consults": pa.list_(_struct(Consult)),
    "visits": pa.list_(_struct(Visit, calls=pa.list_(_CALL))),
}
ADDED = ("reason",)
"""Columns of text that files of before lack; there they are null."""
VERSION_KEY = "aipo.schema_version"
SCHEMA = pa.schema(list(_COLUMNS.items()), metadata={VERSION_KEY: str(SCHEMA_VERSION)})
INDEX = tuple(_COLUMNS)[: list(_COLUMNS).index("policy_version")]
"""Columns that listing and filtering read, and that have statistics in the file."""
FLOAT_COLUMNS = [f"segments.list.element.{name}.list.element" for name in ("logprobs", "entropies")]

_JSON = ("reward_parts", "task", "sampling", "fingerprints")


def _json(name: str, noun: Any) -> str:
    return to_json(getattr(noun, name)).decode()


_DERIVED: dict[str, Callable[[Trace], Any]] = {
    **{name: partial(_json, name) for name in _JSON},
    "question": lambda trace: _text(trace.task.get("prompt")),
    "answer": lambda trace: _text(trace.task.get("answer")),
    # What a trace shares with its parent is counted there, so that columns can be summed up.
    "agents": lambda trace: [consult.agent for consult in trace.own.consults],
    "consult_errors": lambda trace: sum(consult.error is not None for consult in trace.own.consults),
    "tokens": lambda trace: sum(map(len, trace.own.segments)),
    "policy_tokens": lambda trace: trace.own.count(Role.POLICY),
    "agent_tokens": lambda trace: trace.own.count(Role.AGENT),
    "segments": lambda trace: [*map(_record, trace.segments)],
    "consults": lambda trace: [*map(_record, trace.consults)],
    "visits": lambda trace: [*map(_visit, trace.visits)],
}


def to_table(stored: Sequence[Stored]) -> pa.Table:
    """One row per trace, in order."""
    traces = [s.trace for s in stored]
    columns: dict[str, Iterable[Any]] = {
        name: map(_DERIVED.get(name, attrgetter(name)), traces) for name in _COLUMNS if name != "texts"
    }
    columns["texts"] = (s.texts and [*map(clean, s.texts)] for s in stored)
    return pa.table([pa.array(columns[name], type_) for name, type_ in _COLUMNS.items()], schema=SCHEMA)


def from_table(table: pa.Table, where: str) -> list[Stored]:
    """The inverse of `to_table`; `where` names the table in errors.

    Raises:
        TraceError: another schema version, a column is missing, or a row is no trace; names the row.
    """
    check_version(table.schema, where, VERSION_KEY, SCHEMA_VERSION)
    if missing := sorted(set(SCHEMA.names) - {*table.column_names, *ADDED}):
        raise TraceError(f"columns of {where}: got none called {missing}, allowed {SCHEMA.names}")
    rows = table.drop_columns(["segments"]).to_pylist()
    stored: list[Stored] = []
    for number, (row, segments) in enumerate(zip(rows, _segments(table.column("segments")), strict=True)):
        try:
            stored.append(_stored(row | {"segments": segments}))
        except (ValueError, TypeError) as error:
            raise TraceError(
                f"row {number} of {where} ({row.get('trace_id')!r}) is no trace: {error}"
            ) from error
    return stored


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _record(noun: Any) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in noun.__dataclass_fields__}


def _visit(visit: Visit) -> dict[str, Any]:
    calls = [_record(c) | {name: _json(name, c) for name in ("messages", "settings")} for c in visit.calls]
    return _record(visit) | {"calls": calls}


def _segments(column: pa.ChunkedArray) -> list[Any]:
    """Fields of every trace's segments. Their arrays are cut from the table, and never lists of Python's numbers."""
    lists = column.combine_chunks()
    flat = lists.flatten()
    fields = {field.name: flat.field(field.name) for field in flat.type}
    values = {
        name: _cut(array.flatten().to_numpy(), array) if pa.types.is_list(array.type) else array.to_pylist()
        for name, array in fields.items()
    }
    return _cut([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)], lists)


def _cut(flat: Any, lists: pa.ListArray) -> list[Any]:
    """`flat` in pieces, one for each of `lists`; None where there is no list."""
    lengths = lists.value_lengths().to_pylist()
    ends = accumulate((length or 0 for length in lengths), initial=0)
    pieces = zip(lengths, pairwise(ends), strict=True)
    return [None if length is None else flat[start:end] for length, (start, end) in pieces]


def _stored(row: dict[str, Any]) -> Stored:
    fields = {name: row.get(name) for name in Trace.__dataclass_fields__}
    fields |= {name: orjson.loads(row[name]) for name in _JSON}
    for call in (call for visit in row["visits"] for call in visit["calls"]):
        call.update(messages=orjson.loads(call["messages"]), settings=orjson.loads(call["settings"]))
    texts = row["texts"]
    return Stored(Trace.from_raw(fields), None if texts is None else tuple(texts))
