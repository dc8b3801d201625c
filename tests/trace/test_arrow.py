"""Traces as a table: nothing is lost, and what is no trace is refused by name."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import TraceError
from aipo.trace import Call, Consult, Fault, Mode, Role, StopReason, Trace, Visit, segment
from aipo.trace.arrow import COLUMNS, INDEX, SCHEMA, Stored, from_table, to_table
from aipo.trace.duckdb_views import Tables
from kit.engines import run

CALL = Call(
    agent="verify",
    visit="verify/check",
    model="m",
    messages=({"role": "human", "content": "2+2=5?"},),
    reply="no",
    settings={"temperature": 0.1, "nested": {"a": [1, None]}},
    tokens_in=7,
    started=0.25,
    seconds=0.5,
)
TRACE = Trace(
    trace_id="r/0/0",
    run_id="r",
    group_id="0",
    task_id="t",
    step=3,
    index=1,
    mode=Mode.SOLO,
    task={"prompt": "2+2=", "answer": 4, "metadata": {"a": [1, {"b": None}]}},
    seed=2**62 + 1,
    sampling={"temperature": 1.0},
    forbidden_ids=(5, 9),
    segments=(
        segment(Role.PROMPT, "task", [1, 2]),
        segment(Role.POLICY, "policy", [3], logprobs=[-0.1], entropies=[0.2], policy_version=4),
        segment(Role.AGENT, "verify", [], logprobs=[]),
        segment(Role.AGENT, "knowledge", [7, 8], logprobs=[float("nan"), -0.5]),
    ),
    consults=(
        Consult(
            agent="verify",
            request="2+2=5",
            reply=None,
            error="down",
            request_segment=1,
            request_start=None,
            reply_segment=2,
            fault=Fault.UNAVAILABLE,
        ),
    ),
    visits=(Visit(path="verify/check", started=0.1, seconds=None, outcome="cancelled", calls=(CALL,)),),
    reward_parts={"correct": 0.1 + 0.2},
    reward=0.1 + 0.2,
    advantage=-1e-300,
    stop_reason=StopReason.EOS,
    policy_version=4,
    fingerprints={"graph": "abc"},
    started=1.5,
    seconds=0.75,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
floats = st.floats(-50, 0, width=32)
segments = st.one_of(
    st.lists(st.integers(0, 2**31 - 1), max_size=4).map(lambda ids: segment(Role.AGENT, "a", ids)),
    st.lists(st.tuples(st.integers(0, 9), floats), min_size=1, max_size=4).map(
        lambda pairs: segment(
            Role.POLICY, "policy", [i for i, _ in pairs], logprobs=[p for _, p in pairs], policy_version=1
        )
    ),
)


@given(
    st.lists(
        st.tuples(st.lists(segments, max_size=4), st.none() | st.lists(texts, max_size=3).map(tuple)),
        max_size=4,
    )
)
def test_every_trace_survives(made: list[tuple[list, tuple[str, ...] | None]]):
    stored = [Stored(replace(TRACE, segments=tuple(own)), said) for own, said in made]
    assert from_table(to_table(stored), "here") == stored


def test_floats_keep_every_bit():
    values = np.array([-1e-45, -0.0, -3.1415927, -88.5], np.float32)
    trace = replace(TRACE, segments=(segment(Role.POLICY, "policy", [1, 2, 3, 4], logprobs=values),))
    (back,) = from_table(to_table([Stored(trace, None)]), "here")
    assert back.trace.segments[0].logprobs.tobytes() == values.tobytes()
    assert not back.trace.segments[0].token_ids.flags.writeable


def test_one_row_out_of_many():
    stored = [
        Stored(replace(TRACE, trace_id=str(i), segments=TRACE.segments[: i + 1]), None) for i in range(3)
    ]
    table = to_table(stored)
    assert [from_table(table.slice(i, 1), "here")[0] for i in range(3)] == stored


def test_columns_say_what_a_reader_filters_by():
    row = to_table([Stored(TRACE, ("2+2=", "4", "", "58"))]).to_pylist()[0]
    said = {name: row[name] for name in INDEX}
    assert said == {
        "trace_id": "r/0/0",
        "run_id": "r",
        "group_id": "0",
        "task_id": "t",
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


def test_every_field_has_its_column():
    assert {f.name for f in fields(Trace)} <= set(SCHEMA.names)
    assert {name for name, column in COLUMNS.items() if column.field} <= {f.name for f in fields(Trace)}


def test_half_an_emoji_in_a_text_is_shown_as_unknown():
    (back,) = from_table(to_table([Stored(TRACE, ("a\ud83d", "b", "c", "d"))]), "here")
    assert back.texts == ("a?", "b", "c", "d")


@pytest.mark.parametrize(("version", "got"), [(b"99", "got 99"), (None, "got none")])
def test_another_version_is_refused_by_name(version: bytes | None, got: str):
    table = to_table([Stored(TRACE, None)])
    table = table.replace_schema_metadata({b"aipo.schema_version": version} if version else {})
    with pytest.raises(TraceError, match=f"schema version of some file: {got}, allowed 1"):
        from_table(table, "some file")


def test_a_table_of_something_else_is_refused():
    table = to_table([Stored(TRACE, None)])
    with pytest.raises(TraceError, match=r"columns of f: got none called \['consults'\]"):
        from_table(table.drop_columns(["consults"]), "f")
    broken = table.set_column(table.schema.get_field_index("mode"), "mode", pa.array(["dreaming"]))
    with pytest.raises(TraceError, match=r"row 0 of f \('r/0/0'\) is no trace: 'dreaming'"):
        from_table(broken, "f")


def test_a_file_of_before_faults_were_recorded_is_read_beside_a_new_one(tmp_path: Path):
    table = to_table([Stored(TRACE, None)])
    column = table.schema.get_field_index("consults")
    kept = [{k: v for k, v in c.items() if k != "fault"} for c in table.column("consults")[0].as_py()]
    item = table.schema.field("consults").type.value_type
    type_ = pa.list_(pa.struct([f for f in item if f.name != "fault"]))
    old = table.set_column(column, pa.field("consults", type_), pa.array([kept], type_))
    (back,) = from_table(old.replace_schema_metadata(table.schema.metadata), "an old file")
    assert back.trace == replace(TRACE, consults=(replace(TRACE.consults[0], fault=None),))
    pq.write_table(old, tmp_path / "step-00000-00000.parquet")
    pq.write_table(table, tmp_path / "step-00001-00000.parquet")
    tables = Tables(tmp_path, resident=False)
    assert tables.all("SELECT consults[1].fault FROM traces ORDER BY 1 NULLS FIRST") == [
        (None,),
        ("unavailable",),
    ]


def test_traces_of_the_engine_survive():
    stored = [Stored(trace, None) for trace in run(count=3)]
    assert from_table(to_table(stored), "here") == stored
