"""Traces as an Arrow table, and back without loss.

One row is one trace. What a reader filters by comes first, as plain columns; some of it is derived
(`question`, `agents`, `tokens`, `texts`, ...) so that nobody needs this package to use the files. Free-form
mappings (a task's metadata, sampling settings, a call's messages) are JSON strings. Token ids are int32,
log-probs and entropies float32, bit for bit as they were sampled.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from aipo.errors import AipoError, TraceError
from aipo.trace.types import (
    SCHEMA_VERSION,
    Call,
    Consult,
    Fault,
    Mode,
    Role,
    Segment,
    StopReason,
    Trace,
    Visit,
)
from aipo.util.text import clean, to_json


class Stored(NamedTuple):
    """A trace as it was stored, with the text of each of its segments (None: it could not be decoded)."""

    trace: Trace
    texts: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, what it holds of a trace, and whether `Trace` has a field of that name."""

    type: pa.DataType
    of: Callable[[Trace], Any]
    field: bool = True
    json: bool = False


def _plain(name: str, type_: pa.DataType) -> Column:
    return Column(type_, attrgetter(name))


def _json(name: str) -> Column:
    return Column(pa.string(), lambda trace: to_json(getattr(trace, name)).decode(), json=True)


def _derived(type_: pa.DataType, of: Callable[[Trace], Any]) -> Column:
    return Column(type_, of, field=False)


def _fields(noun: type, **types: pa.DataType) -> pa.StructType:
    assert set(types) == set(noun.__dataclass_fields__), noun  # a new field needs its column
    return pa.struct(list(types.items()))


_TEXT, _INT, _REAL, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_FLOATS = pa.list_(pa.float32())
_SEGMENT = _fields(
    Segment,
    role=_TEXT,
    source=_TEXT,
    token_ids=pa.list_(pa.int32()),
    logprobs=_FLOATS,
    entropies=_FLOATS,
    policy_version=_INT,
    policy=_TEXT,
)
_CONSULT = _fields(
    Consult,
    agent=_TEXT,
    request=_TEXT,
    reply=_TEXT,
    error=_TEXT,
    request_segment=_INT,
    request_start=_INT,
    reply_segment=_INT,
    policy=_TEXT,
    fault=_TEXT,
)
_CALL = _fields(
    Call,
    agent=_TEXT,
    visit=_TEXT,
    model=_TEXT,
    messages=_TEXT,
    reply=_TEXT,
    settings=_TEXT,
    tokens_in=_INT,
    tokens_out=_INT,
    cost=_REAL,
    attempts=_INT,
    started=_REAL,
    seconds=_REAL,
    cached=_BOOL,
    error=_TEXT,
)
_VISIT = _fields(Visit, path=_TEXT, started=_REAL, seconds=_REAL, outcome=_TEXT, calls=pa.list_(_CALL))

COLUMNS: dict[str, Column] = {
    "trace_id": _plain("trace_id", _TEXT),
    "run_id": _plain("run_id", _TEXT),
    "group_id": _plain("group_id", _TEXT),
    "task_id": _plain("task_id", _TEXT),
    "step": _plain("step", _INT),
    "index": _plain("index", _INT),
    "kind": _derived(_TEXT, lambda trace: trace.kind),
    "mode": _plain("mode", _TEXT),
    "policy": _plain("policy", _TEXT),
    "parent_id": _plain("parent_id", _TEXT),
    "fork_token": _plain("fork_token", _INT),
    "question": _derived(_TEXT, lambda trace: _text(trace.task.get("prompt"))),
    "answer": _derived(_TEXT, lambda trace: _text(trace.task.get("answer"))),
    "reward": _plain("reward", _REAL),
    "advantage": _plain("advantage", _REAL),
    "stop_reason": _plain("stop_reason", _TEXT),
    "error": _plain("error", _TEXT),
    "agents": _derived(pa.list_(_TEXT), lambda trace: [c.agent for c in trace.consults]),
    "consult_errors": _derived(_INT, lambda trace: sum(c.error is not None for c in trace.consults)),
    "tokens": _derived(_INT, lambda trace: sum(map(len, trace.segments))),
    "policy_tokens": _derived(_INT, lambda trace: trace.count(Role.POLICY)),
    "agent_tokens": _derived(_INT, lambda trace: trace.count(Role.AGENT)),
    "started": _plain("started", _REAL),
    "seconds": _plain("seconds", _REAL),
    "schema_version": _plain("schema_version", _INT),
    "policy_version": _plain("policy_version", _INT),
    "reward_parts": _json("reward_parts"),
    "task": _json("task"),
    "seed": _plain("seed", _INT),
    "sampling": _json("sampling"),
    "fingerprints": _json("fingerprints"),
    "forbidden_ids": _plain("forbidden_ids", pa.list_(pa.int32())),
}
"""What is said of a trace, its tokens apart."""

