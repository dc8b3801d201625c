"""An export: which traces, whole or not at all, and what it says."""

import errno
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from rich.console import Console

from aipo.errors import ConfigError, RunError
from aipo.export.run import Exported, ExportOptions, export, export_run
from aipo.trace import Trace
from aipo.trace.filters import Filter
from aipo.trace.store import TraceStore
from kit.exports import Run, rows


def test_raw_traces_are_what_they_were(run: Run):
    done = run.export("jsonl")
    assert done == Exported(run.path / "exports" / "jsonl.jsonl", 4, {})
    lines = done.path.read_bytes().splitlines()
    assert [Trace.from_json(line) for line in lines] == list(run.store.read())
    loaded = load_dataset("json", data_files=str(done.path), split="train")
    assert loaded["trace_id"] == ["g0/0", "g0/1", "g0/2", "g0/3"]
    assert loaded["reward"] == [1.0, 0.0, 0.5, None]
    assert loaded[2]["segments"][2]["role"] == "agent"


def test_only_what_the_filter_asks_for_also_of_a_step_in_flight(run: Run):
    run.store.append(run.solo("g1/0", "1+1=?", "2<eos>", step=1))
    done = run.export("jsonl", where=Filter(failed=False, kind="solo"))
    assert [row["trace_id"] for row in rows(done.path)] == ["g0/0", "g0/1", "g1/0"]
    assert done.left_out == {"does not match the filter": 2}


def test_an_evaluation_is_exported_with_its_runs_tokenizer(run: Run):
    folder = run.path / "evaluations" / "after"
    TraceStore(folder).seal(0, [run.solo("g0/0", "1+1=?", "2<eos>")])
    (row,) = rows(export(folder, ExportOptions(format="sft")).path)
    assert [message["content"] for message in row["messages"]] == ["1+1=?", "2"]


@pytest.mark.parametrize("format", ["jsonl", "sft", "preference", "dataset"])
def test_what_is_there_is_written_over_only_by_force(run: Run, format: str):
    first = run.export(format)
    before = contents(first.path)
    with pytest.raises(RunError, match=r"--out: got .*, which is there already, allowed .* --force"):
        run.export(format, force=False)
    assert run.export(format) == first
    assert contents(first.path).keys() == before.keys()
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


def test_force_does_not_remove_what_no_export_made(run: Run, tmp_path: Path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    for format, out in (("dataset", folder), ("sft", folder), ("dataset", folder / "README.md")):
        with pytest.raises(RunError, match=r"--force: got .*home.*, allowed a file, or for --format dataset"):
            run.export(format, out=out)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize("format", ["jsonl", "dataset"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_changes_nothing(run: Run, format: str, there: bool, monkeypatch: pytest.MonkeyPatch):
    path = run.path / "exports" / (format if format == "dataset" else f"{format}.jsonl")
    before = contents(run.export(format).path) if there else {}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"export to .*: got .*No space left.* Nothing was written there"):
        run.export(format)
    assert list(path.parent.iterdir()) == ([path] if there else [])
    assert (contents(path) if there else {}) == before


def test_nothing_to_write_is_an_error_that_says_why(run: Run, tmp_path: Path):
    says = "got no conversations to write, allowed at least one. .*: 4 left out: no reward above 2"
    with pytest.raises(RunError, match=says):
        run.export("sft", min_reward=2.0, out=tmp_path / "new" / "x.jsonl")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(RunError, match=r"got no traces to write.*: 4 left out: does not match the filter"):
        run.export("dataset", where=Filter(task="nowhere"))


def test_unknown_names_are_refused(run: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match="--format: got 'csv', allowed jsonl, sft, preference, dataset"):
        run.export("csv")
    with pytest.raises(RunError, match=r"traces: got .*, allowed a run"):
        export(tmp_path / "nowhere", ExportOptions())


def test_what_came_of_it_is_said(run: Run):
    console = Console(file=io.StringIO(), width=200)
    export_run(run.path, ExportOptions(format="sft"), console)
    export_run(run.path, ExportOptions(format="sft", min_reward=0.5, force=True), console)
    for said in (
        r"^2 conversations written to .*sft\.jsonl\n  2 left out: no reward above 0\n",
        r"^1 conversation written to .*sft\.jsonl\n  3 left out: no reward above 0\.5\n",
    ):
        assert re.search(said, console.file.getvalue(), re.M)


def test_only_one_step_is_in_memory(empty: Run, monkeypatch: pytest.MonkeyPatch):
    empty.keep(*(empty.solo(f"g{step}/0", "?", "5<eos>", step=step) for step in range(3)))
    read: list[int | None] = []
    stored: Callable[..., Any] = TraceStore.stored

    def counted(store: TraceStore, step: int | None = None) -> Any:
        read.append(step)
        return stored(store, step)

    seen: list[Sequence[int | None]] = []
    monkeypatch.setattr(TraceStore, "stored", counted)
    options = ExportOptions(format="sft")
    export(empty.path, options, lambda done, total, text: seen.append((done, total, len(read))))
    assert seen == [(0, 3, 0), (1, 3, 1), (2, 3, 2), (3, 3, 3)]
