"""The store: what was finished is read back whole, whatever happened to the process, the disk or the run."""

import errno
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import aipo.trace.journal
import aipo.trace.store
from aipo.errors import RunError, TraceError
from aipo.trace import Role, Trace, segment
from aipo.trace.index import TraceIndex
from aipo.trace.journal import read_journal
from aipo.trace.store import TraceStore, list_traces, read_file, traces_in
from kit.engines import TOKENIZER, run


@pytest.fixture(scope="module")
def trace() -> Trace:
    return run()[0]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts synchronisations."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls


def numbered(trace: Trace, *numbers: int, step: int = 0) -> list[Trace]:
    return [replace(trace, trace_id=f"run/{step}/{n}", index=n, step=step) for n in numbers]


def filled(folder: Path, *traces: Trace) -> TraceStore:
    with TraceStore(folder) as store:
        for trace in traces:
            store.append(trace)
    return store


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_traces_come_back_by_step(tmp_path: Path, trace: Trace):
    late, early = numbered(trace, 0, 1, step=12), numbered(trace, 0, step=3)
    store = filled(tmp_path / "run" / "traces", *late, *early)
    assert store.steps() == [3, 12]
    assert list(store.read()) == [*early, *late]
    assert list(store.read(12)) == late
    assert list(store.read(4)) == []
    assert files(store.folder) == ["__journal/step-00003-00000.jsonl", "__journal/step-00012-00000.jsonl"]


def test_a_store_without_traces_is_empty(tmp_path: Path):
    store = TraceStore(tmp_path / "nothing")
    assert (store.steps(), list(store.read())) == ([], [])
    store.close()
    assert not store.folder.exists()


def test_a_trace_can_be_read_as_soon_as_it_is_appended(tmp_path: Path, trace: Trace):
    with TraceStore(tmp_path) as store:
        for count, each in enumerate(numbered(trace, 0, 1, 2), start=1):
            store.append(each)
            assert len(list(TraceStore(tmp_path).read())) == count


def test_steps_can_take_turns(tmp_path: Path, trace: Trace):
    zero, one = numbered(trace, 0, 1, step=0), numbered(trace, 0, 1, step=1)
    store = filled(tmp_path, zero[0], one[0], zero[1], one[1])
    assert list(store.read()) == [*zero, *one]


def test_texts_are_those_of_the_context(tmp_path: Path, trace: Trace):
    """By a decoder that leaves out the first word's space, as sentencepiece does."""
    said = (segment(Role.PROMPT, "task", [1, 2]), segment(Role.AGENT, "verify", [3]))
    one = replace(trace, segments=said, consults=())
    with TraceStore(tmp_path, decode=lambda ids: "".join(f" {i}" for i in ids).lstrip()) as store:
        store.append(one)
        assert next(store.stored()).texts == ("1 2", " 3")
        store.seal(one.step, [one])
        assert next(store.stored()).texts == ("1 2", " 3")


# --- doing steps over -------------------------------------------------------------------------------------


def test_begin_sets_aside_this_step_and_later_ones(tmp_path: Path, trace: Trace):
    first = [*numbered(trace, 0, step=0), *numbered(trace, 0, 1, step=1), *numbered(trace, 0, step=2)]
    filled(tmp_path, *first)
    with TraceStore(tmp_path) as resumed:
        resumed.begin(1)
        assert list(resumed.read()) == first[:1]
        again = numbered(trace, 7, step=1)
        resumed.append(again[0])
        assert list(resumed.read()) == [*first[:1], *again]
    assert list(TraceStore(tmp_path).read()) == [*first[:1], *again]
    assert files(tmp_path) == [
        "__journal/step-00000-00000.jsonl",
        "__journal/step-00001-00000.jsonl",
        "__superseded/step-00001-00000.jsonl.attempt-1",
        "__superseded/step-00002-00000.jsonl.attempt-1",
    ]
    kept = tmp_path / "__superseded/step-00001-00000.jsonl.attempt-1"
    assert [s.trace for s, _ in read_journal(kept, set())] == first[1:3]


