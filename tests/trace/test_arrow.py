"""Traces as a table: nothing is lost, and what is no trace is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import TraceError
from aipo.trace import Fault, Mode, Role, StopReason, Trace, segment
from aipo.trace.arrow import ADDED, INDEX, SCHEMA, Stored, from_table, to_table
from aipo.trace.duckdb_views import Tables
from kit.handmade import consult, policy, prompt, trace
from kit.strategies import TRACES, of

TRACE = trace(
    prompt(1, 2),
    policy(3),
    segment(Role.AGENT, "verify", [], logprobs=[]),
    segment(Role.AGENT, "knowledge", [7, 8], logprobs=[float("nan"), -0.5]),
    trace_id="r/0/0",
    step=3,
    index=1,
    task={"prompt": "2+2=", "answer": 4},
    forbidden_ids=(5, 9),
    consults=(consult(1, None, 2, agent="verify", error="down", fault=Fault.UNAVAILABLE),),
    reward=0.1 + 0.2,
    reason="the last line says '5'",
    advantage=-1e-300,
    started=1.5,
    seconds=0.75,
)
TABLE = to_table([Stored(TRACE, None)])


@given(st.lists(st.tuples(TRACES, of(tuple[str, ...] | None)), max_size=2))
def test_every_trace_survives(pairs: list[tuple[Trace, tuple[str, ...] | None]]):
    stored = [Stored(*pair) for pair in pairs]
    table = to_table(stored)
    back = from_table(table, "here")
    assert back == stored
    assert [from_table(table.slice(i, 1), "here") for i in range(len(stored))] == [[one] for one in back]
    for one in back:
        assert isinstance(one.trace.mode, Mode) and isinstance(one.trace.stop_reason, StopReason)
        assert all(isinstance(s.role, Role) for s in one.trace.segments)
        assert all(isinstance(c.fault, Fault | None) for c in one.trace.consults)


def test_floats_keep_every_bit():
    values = np.array([-1e-45, -0.0, -3.1415927, -88.5], np.float32)
    changed = replace(TRACE, segments=(segment(Role.POLICY, "policy", [1, 2, 3, 4], logprobs=values),))
    (back,) = from_table(to_table([Stored(changed, None)]), "here")
    assert back.trace.segments[0].logprobs.tobytes() == values.tobytes()
    assert not back.trace.segments[0].token_ids.flags.writeable


def test_columns_say_what_a_reader_filters_by():
    row = to_table([Stored(TRACE, ("2+2=", "4", "", "58"))]).to_pylist()[0]
    assert {name: row[name] for name in INDEX} == {
        "trace_id": "r/0/0",
        "run_id": "r",
        "group_id": "g",
        "task_id": "q",
        "step": 3,
        "index": 1,
        "kind": "suppressed",  # alone, and ids were masked
        "mode": "solo",
        "policy": "policy",
        "parent_id": None,
        "fork_token": None,
        "question": "2+2=",
        "answer": "4",
        "reward": 0.1 + 0.2,
        "reason": "the last line says '5'",
        "advantage": -1e-300,
        "stop_reason": "eos",
        "error": None,
        "agents": ["verify"],
        "consult_errors": 1,
        "tokens": 5,
        "policy_tokens": 1,
        "agent_tokens": 2,
        "started": 1.5,
        "seconds": 0.75,
        "schema_version": 1,
    }
    assert row["texts"] == ["2+2=", "4", "", "58"]


def test_the_columns_are_those_of_files_that_were_recorded_before_and_what_traces_have_since():
    """They follow the dataclasses: whoever changes those changes files that others read."""
    file = Path(__file__).parents[1] / "kit" / "run_before" / "traces" / "step-00000-00000.parquet"
    visit = SCHEMA.field("visits").type.value_type
    call = visit.field("calls").type.value_type
    assert [field.name for field in call][-2:] == ["thinking", "finish"]
    calls = pa.field("calls", pa.list_(pa.struct([*call][:-2])))
    as_before = pa.struct([*[*visit][:-1], calls])
    piece = SCHEMA.field("segments").type.value_type
    assert [field.name for field in piece][-2:] == ["advantage", "history"]
    before = {"visits": as_before, "segments": pa.struct([*piece][:-2])}
    columns = [pa.field(f.name, pa.list_(before[f.name])) if f.name in before else f for f in SCHEMA]
    columns = [column for column in columns if column.name not in ADDED]
    assert pq.read_schema(file).equals(pa.schema(columns))


def test_half_an_emoji_in_a_text_is_shown_as_unknown():
    (back,) = from_table(to_table([Stored(TRACE, ("a\ud83d", "b", "c", "d"))]), "here")
    assert back.texts == ("a?", "b", "c", "d")


@pytest.mark.parametrize(("version", "got"), [(b"99", "got 99"), (None, "got none")])
def test_another_version_is_refused_by_name(version: bytes | None, got: str):
    table = TABLE.replace_schema_metadata({b"aipo.schema_version": version} if version else {})
    with pytest.raises(TraceError, match=f"schema version of some file: {got}, allowed 1"):
        from_table(table, "some file")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("mode", "dreaming", "mode\n.*'dreaming'"),
        ("task", "{", "unexpected end of data"),
        ("reward", float("nan"), "reward of 'r/0/0': got nan, allowed a finite number"),
    ],
)
def test_a_row_that_is_no_trace_is_refused_by_its_place(column: str, value: object, reason: str):
    broken = TABLE.set_column(TABLE.schema.get_field_index(column), column, pa.array([value]))
    with pytest.raises(TraceError, match=rf"(?s)row 0 of f \('r/0/0'\) is no trace: .*{reason}"):
        from_table(broken, "f")


def test_a_table_without_a_column_is_refused():
    with pytest.raises(TraceError, match=r"columns of f: got none called \['consults'\]"):
        from_table(TABLE.drop_columns(["consults"]), "f")


def test_a_table_of_before_reasons_were_recorded_has_none():
    (back,) = from_table(TABLE.drop_columns(["reason"]), "f")
    assert (back.trace.reward, back.trace.reason) == (0.1 + 0.2, None)


def test_a_file_of_before_faults_were_recorded_is_read_beside_a_new_one(tmp_path: Path):
    column = TABLE.schema.get_field_index("consults")
    kept = [{k: v for k, v in c.items() if k != "fault"} for c in TABLE.column("consults")[0].as_py()]
    item = TABLE.schema.field("consults").type.value_type
    type_ = pa.list_(pa.struct([f for f in item if f.name != "fault"]))
    old = TABLE.set_column(column, pa.field("consults", type_), pa.array([kept], type_))
    (back,) = from_table(old.replace_schema_metadata(TABLE.schema.metadata), "an old file")
    assert back.trace == replace(TRACE, consults=(replace(TRACE.consults[0], fault=None),))
    pq.write_table(old, tmp_path / "step-00000-00000.parquet")
    pq.write_table(TABLE, tmp_path / "step-00001-00000.parquet")
    query = "SELECT consults[1].fault FROM traces ORDER BY 1 NULLS FIRST"
    assert Tables(tmp_path, resident=False).all(query) == [(None,), ("unavailable",)]