INDEX = tuple(COLUMNS)[: list(COLUMNS).index("policy_version")]
"""Columns that listing and filtering read, and that have statistics in the file."""

_NESTED = {"segments": _SEGMENT, "consults": _CONSULT, "visits": _VISIT}
SCHEMA = pa.schema(
    [(name, column.type) for name, column in COLUMNS.items()]
    + [("texts", pa.list_(_TEXT))]
    + [(name, pa.list_(type_)) for name, type_ in _NESTED.items()],
    metadata={"aipo.schema_version": str(SCHEMA_VERSION)},
)
FLOAT_COLUMNS = [f"segments.list.element.{name}.list.element" for name in ("logprobs", "entropies")]


def to_table(stored: Sequence[Stored]) -> pa.Table:
    """One row per trace, in order."""
    traces = [s.trace for s in stored]
    arrays = {n: pa.array(map(column.of, traces), column.type) for n, column in COLUMNS.items()}
    arrays["texts"] = pa.array([s.texts and [*map(clean, s.texts)] for s in stored], pa.list_(_TEXT))
    segments = [*chain.from_iterable(t.segments for t in traces)]
    arrays["segments"] = _lists([len(t.segments) for t in traces], _segments(segments))
    arrays["consults"] = pa.array([[*map(_record, t.consults)] for t in traces], pa.list_(_CONSULT))
    arrays["visits"] = pa.array([[*map(_visit, t.visits)] for t in traces], pa.list_(_VISIT))
    return pa.table([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def from_table(table: pa.Table, where: str) -> list[Stored]:
    """The inverse of `to_table`; `where` names the table in errors.

    Raises:
        TraceError: another schema version, a column is missing, or a row is no trace; names the row.
    """
    check_version(table.schema, where)
    if missing := sorted(set(SCHEMA.names) - set(table.column_names)):
        raise TraceError(f"columns of {where}: got none called {missing}, allowed {SCHEMA.names}")
    plain = table.drop_columns(["segments"]).to_pylist()
    segments = _segment_lists(table.column("segments"))
    stored: list[Stored] = []
    for number, (row, own) in enumerate(zip(plain, segments, strict=True)):
        try:
            stored.append(_stored(row, own))
        except (AipoError, ValueError, TypeError, KeyError) as error:
            raise TraceError(
                f"row {number} of {where} ({row.get('trace_id')!r}) is no trace: {error}"
            ) from error
    return stored


def check_version(schema: pa.Schema, where: str) -> None:
    """Refuses tables of another version or another program.

    Raises:
        TraceError: names the version.
    """
    said = (schema.metadata or {}).get(b"aipo.schema_version")
    if said != str(SCHEMA_VERSION).encode():
        got = "none" if said is None else said.decode(errors="replace")
        raise TraceError(f"schema version of {where}: got {got}, allowed {SCHEMA_VERSION}")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _lists(lengths: Iterable[int], values: pa.Array, known: Sequence[bool] | None = None) -> pa.ListArray:
    """Lists of these lengths, cut from `values`; null where not `known`."""
    offsets = np.concatenate([[0], np.cumsum([*lengths])]).astype(np.int32)
    mask = None if known is None or all(known) else pa.array([not k for k in known])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def _segments(segments: Sequence[Segment]) -> pa.StructArray:
    def numbers(name: str, dtype: type[np.generic]) -> pa.ListArray:
        parts: list[npt.NDArray[Any] | None] = [getattr(s, name) for s in segments]
        flat = np.concatenate([np.empty(0, dtype), *(p for p in parts if p is not None)])
        lengths = (0 if p is None else len(p) for p in parts)
        return _lists(lengths, pa.array(flat), [p is not None for p in parts])

    arrays: dict[str, pa.Array] = {
        field.name: pa.array((getattr(s, field.name) for s in segments), field.type)
        for field in _SEGMENT
        if not pa.types.is_list(field.type)
    }
    arrays["token_ids"] = numbers("token_ids", np.int32)
    arrays |= {name: numbers(name, np.float32) for name in ("logprobs", "entropies")}
    return pa.StructArray.from_arrays([arrays[f.name] for f in _SEGMENT], fields=list(_SEGMENT))


def _segment_lists(column: pa.ChunkedArray) -> list[tuple[dict[str, Any], ...]]:
    """Fields of every trace's segments; arrays are views into the table."""
    lists = column.combine_chunks()
    inner = lists.flatten()
    fields = {f.name: inner.field(f.name) for f in _SEGMENT}
    values = {n: _slices(a) if pa.types.is_list(a.type) else a.to_pylist() for n, a in fields.items()}
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    ends = np.cumsum([0, *lists.value_lengths().to_pylist()]).tolist()
    return [tuple(rows[start:end]) for start, end in pairwise(ends)]


def _slices(lists: pa.ListArray) -> list[npt.NDArray[Any] | None]:
    flat, known = lists.flatten().to_numpy(zero_copy_only=True), lists.is_valid().to_pylist()
    ends = np.cumsum([0, *(n or 0 for n in lists.value_lengths().to_pylist())]).tolist()
    parts = [flat[start:end] for start, end in pairwise(ends)]
    return [part if there else None for part, there in zip(parts, known, strict=True)]


def _record(noun: Any) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in noun.__dataclass_fields__}


def _visit(visit: Visit) -> dict[str, Any]:
    calls = [
        _record(c) | {"messages": to_json(c.messages).decode(), "settings": to_json(c.settings).decode()}
        for c in visit.calls
    ]
    return _record(visit) | {"calls": calls}


def _stored(row: dict[str, Any], segments: Sequence[dict[str, Any]]) -> Stored:
    fields: dict[str, Any] = {name: row[name] for name, column in COLUMNS.items() if column.field}
    fields |= {name: orjson.loads(row[name]) for name, column in COLUMNS.items() if column.json}
    fields |= {
        "mode": Mode(row["mode"]),
        "stop_reason": StopReason(row["stop_reason"]),
        "forbidden_ids": tuple(row["forbidden_ids"]),
        "segments": tuple(Segment(**_with(s, role=Role(s["role"]))) for s in segments),
        "consults": tuple(map(_consult, row["consults"])),
        "visits": tuple(Visit(**_with(v, calls=tuple(map(_call, v["calls"])))) for v in row["visits"]),
    }
    texts = row["texts"]
    return Stored(Trace(**fields), None if texts is None else tuple(texts))


def _consult(row: dict[str, Any]) -> Consult:
    fault = row.get("fault")  # older files have none
    return Consult(**_with(row, fault=None if fault is None else Fault(fault)))


def _call(row: dict[str, Any]) -> Call:
    messages, settings = tuple(orjson.loads(row["messages"])), orjson.loads(row["settings"])
    return Call(**_with(row, messages=messages, settings=settings))


def _with(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return row | changes
