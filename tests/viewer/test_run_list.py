"""`aipo runs`: what the first page says, in the terminal."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from aipo.errors import RunError
from aipo.util.files import exclusive, write_json
from aipo.viewer.data.library import RunLibrary
from aipo.viewer.data.overview import overviews, state
from kit.commands import invoke

LONG_AGO = (1_000_000.0, 1_000_000.0)


def listed(*words: object, columns: int = 80) -> str:
    return invoke("runs", *words, columns=columns).stdout


@pytest.fixture
def old_runs(own_runs: Path) -> Path:
    """The little library as if nobody had written to it for years."""
    for path in [*own_runs.rglob("*")]:
        os.utime(path, LONG_AGO)
    return own_runs


def test_a_line_for_each_run_and_evaluation(old_runs: Path) -> None:
    head, *lines = listed(old_runs).splitlines()
    assert head.split() == ["run", "state", "steps", "measured", "solo", "agents", "age", "preset"]
    assert [line.split()[:6] for line in lines[:3]] == [
        ["aipo", "finished", "2/2", "reward", "0.00", "1.00"],
        ["after", "finished", "easy", "0.00", "1.00", lines[1].split()[5]],
        ["grpo", "finished", "1/1", "reward", "0.00", "–"],
    ]
    assert lines[1].split()[-1] == "evaluation" and lines[2].split()[-1] == "grpo"
    assert lines[3].startswith(f"3 in {old_runs}"[:80])


@pytest.mark.parametrize("columns", [80, 50])
def test_a_row_is_one_line(old_runs: Path, columns: int) -> None:
    (old_runs / "grpo").rename(old_runs / "a-name-that-is-rather-long-as-those-of-matrices-are")
    lines = listed(old_runs, columns=columns).splitlines()[:4]
    assert max(map(len, lines)) <= columns and "finished"[:4] in lines[-1]


def test_why_a_run_ended_is_said(old_runs: Path) -> None:
    write_json(
        old_runs / "grpo" / "ended.json", {"state": "failed", "reason": "PolicyError: no server answers"}
    )
    (old_runs / "aipo" / "config.yaml").write_text("train: {steps: 9}\n")
    os.utime(old_runs / "aipo" / "config.yaml", LONG_AGO)
    printed = listed(old_runs).splitlines()
    assert printed[1].split()[:3] == ["aipo", "stopped", "2/9"]
    assert printed[3].split()[:2] == ["grpo", "failed"]
    assert "aipo stopped: without a word: it was killed, or an older version left no record" in printed
    assert "grpo failed: PolicyError: no server answers" in printed


@pytest.mark.parametrize(
    ("steps", "left", "seconds", "expected"),
    [
        # Runs of before there was a record run for a minute after they have written; nothing runs in a static site.
        (1, {}, 59, "running"), (1, {}, 61, "finished"), (1, {}, None, "finished"),
        (9, {}, 59, "running"), (9, {}, 61, "stopped"), (9, {}, None, "stopped"),
        (9, {"replay.json": {"question": "loss"}}, 61, "finished"),
        (9, {"ended.json": {"state": "failed", "reason": "NaN"}}, 59, "failed"),
    ],
)  # fmt: skip
def test_the_lock_tells_the_state_of_a_run_else_its_record_or_what_is_left_of_it(
    old_runs: Path, steps: int, left: dict[str, Any], seconds: int | None, expected: str
) -> None:
    folder, now = old_runs / "grpo", None if seconds is None else LONG_AGO[0] + seconds
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("  steps: 1\n", f"  steps: {steps}\n"))
    for name, content in left.items():
        write_json(folder / name, content)
    run = RunLibrary(old_runs).run("grpo")
    assert state(run, now).state == expected
    with exclusive(folder):
        assert state(run, now).state == (expected if now is None else "running")


def test_one_json_document(old_runs: Path) -> None:
    aipo, after, grpo = json.loads(listed(old_runs, "--json"))
    assert (aipo["kind"], aipo["state"], aipo["steps"], aipo["planned"]) == ("run", "finished", 2, 2)
    assert (grpo["preset"], grpo["reward"]) == ("grpo", {"solo": 0.0, "assisted": None})
    assert after["scores"]["easy"]["assisted"] == 1.0 and after["changed"] == LONG_AGO[0]


@pytest.mark.parametrize(
    ("summary", "state", "reason"),
    [
        ({"missing": []}, "finished", ""),
        ({"missing": [{}, {}]}, "stopped", "2 runs without a result yet"),
        ({}, "finished", ""),  # a demo's
    ],
)
def test_a_comparison_stands_above_its_runs(old_runs: Path, summary: dict, state: str, reason: str) -> None:
    (old_runs / "results.csv").write_text("arm,seed\n")
    write_json(old_runs / "summary.json", summary)
    lines = overviews(RunLibrary(old_runs.parent), now=2e9)
    assert [line.name for line in lines] == ["runs", "runs/aipo", "runs/aipo/evaluations/after", "runs/grpo"]
    assert (lines[0].kind, lines[0].state, lines[0].reason) == ("comparison", state, reason)


def test_no_runs_and_no_folder(tmp_path: Path) -> None:
    assert "no runs yet; start one with `aipo train`" in listed(tmp_path, columns=200)
    assert json.loads(listed(tmp_path, "--json")) == []
    with pytest.raises(RunError, match="allowed a run folder, or a folder with runs in it"):
        listed(tmp_path / "nowhere")


def test_why_an_evaluation_ended_is_said(old_runs: Path) -> None:
    (old_runs / "aipo" / "evaluations" / "after.json").unlink()
    end = {"state": "failed", "reason": "PolicyError: no server answers"}
    write_json(old_runs / "aipo" / "evaluations" / "after" / "ended.json", end)
    printed = listed(old_runs).splitlines()
    assert printed[2].split()[:2] == ["after", "failed"]
    assert "aipo/evaluations/after failed: PolicyError: no server answers" in printed