def test_begin_sets_aside_sealed_steps_too(tmp_path: Path, trace: Trace):
    store = filled(tmp_path, *numbered(trace, 0, 1))
    store.seal(0, numbered(trace, 0, 1))
    store.begin(0)
    assert files(tmp_path) == ["__superseded/step-00000-00000.parquet.attempt-1"]
    assert list(store.read()) == []
    kept = tmp_path / "__superseded/step-00000-00000.parquet.attempt-1"
    assert [s.trace for s in read_file(kept)] == numbered(trace, 0, 1)


def test_begin_leaves_other_processes_alone(tmp_path: Path, trace: Trace):
    mine, other = TraceStore(tmp_path), TraceStore(tmp_path, process=1)
    for store, sealed, open_ in ((mine, 0, 1), (other, 2, 3)):
        store.seal(0, numbered(trace, sealed))
        store.append(numbered(trace, open_, step=1)[0])
        store.close()
    assert [t.index for t in mine.read()] == [0, 2, 1, 3]
    mine.begin(0)
    assert [t.index for t in mine.read()] == [2, 3]


def test_every_attempt_is_kept(tmp_path: Path, trace: Trace):
    for number in range(3):
        with TraceStore(tmp_path) as store:
            store.begin(0)
            store.append(numbered(trace, number)[0])
    assert [t.index for t in store.read()] == [2]
    assert len(list(tmp_path.glob("__superseded/step-00000-00000.jsonl.attempt-*"))) == 2


def test_begin_inside_a_run_starts_afresh(tmp_path: Path, trace: Trace):
    one, two = numbered(trace, 1, 2)
    with TraceStore(tmp_path) as store:
        store.append(one)
        store.begin(0)
        store.append(two)
    assert list(store.read()) == [two]


# --- what becomes known afterwards ------------------------------------------------------------------------


def test_sealing_makes_a_step_a_file_of_its_traces_with_more(tmp_path: Path, trace: Trace):
    store = filled(tmp_path, *numbered(trace, 0, 1), *numbered(trace, 0, step=1))
    known = [replace(t, advantage=float(t.index)) for t in store.read(0)]
    store.seal(0, known)
    assert list(store.read(0)) == known
    assert [t.advantage for t in store.read()] == [0.0, 1.0, None]
    assert files(tmp_path) == ["__journal/step-00001-00000.jsonl", "step-00000-00000.parquet"]


def test_sealing_nothing_leaves_nothing(tmp_path: Path):
    TraceStore(tmp_path / "traces").seal(0, [])
    assert files(tmp_path) == []


def test_a_sealed_step_never_changes(tmp_path: Path, trace: Trace):
    store = TraceStore(tmp_path)
    store.seal(0, [trace])
    with pytest.raises(RunError, match=r"step-00000-00000\.parquet, which is there already"):
        store.seal(0, [replace(trace, advantage=1.0)])
    with pytest.raises(RunError, match="trace of step 0: got a step that"):
        store.append(trace)
    assert list(store.read()) == [trace]


def test_a_step_that_was_sealed_while_it_was_read_is_read_once(
    tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
):
    # Between a reader's look at the folder and its reading of the journal, the step is sealed.
    store = filled(tmp_path, *numbered(trace, 0, 1))
    listing = list_traces(tmp_path)
    store.seal(0, numbered(trace, 0, 1))
    monkeypatch.setattr(aipo.trace.store, "list_traces", lambda folder: listing)
    assert [t.index for t in TraceStore(tmp_path).read(0)] == [0, 1]


def test_a_crash_between_the_file_and_the_end_of_its_journal_shows_nothing_twice(
    tmp_path: Path, trace: Trace
):
    store = filled(tmp_path, *numbered(trace, 0, 1))
    journal = tmp_path / "__journal" / "step-00000-00000.jsonl"
    kept = journal.read_bytes()
    store.seal(0, numbered(trace, 0, 1))
    journal.write_bytes(kept)
    assert [t.index for t in TraceStore(tmp_path).read()] == [0, 1]


def test_texts_are_stored_with_the_traces(tmp_path: Path, trace: Trace):
    with TraceStore(tmp_path, decode=TOKENIZER.decode) as store:
        store.append(trace)
        assert [s.texts for s in store.stored()] == [("6x7=", "42<eos>")]
        store.seal(0, [trace])
    assert [s.texts for s in TraceStore(tmp_path).stored()] == [("6x7=", "42<eos>")]
    without = filled(tmp_path / "other", trace)
    assert [s.texts for s in without.stored()] == [None]


