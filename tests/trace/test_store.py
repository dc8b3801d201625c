"""The store: what was finished is read back whole, whatever happened to the process, the disk or the run."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import aipo.trace.journal
import aipo.trace.store
from aipo.errors import RunError, TraceError
from aipo.trace import Trace
from aipo.trace.index import TraceIndex
from aipo.trace.journal import read_journal
from aipo.trace.store import TraceStore, list_traces, read_file, traces_in
from kit.handmade import agent, policy, prompt
from kit.handmade import trace as handmade

JOURNAL = "__journal/step-00000-00000.jsonl"


def numbered(*numbers: int, step: int = 0) -> list[Trace]:
    return [
        handmade(prompt(1, 2), policy(3), trace_id=f"run/{step}/{n}", index=n, step=step, advantage=None)
        for n in numbers
    ]


ONE = numbered(0)[0]


def filled(folder: Path, *traces: Trace) -> TraceStore:
    with TraceStore(folder) as store:
        for trace in traces:
            store.append(trace)
    return store


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def indices(store: TraceStore, step: int | None = None) -> list[int]:
    return [trace.index for trace in store.read(step)]


def test_traces_come_back_by_step(tmp_path: Path):
    late, early = numbered(0, 1, step=12), numbered(0, 1, step=3)
    store = filled(tmp_path / "run" / "traces", late[0], early[0], late[1], early[1])
    assert store.steps() == [3, 12]
    assert list(store.read()) == [*early, *late]
    assert list(store.read(12)) == late
    assert list(store.read(4)) == []
    assert files(store.folder) == ["__journal/step-00003-00000.jsonl", "__journal/step-00012-00000.jsonl"]


def test_a_store_without_traces_is_empty(tmp_path: Path):
    store = TraceStore(tmp_path / "nothing")
    assert (store.steps(), list(store.read())) == ([], [])
    store.close()
    store.seal(0, [])
    assert not store.folder.exists()


def test_texts_are_those_of_the_context(tmp_path: Path):
    """By a decoder that leaves out the first word's space, as sentencepiece does."""
    one = replace(ONE, segments=(prompt(1, 2), agent(3)))
    with TraceStore(tmp_path, decode=lambda ids: "".join(f" {i}" for i in ids).lstrip()) as store:
        store.append(one)
        assert next(store.stored()).texts == ("1 2", " 3")
        store.seal(0, [one])
    assert [s.texts for s in TraceStore(tmp_path).stored()] == [("1 2", " 3")]
    assert [s.texts for s in filled(tmp_path / "other", one).stored()] == [None]


def test_a_trace_that_is_sealed_as_it_was_appended_is_decoded_once(tmp_path: Path):
    decoded: list[int] = []

    def decode(ids: Any) -> str:
        decoded.append(len(ids))
        return "x" * len(ids)

    with TraceStore(tmp_path, decode=decode) as store:
        store.append(ONE)
        once = len(decoded)
        store.seal(0, [replace(ONE, advantage=1.0)])
        assert len(decoded) == once
        store.seal(1, [replace(ONE, step=1)])  # nothing was appended of this one
        assert len(decoded) == 2 * once
    assert [s.texts for s in store.stored()] == [("xx", "x")] * 2


def test_the_folder_of_traces_is_found(tmp_path: Path):
    folder = filled(tmp_path / "run" / "traces", ONE).folder
    assert traces_in(tmp_path / "run") == traces_in(folder) == folder
    with pytest.raises(RunError, match="allowed a run, one of its evaluations, or a folder of traces"):
        traces_in(tmp_path)


# --- doing steps over -------------------------------------------------------------------------------------


