"""Lessons: literals, where their tokens are in the trace, and files that hold what was put in."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aipo.errors import TraceError
from aipo.method.rows import Code, Row, distil, rows_of
from aipo.policies.tags import Tags
from aipo.trace import token_stats as module
from aipo.trace.token_stats import TokenStats, TokenStatsStore, positions
from aipo.train.token_stats import TokenStatsRecorder
from kit.handmade import agent, consult, env, policy, prompt, trace

L, A, E, C, D = Code.POLICY, Code.AGENT, Code.ENV, Code.CONTEXT, Code.DISTILLED
NAN = np.nan


def stats(trace_id: str = "t", *, segments: list[int] | None = None, **changes: Any) -> TokenStats:
    own = [1, 1, 2, 2, 3] if segments is None else segments
    made: dict[str, Any] = {
        "kind": "sampled",
        "step": 3,
        "optimizer_step": 7,
        "segments_T": np.array(own, np.int32),
        "codes_T": np.array([L, L, A, A, L][: len(own)], np.int8),
        "weights_T": np.array([1.5, 0.0, 0.25, 0.25, 1.0][: len(own)], np.float32),
        "ratios_T": np.array([1.5, 2.0, NAN, NAN, 1.0][: len(own)], np.float32),
        "clipped_T": np.array([False, True, False, False, False][: len(own)], np.bool_),
        "advantage": 0.1,
    }
    return TokenStats(trace_id=trace_id, **(made | changes))


TRAINED = {"logprobs_T": np.array([-1, -2, -3, -4, -0.5], np.float32), "agent_advantage": 1.0, "push": 0.25}


def same(a: TokenStats, b: TokenStats) -> bool:
    for name in TokenStats.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(getattr(a, name), "dtype", None) == getattr(getattr(b, name), "dtype", None), name
    return True


# -- where a token is in its trace ---------------------------------------------------------------------


HELPED = trace(prompt(2, 3), policy(4, 13, 5), agent(6, 7), policy(8, 9), consults=(consult(1, 1, 2),))


def placed(row: Row | None, lengths: list[int]) -> list[int]:
    assert row is not None
    start = row.prompt_tokens
    nothing = np.zeros(len(row) - start, np.float32)
    found = positions(
        stats(
            segments_T=row.segments_T[start:],
            codes_T=row.codes_T[start:],
            weights_T=nothing,
            ratios_T=nothing,
            clipped_T=nothing > 0,
        ),
        lengths,
    )
    assert found.dtype == np.int32
    return found.tolist()


def test_a_row_holds_tokens_after_the_prompt():
    (row,) = rows_of(HELPED)
    assert placed(row, [2, 3, 2, 2]) == [2, 3, 4, 5, 6, 7, 8]
    (row,) = rows_of(trace(prompt(2), policy(3), env(), policy(4, 5)))
    assert placed(row, [1, 1, 0, 2]) == [1, 2, 3]  # empty segments take no place
    (row,) = rows_of(trace(prompt(2, 3)))
    assert placed(row, [2]) == []


@pytest.mark.parametrize("other", [{}, {"prompt": prompt(11)}])
def test_a_distilled_row_has_gaps_where_it_was_cut(other: dict[str, Any]):
    """Positions are those in the trace, also where the row's prompt has another length."""
    row = distil(HELPED, Tags((13,)), **other)
    assert row is not None and row.codes_T[row.prompt_tokens :].tolist() == [C, D, D]
    assert placed(row, [2, 3, 2, 2]) == [2, 7, 8]
    assert HELPED.token_ids[[2, 7, 8]].tolist() == [4, 8, 9]


@pytest.mark.parametrize("lengths", [[1, 2], [1, 2, 2, 0], [1, 2, 1, 4], []])
def test_a_trace_with_other_segments_is_refused(lengths: list[int]):
    with pytest.raises(TraceError, match="segments of 't': got lengths"):
        positions(stats(), lengths)


def test_arrays_of_a_token_stats_have_one_length():
    says = r"arrays of a row of token stats: got lengths \{.*\}, allowed one, in 't'"
    with pytest.raises(TraceError, match=says):
        stats(clipped_T=np.array([True]))


# -- the ledger ----------------------------------------------------------------------------------------


def test_a_ledger_that_nobody_reads_keeps_nothing():
    ledger = TokenStatsRecorder(None)
    ledger.deal([rows_of(HELPED)])
    ledger.record(0, None, None)  # type: ignore[arg-type]  # it does not even look
    ledger.end_step(0, 1)
    ledger.close(0)


# -- files ---------------------------------------------------------------------------------------------


