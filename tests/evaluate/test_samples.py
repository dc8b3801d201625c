"""The samples of an evaluation on disk: lines as rollouts end, traces that are kept, what a killed attempt leaves."""

from pathlib import Path

import pytest

from aipo.errors import RunError
from aipo.evaluate import samples
from aipo.evaluate.samples import SAMPLES, SampleKey, SampleResult, SampleStore, missing, read_samples
from aipo.trace import StopReason, Trace
from aipo.trace.store import TraceStore
from kit.handmade import asking, policy, prompt
from kit.handmade import trace as make_trace


def judge(trace: Trace) -> SampleResult:
    """Of its task the right one; the first of each task is kept."""
    return SampleResult.of(
        trace,
        SampleKey("easy", "solo", trace.group_id, trace.index),
        correct=None if trace.failed else 1.0,
        answer="42",
        kept=trace.index == 0,
    )


def rollout(group: str, index: int = 0, stop: StopReason = StopReason.EOS) -> Trace:
    failed = {"reward": None, "error": "no server"} if stop.failed else {}
    names = {"trace_id": f"run/{group}/{index}", "group_id": group, "index": index}
    return make_trace(prompt(), policy("42"), stop_reason=stop, **names, **failed)


def store(folder: Path, *, resume: bool = False) -> SampleStore:
    return SampleStore(folder, judge, resume=resume, decode=None)


def kept(folder: Path) -> list[tuple[int, str]]:
    return [(trace.step, trace.trace_id) for trace in TraceStore(folder).read()]


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    with store(tmp_path) as written:
        for index in range(3):
            written.add(rollout("a", index))
        written.seal()
    found = read_samples(tmp_path)
    assert found == [judge(rollout("a", index)) for index in range(3)]
    assert [s.passed for s in found] == [True] * 3 and kept(tmp_path) == [(0, "run/a/0")]
    assert read_samples(tmp_path / "none") == []


def test_a_killed_attempt_leaves_half_a_line_and_a_trace_without_one(tmp_path: Path) -> None:
    with store(tmp_path) as written:
        written.add(rollout("a"))
        written.add(rollout("b"))  # sealed by nobody
    file = tmp_path / SAMPLES
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:20])
    assert [s.task_id for s in read_samples(tmp_path)] == ["a"]
    with store(tmp_path, resume=True) as again:
        assert [key.task_id for key in again.samples] == ["a", "b"]
        again.add(rollout("c"))
        again.seal()
    assert [s.task_id for s in read_samples(tmp_path)] == ["a", "b", "c"]
    assert kept(tmp_path) == [(0, "run/a/0"), (0, "run/b/0"), (1, "run/c/0")]


def test_what_a_machine_failed_is_done_again_and_the_later_line_holds(tmp_path: Path) -> None:
    ends = {
        "a": StopReason.ERROR,
        "b": StopReason.DEADLINE,
        "c": StopReason.UNSCORED,
        "d": StopReason.CANCELLED,
    }
    with store(tmp_path) as written:
        for group, stop in ends.items():
            written.add(rollout(group, 0, stop))
        written.seal()
        keys = [SampleKey("easy", "solo", group, 0) for group in "abcde"]
        assert {key.task_id for key in missing(keys, written.samples)} == {"a", "d", "e"}
    with store(tmp_path, resume=True) as again:
        again.add(rollout("a"))
        again.seal()
    by_task = {sample.task_id: sample for sample in read_samples(tmp_path)}
    assert (by_task["a"].correct, by_task["a"].trace_id) == (1.0, "run/a/0@1")
    assert (by_task["b"].correct, by_task["b"].error) == (None, "no server")
    assert kept(tmp_path) == [(0, "run/a/0"), (0, "run/b/0"), (0, "run/c/0"), (1, "run/a/0@1")]


def test_many_traces_make_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_TRACES_IN_FILE", 2)
    with store(tmp_path) as written:
        for group in "abcde":
            written.add(rollout(group))
        written.seal()
    assert [step for step, _ in kept(tmp_path)] == [0, 0, 1, 1, 2]


def test_what_is_not_gone_on_with_is_set_aside(tmp_path: Path) -> None:
    for group in "ab":
        with store(tmp_path) as written:
            written.add(rollout(group))
            written.seal()
    assert [s.task_id for s in read_samples(tmp_path)] == ["b"] and kept(tmp_path) == [(0, "run/b/0")]
    assert [s.task_id for s in read_samples(tmp_path / "__superseded")] == ["a"]


def test_a_line_that_is_no_sample_is_named(tmp_path: Path) -> None:
    (tmp_path / SAMPLES).write_text('{"split": 3}\n')
    with pytest.raises(
        RunError, match=r"samples\.jsonl, line 1: got .* at split, allowed what `aipo eval` writes"
    ):
        read_samples(tmp_path)


def test_a_sample_counts_what_its_agents_took() -> None:
    sample = judge(asking())
    assert (sample.consults, sample.calls, sample.dollars, sample.seconds) == (1, 1, None, 10.0)
    assert (sample.tokens, sample.agent_tokens) == (6, 1) and (sample.reward, sample.stop) == (1.0, "eos")
