"""`aipo traces`: tables for people, lines of JSON for scripts, and nothing that steers a terminal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aipo.trace import StopReason, Trace
from aipo.trace.store import TraceStore
from kit.commands import invoke
from kit.engines import TOKENIZER, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with TraceStore(tmp_path / "run" / "traces", decode=TOKENIZER.decode) as store:
        store.seal(0, [replace(t, task={"prompt": "a\x1b[31mb"}) for t in run(count=3)])
    return tmp_path / "run"


def call(*words: object, columns: int = 80) -> str:
    return invoke("traces", *words, columns=columns).stdout


def test_traces_and_groups_as_a_table(folder: Path):
    lines = call(folder).splitlines()
    assert lines[0].split() == ["trace", "question", "kind", "reward", "advantage", "stop"]
    assert lines[1].split() == ["run/00000-000/0", "a⟨U+001B⟩[31mb", "assisted", "1.5", "–", "eos"]
    assert lines[-1] == "3 traces"
    assert call(folder, "--limit", 1).splitlines()[-1] == "1 of 3 traces (--limit shows more)"
    assert call(folder / "traces", "reward=2..").splitlines()[-1] == "0 traces"
    lines = call(folder, "--groups").splitlines()
    assert lines[1].split() == ["00000-000", "a⟨U+001B⟩[31mb", "3", "1.50", "0", "0"]
    assert lines[-1] == "1 group"
    assert call(folder, "--groups", "step=0").splitlines()[-1] == "1 group"
    lines = call(folder, "--groups", "reward=1..").splitlines()
    assert lines[-2:] == ["1 group", "in which a trace matches; numbers are of whole groups"]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_row_is_one_line_however_narrow(tmp_path: Path, columns: int):
    question, error = "What is 6x7?\nTell\tme at once. " * 9, "PolicyError: got\nno server"
    (one, two) = run(count=2)
    failed = replace(one, stop_reason=StopReason.ERROR, error=error, reward=None, reward_parts={})
    with TraceStore(tmp_path / "run" / "traces", decode=TOKENIZER.decode) as store:
        store.seal(0, [replace(t, task={"prompt": question}) for t in (failed, two)])
    head, first, second, count = call(tmp_path / "run", columns=columns).splitlines()
    assert max(map(len, (head, first, second))) <= columns and count == "2 traces"
    assert (first[0] + second[0], "…" in first) == ("rr", True)
    if columns == 80:
        assert first == "run/00000-000/0  What is…  assisted  –       –          error  PolicyError: got…"


@pytest.mark.parametrize("word", ["kind=assisted", "stop=eos", "mode=assisted"])
def test_a_filter_takes_what_its_column_says(folder: Path, word: str):
    head, *rows, count = call(folder, word).splitlines()
    column, value = word.replace("mode", "kind").split("=")
    assert count == "3 traces" and column in head.split() and all(value in row.split() for row in rows)


def test_lines_of_json(folder: Path):
    rows = [json.loads(line) for line in call(folder, "--json", "--order", "-reward").splitlines()]
    assert [row["trace_id"] for row in rows] == [f"run/00000-000/{i}" for i in range(3)]
    assert rows[0]["question"] == "a\x1b[31mb" and rows[0]["agents"] == []
    (group,) = [json.loads(line) for line in call(folder, "--groups", "--json").splitlines()]
    assert (group["group_id"], group["reward_mean"]) == ("00000-000", 1.5)


def test_one_trace(folder: Path):
    shown = call(folder, "--show", "run/00000-000/1")
    assert "6x7=42" in shown and "\x1b[31m" not in shown
    assert Trace.from_json(call(folder, "--show", "run/00000-000/1", "--json")).index == 1


def test_sql(folder: Path):
    query = "SELECT max(\"index\") AS last, reward_parts->>'correct' AS correct FROM traces GROUP BY 2"
    lines = call(folder, "--sql", query).splitlines()
    assert [line.split() for line in lines] == [["last", "correct"], ["2", "1.0"]]
    assert json.loads(call(folder, "--sql", query, "--json")) == {"last": 2, "correct": "1.0"}


def test_what_is_too_wide_for_a_table_is_written_upright(folder: Path):
    query = "SELECT trace_id, segments, repeat('x', 300) AS long FROM traces LIMIT 1"
    lines = call(folder, "--sql", query).splitlines()
    assert lines[0] == "row 0" and lines[1].split() == ["trace_id", "run/00000-000/0"]
    assert any(line.endswith("…") for line in lines) and max(map(len, lines)) <= 80


ONE = "allowed only one of them"


@pytest.mark.parametrize(
    ("where", "words", "error", "message"),
    [
        (".", ["agents=verify"], ValueError, "the filter: got 'agents'"),
        ("..", [], OSError, r"which holds the runs .*/run, allowed a run, one of its evaluations"),
        ("nowhere", [], OSError, "nowhere, which does not exist, allowed a run"),
        (".", ["step=0", "--sql", "SELECT 1"], ValueError, ONE),
        (".", ["--show", "x", "--groups"], ValueError, ONE),
        (".", ["--sql", "SELECT 1", "--show", "x"], ValueError, ONE),
        (".", ["--sql", "SELECT 1 AS n, 2 AS n", "--json"], OSError, "allowed a name for each"),
        (".", ["--sql", "SELEC 1"], OSError, "--sql: got 'SELEC 1'"),
        (".", ["--sql", " ;"], OSError, "--sql: got ' ;', allowed a query of DuckDB"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, where: str, words: list[str], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        call((folder / where).resolve(), *words)
