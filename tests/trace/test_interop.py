"""A run's files as others read them: DuckDB, `datasets`, pandas and polars, none of which knows this package.

While they read, a step is in flight and an earlier attempt of a step has been set aside.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from aipo.trace import Role, StopReason, Trace, segment
from aipo.trace.arrow import SCHEMA
from aipo.trace.store import TraceStore
from kit.handmade import agent, consult, policy, prompt, trace

Rows = Sequence[Mapping[str, Any]]


def made(step: int) -> list[Trace]:
    """Three rollouts: plain; with a consult, an id that needs 32 bits and a number that float32 rounds; failed."""
    big = segment(Role.POLICY, "policy", [2**31 - 1, 1], logprobs=[-0.1, -1e-7], entropies=[0.25, 0.0])
    told = consult(1, 0, 2, agent="verify", request="42?", reply="right")
    failure = {"reward": None, "stop_reason": StopReason.DEADLINE, "error": "deadline: got 61 s, allowed 60"}
    plain = {
        "step": step,
        "task": {"prompt": "6x7=", "answer": "42"},
        "reward_parts": {"correct": 1.0},
        "sampling": {"max_tokens": 64},
    }
    return [
        trace(prompt(1), policy(2, 3), trace_id=f"run/{step}/0", **plain),
        trace(prompt(1), big, agent(5, 6, 7), trace_id=f"run/{step}/1", index=1, consults=(told,), **plain),
        trace(prompt(1), policy(2, 3), trace_id=f"run/{step}/2", index=2, **(plain | failure)),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceStore]:
    """Steps 0 and 1 sealed, step 1 for the second time; step 2 in flight, and its file half written."""
    with TraceStore(tmp_path_factory.mktemp("run") / "traces", decode=lambda ids: "x" * len(ids)) as store:
        store.seal(0, made(0))
        store.seal(1, [replace(one, trace_id=f"stale/{one.index}") for one in made(1)])
        store.begin(1)
        store.seal(1, made(1))
        store.append(made(2)[0])
        (store.folder / "_step-00002-00000.parquet.draft").write_bytes(b"PAR1 and no more")
        yield store


def by_duckdb(folder: Path, cache: Path) -> Rows:
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


def same(value: Any, wanted: Any) -> bool:
    """Equal to the last bit: what a reader gives as float64 is a float32 all the same."""
    return (value is None) == (wanted is None) and (wanted is None or list(value) == wanted.tolist())


@pytest.mark.parametrize(
    "read", [by_duckdb, by_datasets, by_pandas, by_polars], ids=["duckdb", "datasets", "pandas", "polars"]
)
def test_others_read_what_the_store_reads(
    read: Callable[[Path, Path], Rows], store: TraceStore, tmp_path: Path
):
    rows = read(store.folder, tmp_path)
    assert [row["trace_id"] for row in rows] == [f"run/{i // 3}/{i % 3}" for i in range(6)]
    assert list(rows[0]) == SCHEMA.names
    for row, (own, texts) in zip(rows, [*store.stored(0), *store.stored(1)], strict=True):
        assert texts is not None
        assert list(row["texts"]) == list(texts)
        assert list(row["agents"]) == [one.agent for one in own.consults]
        for name in ("step", "index", "task_id", "reward", "advantage", "error", "seconds"):
            assert row[name] == getattr(own, name), name
        assert row["stop_reason"] == str(own.stop_reason)
        for got, piece in zip(row["segments"], own.segments, strict=True):
            assert (got["role"], got["source"]) == (str(piece.role), piece.source)
            for name in ("token_ids", "logprobs", "entropies"):
                assert same(got[name], getattr(piece, name)), name
        for got, one in zip(row["consults"], own.consults, strict=True):
            assert all(got[name] == getattr(one, name) for name in ("agent", "request", "reply"))


def test_sql_alone_answers_a_question(store: TraceStore):
    """Nested columns are within reach of a query: what did agents say, where, and was it worth it?"""
    query = f"""
        SELECT consult.agent, consult.reply, len(segments[consult.reply_segment + 1].token_ids) AS tokens, reward
        FROM (SELECT unnest(consults) AS consult, segments, reward FROM read_parquet('{store.folder}/*.parquet'))
    """
    assert duckdb.sql(query).fetchall() == [("verify", "right", 3, 1.0)] * 2


def test_free_form_columns_are_json(store: TraceStore):
    query = f"""SELECT DISTINCT task->>'answer', reward_parts->>'correct', sampling->>'max_tokens'
        FROM read_parquet('{store.folder}/*.parquet') WHERE reward IS NOT NULL"""
    assert duckdb.sql(query).fetchall() == [("42", "1.0", "64")]