def test_a_trace_that_is_sealed_as_it_was_appended_is_decoded_once(tmp_path: Path, trace: Trace):
    decoded: list[int] = []

    def decode(ids: Any) -> str:
        decoded.append(len(ids))
        return TOKENIZER.decode(ids)

    with TraceStore(tmp_path, decode=decode) as store:
        store.append(trace)
        once = len(decoded)
        store.seal(0, [replace(trace, advantage=1.0)])
        assert len(decoded) == once
        store.seal(1, [replace(trace, step=1)])  # nothing was appended of this one
        assert len(decoded) == 2 * once
    assert [s.texts for s in store.stored()] == [("6x7=", "42<eos>")] * 2


def test_the_folder_of_traces_is_found(tmp_path: Path, trace: Trace):
    filled(tmp_path / "run" / "traces", trace)
    assert (
        traces_in(tmp_path / "run") == traces_in(tmp_path / "run" / "traces") == tmp_path / "run" / "traces"
    )
    with pytest.raises(RunError, match="allowed a run, one of its evaluations, or a folder of traces"):
        traces_in(tmp_path)


def test_a_disk_that_is_full_while_sealing_keeps_what_was_appended(
    tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = filled(tmp_path, trace)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"writing step 0: .*No space left"):
        store.seal(0, [replace(trace, advantage=1.0)])
    assert list(store.read()) == [trace]
    assert files(tmp_path) == ["__journal/step-00000-00000.jsonl"]


# --- half lines -------------------------------------------------------------------------------------------


def tear(folder: Path, step: int = 0, keep: int = 40) -> Path:
    """Appends the first bytes of a trace, as a killed process does."""
    path = folder / "__journal" / f"step-{step:05d}-00000.jsonl"
    with path.open("ab") as file:
        file.write(line(path)[:keep])
    return path


def line(path: Path) -> bytes:
    return path.read_bytes().splitlines(keepends=True)[0]


def test_a_half_last_line_is_left_out_and_reported(tmp_path: Path, trace: Trace):
    store = filled(tmp_path, *numbered(trace, 0, 1), *numbered(trace, 0, step=1))
    path = tear(tmp_path)
    assert [t.trace_id for t in store.read()] == ["run/0/0", "run/0/1", "run/1/0"]
    assert store.torn == {f"{path}:{2 * len(line(path))}"}
    assert len(list(store.read())) == 3 and len(store.torn) == 1


def test_a_whole_last_line_without_line_end_counts(tmp_path: Path, trace: Trace):
    store = filled(tmp_path, *numbered(trace, 0, 1))
    path = tmp_path / "__journal" / "step-00000-00000.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(list(store.read())) == 2 and not store.torn
    filled(tmp_path, *numbered(trace, 2))
    assert [t.index for t in store.read()] == [0, 1, 2] and not store.torn