def test_what_was_published_is_read(tmp_path: Path):
    store = TokenStatsStore(tmp_path)
    given = [
        stats("b"),
        stats("a", kind="distilled", optimizer_step=6),
        stats("a", kind="exchanged", optimizer_step=9),
        stats("a", optimizer_step=8),
        stats("a", optimizer_step=7, advantage=-1 / 3),
        stats("c", segments=[]),
    ]
    store.publish(3, given)
    found = store.of("a", 3)
    order = [(one.kind, one.optimizer_step) for one in found]
    assert order == [("sampled", 7), ("sampled", 8), ("exchanged", 9), ("distilled", 6)]
    assert all(
        same(one, other) for one, other in zip(found, [given[4], given[3], given[2], given[1]], strict=True)
    )
    assert same(store.of("b", 3)[0], given[0])
    assert same(store.of("c", 3)[0], given[5])
    assert store.of("d", 3) == store.of("a", 4) == []


def test_a_file_without_the_later_columns_is_read_and_what_it_lacks_is_unknown(tmp_path: Path):
    store = TokenStatsStore(tmp_path)
    store.publish(3, [stats("a", **TRAINED)])
    (now,) = store.of("a", 3)
    assert same(now, stats("a", **TRAINED))
    file = tmp_path / "step-00003-00000.parquet"
    older = pq.read_table(file).drop_columns(["logprobs", "agent_advantage", "push"])
    pq.write_table(older, file)
    assert same(store.of("a", 3)[0], stats("a"))
    pq.write_table(older.drop_columns(["clipped"]), file)
    with pytest.raises(TraceError, match="columns of"):
        store.of("a", 3)


def test_what_all_rows_weigh_is_summed_by_optimizer_step_unless_one_is_unknown(tmp_path: Path):
    store, rows = TokenStatsStore(tmp_path), [(0.25, 7), (0.5, 7), (0.25, 7), (0.5, 8)]
    given = [stats(str(n), push=push, optimizer_step=step) for n, (push, step) in enumerate(rows)]
    store.publish(3, given)
    assert store.pushes(3) == {7: 1.0, 8: 0.5}
    store.publish(4, [*given, stats("unknown")])
    assert store.pushes(4) == store.pushes(5) == {}


def test_a_generation_in_which_nothing_was_trained_is_a_file_too(tmp_path: Path):
    store = TokenStatsStore(tmp_path)
    store.publish(0, [])
    assert store.of("a", 0) == []
    assert pq.read_table(tmp_path / "step-00000-00000.parquet").num_rows == 0


def test_row_groups_are_small_and_know_their_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two traces per group here: whoever looks for one skips the others' groups."""
    monkeypatch.setattr(module, "_TOKENS_PER_GROUP", 10)
    TokenStatsStore(tmp_path).publish(0, [stats(f"t{i}") for i in range(8)])
    data = pq.ParquetFile(tmp_path / "step-00000-00000.parquet").metadata
    columns = [data.row_group(i).column(0).statistics for i in range(data.num_row_groups)]
    assert [(c.min, c.max) for c in columns] == [("t0", "t1"), ("t2", "t3"), ("t4", "t5"), ("t6", "t7")]
    assert [one.trace_id for one in TokenStatsStore(tmp_path).of("t4", 0)] == ["t4"]


def test_a_generation_that_is_done_over_is_set_aside(tmp_path: Path):
    store = TokenStatsStore(tmp_path)
    for step in range(3):
        store.publish(step, [stats("a", step=step)])
    store.begin(1)
    assert [len(store.of("a", step)) for step in range(3)] == [1, 0, 0]
    assert len(list((tmp_path / "__superseded").glob("*.parquet.attempt-*"))) == 2
    store.publish(1, [stats("a", optimizer_step=99)])
    assert store.of("a", 1)[0].optimizer_step == 99


def test_a_torn_file_is_refused_by_name(tmp_path: Path):
    store = TokenStatsStore(tmp_path)
    store.publish(0, [stats()])
    file = tmp_path / "step-00000-00000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TraceError, match=r"file of token stats .*step-00000-00000\.parquet: got"):
        store.of("t", 0)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (pa.schema([("x", pa.int64())]), "schema version of .*: got none, allowed 1"),
        (module.SCHEMA.with_metadata({"aipo.lessons": "2"}), "schema version of .*: got 2, allowed 1"),
        (module.SCHEMA.remove(2), r"columns of .*: got \['trace_id', 'kind', 'update', .*allowed"),
    ],
)
def test_another_schema_is_refused_by_name(tmp_path: Path, schema: pa.Schema, says: str):
    pq.write_table(schema.empty_table(), tmp_path / "step-00000-00000.parquet")
    with pytest.raises(TraceError, match=says) as caught:
        TokenStatsStore(tmp_path).of("t", 0)
    assert "step-00000-00000.parquet" in str(caught.value)


def test_others_read_the_files_too(tmp_path: Path):
    TokenStatsStore(tmp_path).publish(0, [stats("a")])
    query = f"select weights, list_sum(clipped::int[]) from '{tmp_path}/*.parquet' where trace_id = 'a'"
    assert duckdb.sql(query).fetchall() == [([1.5, 0.0, 0.25, 0.25, 1.0], 1)]