def test_begin_sets_aside_this_step_and_later_ones(tmp_path: Path):
    first, again = [*numbered(0), *numbered(0, 1, step=1), *numbered(0, step=2)], numbered(7, step=1)
    filled(tmp_path, *first)
    with TraceStore(tmp_path) as resumed:
        resumed.begin(1)
        assert list(resumed.read()) == first[:1]
        resumed.append(again[0])
        assert list(resumed.read()) == [*first[:1], *again]
    assert files(tmp_path) == [
        JOURNAL,
        "__journal/step-00001-00000.jsonl",
        "__superseded/step-00001-00000.jsonl.attempt-1",
        "__superseded/step-00002-00000.jsonl.attempt-1",
    ]
    kept = tmp_path / "__superseded/step-00001-00000.jsonl.attempt-1"
    assert [s.trace for s, _ in read_journal(kept)] == first[1:3]


def test_begin_sets_aside_sealed_steps_too(tmp_path: Path):
    store = filled(tmp_path, *numbered(0, 1))
    store.seal(0, numbered(0, 1))
    store.begin(0)
    assert files(tmp_path) == ["__superseded/step-00000-00000.parquet.attempt-1"]
    assert list(store.read()) == []
    kept = tmp_path / "__superseded/step-00000-00000.parquet.attempt-1"
    assert [s.trace for s in read_file(kept)] == numbered(0, 1)
    assert [s.trace for s in read_file(kept, "run/0/1")] == numbered(1)


# --- what becomes known afterwards ------------------------------------------------------------------------


def test_sealing_makes_a_step_a_file_of_its_traces_with_more(tmp_path: Path):
    store = filled(tmp_path, *numbered(0, 1), *numbered(0, step=1))
    known = [replace(t, advantage=float(t.index)) for t in store.read(0)]
    store.seal(0, known)
    assert list(store.read(0)) == known
    assert [t.advantage for t in store.read()] == [0.0, 1.0, None]
    assert files(tmp_path) == ["__journal/step-00001-00000.jsonl", "step-00000-00000.parquet"]


def test_a_sealed_step_never_changes(tmp_path: Path):
    store = TraceStore(tmp_path)
    store.seal(0, [ONE])
    with pytest.raises(
        RunError, match=r"step-00000-00000\.parquet, which is there already, allowed a new step"
    ):
        store.seal(0, [replace(ONE, advantage=1.0)])
    with pytest.raises(RunError, match="trace of step 0: got a step that"):
        store.append(ONE)
    assert list(store.read()) == [ONE]


def test_a_step_that_was_sealed_while_it_was_read_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Between a reader's look at the folder and its reading of the journal, the step is sealed.
    store = filled(tmp_path, *numbered(0, 1))
    listing = list_traces(tmp_path)
    store.seal(0, numbered(0, 1))
    monkeypatch.setattr(aipo.trace.store, "list_traces", lambda folder: listing)
    assert indices(TraceStore(tmp_path), 0) == [0, 1]


def test_a_crash_between_the_file_and_the_end_of_its_journal_shows_nothing_twice(tmp_path: Path):
    store = filled(tmp_path, *numbered(0, 1))
    kept = (tmp_path / JOURNAL).read_bytes()
    store.seal(0, numbered(0, 1))
    (tmp_path / JOURNAL).write_bytes(kept)
    assert indices(TraceStore(tmp_path)) == [0, 1]


# --- half lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 100])
def test_a_half_last_line_is_left_out_and_cut_off(tmp_path: Path, missing: int):
    """A killed process leaves one."""
    store = filled(tmp_path, *numbered(0, 1), *numbered(0, step=1))
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-missing])
    assert [t.trace_id for t in store.read()] == ["run/0/0", "run/1/0"]
    filled(tmp_path, *numbered(2))
    assert indices(store, 0) == [0, 2]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"schema_version": 1, "tra\n', "is torn"),
        (b'{"schema_version": 99}\n', "schema version of .* got 99, allowed 1"),
        (b"\n", "is torn"),
    ],
)
def test_a_bad_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path, bad: bytes, reason: str):
    store = filled(tmp_path, ONE)
    path = tmp_path / JOURNAL
    first = path.read_bytes()
    path.write_bytes(first + bad + first)
    with pytest.raises(TraceError, match=reason) as caught:
        list(store.read())
    assert f"{path}:{len(first)}" in str(caught.value)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from aipo.trace.store import TraceStore