def test_appending_after_a_half_line_cuts_it_off(tmp_path: Path, trace: Trace):
    filled(tmp_path, *numbered(trace, 0))
    tear(tmp_path)
    store = filled(tmp_path, *numbered(trace, 1))
    assert [t.index for t in store.read()] == [0, 1] and not store.torn


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"schema_version": 1, "tra\n', "is torn"),
        (b'{"schema_version": 99}\n', "schema version of .* got 99, allowed 1"),
        (b"\n", "is torn"),
    ],
)
def test_a_bad_line_in_the_middle_is_an_error_with_its_place(
    tmp_path: Path, trace: Trace, bad: bytes, reason: str
):
    filled(tmp_path, *numbered(trace, 0))
    path = tmp_path / "__journal" / "step-00000-00000.jsonl"
    first = path.read_bytes()
    path.write_bytes(first + bad + first)
    store = TraceStore(tmp_path)
    with pytest.raises(TraceError, match=reason) as caught:
        list(store.read())
    assert f"{path}:{len(first)}" in str(caught.value) and not store.torn


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from kit.engines import run
from aipo.trace.store import TraceStore
store = TraceStore(Path({folder!r}))
traces = run(count=4)
for step in range(100):
    step_traces = [replace(t, trace_id=f"run/{{step}}/{{t.index}}", step=step) for t in traces]
    for trace in step_traces:
        store.append(trace)
        print(trace.trace_id, flush=True)
    store.seal(step, step_traces)
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
    store = TraceStore(tmp_path)
    found = [trace.trace_id for trace in store.read()]
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
    tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
):
    zero, one, two = numbered(trace, 0, 1, 2)
    with TraceStore(tmp_path) as store:
        store.append(zero)
        with monkeypatch.context() as patch:
            full_after(patch, len(one.to_json()) // 2)
            with pytest.raises(RunError) as caught:
                store.append(one)
        assert list(store.read()) == [zero] and not store.torn
        store.append(two)  # room was made
    assert list(store.read()) == [zero, two]
    message = str(caught.value)
    for part in (
        "run/0/1",
        "No space left on device",
        str(tmp_path),
        "What was finished is kept",
        "Make room",
    ):
        assert part in message


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:100])))
    assert list(filled(tmp_path, trace).read()) == [trace]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_a_file_that_may_not_grow_keeps_finished_traces(tmp_path: Path):
    # The kernel itself cuts the write short here, in the middle of a line.
    script = textwrap.dedent(
        f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from kit.engines import run
        from aipo.errors import RunError
        from aipo.trace.journal import to_line
        from aipo.trace.arrow import Stored
        from aipo.trace.store import TraceStore
        traces = run(count=5)
        limit = int(2.5 * len(to_line(Stored(traces[0], None))))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with TraceStore(Path({str(tmp_path)!r})) as store:
            try:
                for trace in traces:
                    store.append(trace)
            except RunError as error:
                sys.exit(0 if "What was finished is kept" in str(error) else str(error))
        sys.exit("no error")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    store = TraceStore(tmp_path)
    assert [t.index for t in store.read()] == [0, 1] and not store.torn


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, trace: Trace):
    (tmp_path / "traces").write_text("in the way")
    with pytest.raises(RunError, match="allowed a folder that can be written"):
        TraceStore(tmp_path / "traces").append(trace)


def test_what_json_cannot_hold_is_an_error_and_writes_nothing(tmp_path: Path, trace: Trace):
    with TraceStore(tmp_path) as store:
        with pytest.raises(TraceError, match=r"trace 'run/00000-000/0' of task 't0'"):
            store.append(replace(trace, task={"metadata": {1, 2}}))
        assert store.steps() == []


# --- synchronising ----------------------------------------------------------------------------------------


class Clock:
    """Stands in for `threading.Timer`; time passes when a test says so."""

    waiting: ClassVar[list["Clock"]] = []

    def __init__(self, seconds: float, then: Any) -> None:
        self.seconds, self.then, self.cancelled, self.daemon = seconds, then, False, False

    def start(self) -> None:
        self.waiting.append(self)

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Clock]:
    Clock.waiting = []
    monkeypatch.setattr(aipo.trace.journal.threading, "Timer", Clock)
    return Clock.waiting


def test_a_line_is_synchronised_within_two_seconds(
    tmp_path: Path, trace: Trace, clock: list[Clock], synced: list[int]
):
    with TraceStore(tmp_path) as store:
        store.append(trace)
        store.append(trace)
        assert [c.seconds <= 2 and c.daemon for c in clock] == [True] and len(synced) == 0
        clock[0].then()
        assert len(synced) == 3  # the file, and the two folders that make its name last
        store.append(trace)
        assert len(clock) == 2
    assert clock[1].cancelled and len(synced) == 4
    clock[1].then()  # too late: the file is closed
    assert len(synced) == 4


def test_a_disk_that_fails_in_the_background_fails_the_next_append(
    tmp_path: Path, trace: Trace, clock: list[Clock], monkeypatch: pytest.MonkeyPatch
):
    def broken(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = TraceStore(tmp_path)
    store.append(trace)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        clock[0].then()
    with pytest.raises(RunError, match="Input/output error"):
        store.append(trace)
    with pytest.raises(RunError, match=r"closing step-00000-00000\.jsonl"):
        store.close()
    assert list(store.read()) == [trace]
