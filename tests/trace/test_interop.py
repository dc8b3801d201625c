"""A run's files as others read them: DuckDB, `datasets`, pandas and polars, none of which knows this package.

While they read, a step is in flight and an earlier attempt of a step has been set aside.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aipo.trace import Consult, Role, StopReason, Trace, segment
from aipo.trace.arrow import SCHEMA, Stored
from aipo.trace.store import TraceStore
from kit.engines import TOKENIZER, run

Rows = Sequence[Mapping[str, Any]]


def made(step: int) -> list[Trace]:
    """Three rollouts: plain; with a consult, an id that needs 32 bits and a number that float32 rounds; failed."""
    plain = replace(run()[0], trace_id=f"run/{step}/0", step=step, advantage=-0.5)
    asked = segment(Role.POLICY, "policy", [2**31 - 1, 1], logprobs=[-0.1, -1e-7], entropies=[0.25, 0.0])
    told = segment(Role.AGENT, "verify", [5, 6, 7])
    consult = Consult(
        agent="verify", request="42?", reply="right", request_segment=1, request_start=0, reply_segment=2
    )
    assisted = replace(
        plain,
        trace_id=f"run/{step}/1",
        index=1,
        segments=(plain.segments[0], asked, told),
        consults=(consult,),
        advantage=0.5,
    )
    failed = replace(
        plain,
        trace_id=f"run/{step}/2",
        index=2,
        reward_parts={},
        reward=None,
        advantage=None,
        stop_reason=StopReason.DEADLINE,
        error="deadline: got 61 s, allowed 60",
    )
    return [plain, assisted, failed]


def decode(ids: Any) -> str:
    return TOKENIZER.decode([i % len(TOKENIZER) for i in ids])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceStore]:
    """Steps 0 and 1 sealed, step 1 for the second time; step 2 in flight, and its file half written."""
    with TraceStore(tmp_path_factory.mktemp("run") / "traces", decode=decode) as store:
        store.seal(0, made(0))
        store.seal(1, [replace(trace, trace_id=f"stale/{trace.index}") for trace in made(1)])
        store.begin(1)
        store.seal(1, made(1))
        store.append(made(2)[0])
        (store.folder / "_step-00002-00000.parquet.draft").write_bytes(b"PAR1 and no more")
        yield store


@pytest.fixture(scope="module")
def expected(store: TraceStore) -> list[Stored]:
    """What this package reads of the sealed steps."""
    return [stored for step in (0, 1) for stored in store.stored(step)]


def by_duckdb(folder: Path, cache: Path) -> Rows:
    import duckdb

    return duckdb.read_parquet(f"{folder}/*.parquet").to_arrow_table().to_pylist()


def by_datasets(folder: Path, cache: Path) -> Rows:
    datasets = importlib.import_module("datasets")
    return datasets.load_dataset(
        "parquet", data_files=f"{folder}/*.parquet", split="train", cache_dir=str(cache)
    ).to_list()


def by_pandas(folder: Path, cache: Path) -> Rows:
    pandas = importlib.import_module("pandas")
    frame = pandas.read_parquet(folder)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def by_polars(folder: Path, cache: Path) -> Rows:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.read_parquet(f"{folder}/*.parquet").to_dicts()


def same(value: Any, wanted: Sequence[float] | None) -> bool:
    """Equal to the last bit: what a reader gives as float64 is a float32 all the same."""
    return (value is None) == (wanted is None) and (wanted is None or list(value) == list(wanted))


@pytest.mark.parametrize(
    "read", [by_duckdb, by_datasets, by_pandas, by_polars], ids=["duckdb", "datasets", "pandas", "polars"]
)
def test_others_read_what_the_store_reads(
    read: Callable[[Path, Path], Rows], store: TraceStore, expected: list[Stored], tmp_path: Path
):
    rows = read(store.folder, tmp_path)
    assert [row["trace_id"] for row in rows] == [
        f"run/{step}/{index}" for step in (0, 1) for index in range(3)
    ]
    assert list(rows[0]) == SCHEMA.names
    for row, (trace, texts) in zip(rows, expected, strict=True):
        assert texts is not None
        assert list(row["texts"]) == list(texts)
        assert list(row["agents"]) == [consult.agent for consult in trace.consults]
        for name in ("step", "index", "task_id", "reward", "advantage", "error", "seconds"):
            assert row[name] == getattr(trace, name), name
        assert row["stop_reason"] == str(trace.stop_reason)
        for got, own in zip(row["segments"], trace.segments, strict=True):
            assert (got["role"], got["source"]) == (str(own.role), own.source)
            assert same(got["token_ids"], own.token_ids.tolist())
            for name in ("logprobs", "entropies"):
                values = getattr(own, name)
                assert same(got[name], None if values is None else values.tolist()), name
        for got, consult in zip(row["consults"], trace.consults, strict=True):
            assert (got["agent"], got["request"], got["reply"]) == (
                consult.agent,
                consult.request,
                consult.reply,
            )


def test_a_step_in_flight_is_in_its_journal_alone(store: TraceStore):
    """What the others leave out is there: the store reads it, and the attempt that was set aside is kept."""
    assert [trace.trace_id for trace in store.read(2)] == ["run/2/0"]
    assert len(list(store.folder.glob("__journal/*"))) == 1
    assert len(list(store.folder.glob("__superseded/*"))) == 1


def test_sql_alone_answers_a_question(store: TraceStore):
    """Nested columns are within reach of a query: what did agents say, where, and was it worth it?"""
    import duckdb

    query = f"""
        SELECT consult.agent, consult.reply, len(segments[consult.reply_segment + 1].token_ids) AS tokens, reward
        FROM (SELECT unnest(consults) AS consult, segments, reward FROM read_parquet('{store.folder}/*.parquet'))
    """
    assert duckdb.sql(query).fetchall() == [("verify", "right", 3, 1.5), ("verify", "right", 3, 1.5)]


def test_free_form_columns_are_json(store: TraceStore):
    import duckdb

    query = f"""SELECT DISTINCT task->>'answer', reward_parts->>'correct', sampling->>'max_tokens'
        FROM read_parquet('{store.folder}/*.parquet') WHERE reward IS NOT NULL"""
    assert duckdb.sql(query).fetchall() == [("42", "1.0", "64")]
