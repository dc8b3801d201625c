"""What cannot be replayed is left out by name; the rest is read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aipo.replay.recordings import Recordings, task_of
from aipo.rollout.env import Task
from aipo.trace import StopReason, Trace
from aipo.trace.arrow import Stored, to_table
from aipo.trace.filters import parse_filter
from aipo.trace.store import TraceStore
from kit import handmade, tiny

TASK = asdict(Task(task_id="q", prompt="?", answer="1", split="s"))


def trace(index: int, step: int = 0, **changes: Any) -> Trace:
    segments = changes.pop("segments", (handmade.prompt(2), handmade.policy(3, 4, 1, version=0)))
    given = {
        "trace_id": f"r/{step}/{index}",
        "group_id": f"g{step}",
        "index": index,
        "step": step,
        "task": TASK,
    }
    return handmade.trace(*segments, **{**given, **changes})


def write(folder: Path, *traces: Trace) -> Path:
    with TraceStore(folder) as store:
        for step in sorted({t.step for t in traces}):
            store.seal(step, [t for t in traces if t.step == step])
    return folder


def read(path: Path, **changes: Any) -> tuple[list[str], dict[str, str]]:
    """Ids that were read, and what was left out with the reasons."""
    recordings = Recordings(path=path, **changes)
    ids = [t.trace_id for traces in recordings for t in traces]
    return ids, recordings.left_out


def test_everything_is_read_step_by_step_in_order(tmp_path: Path) -> None:
    write(tmp_path, trace(1), trace(0), trace(0, step=3))
    assert read(tmp_path) == (["r/0/0", "r/0/1", "r/3/0"], {})


def test_filters_mean_what_they_mean_in_listings(tmp_path: Path) -> None:
    write(tmp_path, trace(0), trace(1, reward=0.0), trace(0, step=1), trace(1, step=2))
    for words, ids in {
        "step=1..": ["r/1/0", "r/2/1"],
        "reward=..0.5": ["r/0/1"],
        "group=g0": ["r/0/0", "r/0/1"],
        "kind=assisted": [],
    }.items():
        assert read(tmp_path, where=parse_filter([words]))[0] == ids, words


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"segments": (handmade.policy(3, version=0), handmade.prompt(2))}, "first segment: got 'policy', allowed prompt"),
        ({"segments": (handmade.prompt(2), handmade.policy(99, version=0))}, "token id: got 99, allowed 0 to 15"),
        ({"segments": (handmade.prompt(2), handmade.policy(3, version=0)), "consults": (handmade.consult(1, 0, 7),)}, "got 7, allowed 0 to 1"),
        ({"task": {}}, "allowed the fields of a task"),
        ({"task": {**TASK, "prompt": " "}}, "allowed non-empty text"),
        ({"stop_reason": StopReason.DEADLINE, "reward": None, "advantage": None}, "got deadline, allowed an end"),
        ({"stop_reason": StopReason.CANCELLED, "reward": None, "advantage": None}, "got cancelled, allowed"),
        ({"trace_id": "r/0/0"}, "each only once"),
        ({"index": 0}, "each only once"),
    ],
)  # fmt: skip
def test_a_trace_that_breaks_an_invariant_is_left_out(tmp_path: Path, bad: dict[str, Any], says: str) -> None:
    write(tmp_path, trace(0), trace(**{"index": 1, "trace_id": "bad", **bad}), trace(2))
    ids, left_out = read(tmp_path, vocabulary=tiny.VOCABULARY, rerun=True)
    assert sorted(ids) == ["r/0/0", "r/0/2"] or ids == ["bad", "r/0/2"]
    ((name, reason),) = left_out.items()
    assert name in ("bad", "r/0/0")
    assert says in reason


def test_a_rollout_that_ran_out_of_time_can_be_read_though_not_run_again(tmp_path: Path) -> None:
    write(tmp_path, trace(0, stop_reason=StopReason.DEADLINE, reward=None, advantage=None))
    assert read(tmp_path) == (["r/0/0"], {})


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("stop_reason", ["eos", "tired", "eos"], "input_value='tired'"),
        ("reward", [1.0, float("nan"), 1.0], "reward of 'r/0/1': got nan"),
        ("task", ["{}", "{", "{}"], "is no trace"),
    ],
)
def test_a_file_with_a_row_that_is_no_trace_is_left_out(
    tmp_path: Path, column: str, values: list[Any], says: str
) -> None:
    file, table = tmp_path / "step-00000-00000.parquet", to_table([Stored(trace(i), None) for i in range(3)])
    field = table.schema.field(column)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), file)
    ids, left_out = read(tmp_path)
    assert (ids, list(left_out)) == ([], [str(file)])
    assert says in left_out[str(file)]


def test_files_that_are_torn_or_of_another_version_are_left_out_and_the_others_read(tmp_path: Path) -> None:
    write(tmp_path, *(trace(0, step=step) for step in range(4)))
    torn, other, alien = (tmp_path / f"step-0000{n}-00000.parquet" for n in range(3))
    torn.write_bytes(torn.read_bytes()[:-20])
    table = to_table([Stored(trace(0, step=1), None)])
    pq.write_table(table.replace_schema_metadata({"aipo.schema_version": "9"}), other)
    pq.write_table(pa.table({"x": [1]}), alien)
    ids, left_out = read(tmp_path)
    assert ids == ["r/3/0"]
    assert sorted(left_out) == sorted(map(str, (torn, other, alien)))
    assert "schema version" in left_out[str(other)] and "got 9, allowed 1" in left_out[str(other)]


def test_a_trace_of_two_steps_is_read_once_however_often_a_step_is_read(tmp_path: Path) -> None:
    write(tmp_path, trace(0), trace(1), trace(2, step=1, trace_id="r/0/1"), trace(3, step=1))
    recordings = Recordings(path=tmp_path)
    for _ in range(2):
        assert [[t.trace_id for t in traces] for traces in recordings] == [["r/0/0", "r/0/1"], ["r/1/3"]]
        assert list(recordings.left_out) == ["r/0/1"] and "each only once" in recordings.left_out["r/0/1"]


def test_a_journal_gives_the_whole_lines_that_are_traces(tmp_path: Path) -> None:
    with TraceStore(tmp_path) as store:
        for index in range(3):
            store.append(trace(index))
    (journal,) = (tmp_path / "__journal").iterdir()
    first, second, third = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + second + third[:-30])
    assert read(tmp_path) == (["r/0/0", "r/0/1"], {})  # half a line is what a killed process leaves
    journal.write_bytes(first + second.replace(b'"eos"', b'"tired"') + third)
    ids, left_out = read(tmp_path)
    assert (ids, list(left_out)) == (["r/0/0", "r/0/2"], [f"{journal}:2"])
    assert "tired" in left_out[f"{journal}:2"]


def test_a_task_of_before_whose_answer_and_cluster_are_no_text_is_read(tmp_path: Path) -> None:
    recordings = Recordings(
        path=write(tmp_path / "traces", trace(0, task={**TASK, "answer": 3, "cluster": 7}))
    )
    ((recorded,),) = recordings
    assert (task_of(recorded).answer, task_of(recorded).cluster) == (3, 7)
    assert not recordings.left_out