from kit.handmade import policy, prompt, trace
store = TraceStore(Path({folder!r}))
for step in range(100):
    traces = [trace(prompt(1), policy(3), trace_id=f"run/{{step}}/{{i}}", index=i, step=step) for i in range(4)]
    for each in traces:
        store.append(each)
        print(each.trace_id, flush=True)
    store.seal(step, traces)
"""


@pytest.mark.parametrize("lines", [1, 4, 5, 8, 10, 37])
def test_a_killed_process_loses_nothing_that_was_finished(tmp_path: Path, lines: int):
    # It is killed right after its n-th trace, or while it seals a step, or while it goes on.
    script = WRITER.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    finished = [process.stdout.readline().strip() for _ in range(lines)]
    process.kill()
    finished += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    found = [trace.trace_id for trace in TraceStore(tmp_path).read()]
    assert set(finished) <= set(found) and len(found) == len(set(found)) and len(finished) >= lines
    assert TraceIndex(tmp_path).count() == len(found)


# --- disks that are full ----------------------------------------------------------------------------------


def full_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A disk with `room` bytes left: a write is cut short, the next one fails."""
    write = os.write

    def short(file: int, data: Any) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, bytes(data[:room]))
        room -= written
        return written

    monkeypatch.setattr(os, "write", short)


def test_a_full_disk_keeps_finished_traces_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    zero, one, two = numbered(0, 1, 2)
    says = rf"'run/0/1'.*No space left on device.*in {tmp_path}.*finished are kept.*See to the disk.*--resume"
    with TraceStore(tmp_path) as store:
        store.append(zero)
        with monkeypatch.context() as patch:
            full_after(patch, len(one.to_json()) // 2)
            with pytest.raises(RunError, match=says):
                store.append(one)
        assert list(store.read()) == [zero]
        store.append(two)  # room was made
    assert list(store.read()) == [zero, two]


def test_a_disk_that_is_full_while_sealing_keeps_what_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = filled(tmp_path, ONE)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(RunError, match=r"writing step 0: .*No space left.*goes on with --resume"):
        store.seal(0, [replace(ONE, advantage=1.0)])
    assert list(store.read()) == [ONE]
    assert files(tmp_path) == [JOURNAL]


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:100])))
    assert list(filled(tmp_path, ONE).read()) == [ONE]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "traces").write_text("in the way")
    with pytest.raises(RunError, match="allowed a folder that can be written"):
        TraceStore(tmp_path / "traces").append(ONE)


def test_what_json_cannot_hold_is_an_error_and_writes_nothing(tmp_path: Path):
    with TraceStore(tmp_path) as store:
        with pytest.raises(TraceError, match=r"trace 'run/0/0' of task 'q'"):
            store.append(replace(ONE, task={"metadata": {1, 2}}))
        assert store.steps() == []


# --- synchronising ----------------------------------------------------------------------------------------


def test_a_line_is_synchronised_within_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert aipo.trace.journal.SYNC_AFTER_S <= 2
    monkeypatch.setattr(aipo.trace.journal, "SYNC_AFTER_S", 0.01)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with TraceStore(tmp_path) as store:
        for count in (3, 4):  # at first the two folders, too, that make the file's name last
            store.append(ONE)
            while len(synced) < count:
                time.sleep(0.001)
    assert len(synced) == 5


def test_a_disk_that_fails_in_the_background_fails_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(aipo.trace.journal, "SYNC_AFTER_S", 0.01)
    store = filled(tmp_path, ONE)
    store.append(ONE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        with pytest.raises(RunError, match="Input/output error"):
            while True:
                store.append(ONE)
                time.sleep(0.001)
    with pytest.raises(RunError, match=r"closing step-00000-00000\.jsonl"):
        store.close()
    assert all(trace == ONE for trace in store.read())
