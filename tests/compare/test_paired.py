"""Two evaluations paired task by task: differences by hand, tasks that turned, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from aipo.compare.paired import PairedEvaluations, SplitSetting, find_evaluation, pair_evaluations
from aipo.errors import AipoError, ConfigError, RunError
from aipo.util.files import write_json
from kit.commands import invoke

SOLO = SplitSetting("maths", "solo")


def result(*tasks: tuple[str, int, int], failed: int = 0, **rest: Any) -> dict[str, Any]:
    """One data set under one setting: tasks as (id, right verdicts, verdicts)."""
    per_task = [
        {"task_id": name, "cluster": name, "correct": right, "verdicts": verdicts, "failed": failed}
        for name, right, verdicts in tasks
    ]
    return {"samples": 2, "pass_at": {"1": 0.5, "2": 0.5}, "per_task": per_task, **rest}


A = result(("a", 0, 2), ("b", 2, 2), ("c", 1, 2), ("d", 2, 2))
B = result(("a", 2, 2), ("b", 0, 2), ("c", 2, 2), ("d", 2, 2))


def written(run: Path, name: str = "after", **settings: Any) -> Path:
    """A run with an evaluation of the data set `maths`, by setting."""
    (run / "evaluations").mkdir(parents=True, exist_ok=True)
    write_json(run / "evaluations" / f"{name}.json", {"maths": settings})
    return run


def paired(tmp_path: Path, a: dict[str, Any] = A, b: dict[str, Any] = B) -> PairedEvaluations:
    files = (written(tmp_path / "a", solo=a), written(tmp_path / "b", solo=b))
    return pair_evaluations(*map(find_evaluation, files))


def test_differences_are_those_of_the_tasks(tmp_path: Path) -> None:
    first, second = paired(tmp_path).measures
    assert (first.place, first.name, first.tasks) == (SOLO, "pass@1", 4)
    assert (first.before.mean, first.after.mean, first.difference.mean) == (
        0.625,
        0.75,
        0.125,
    )  # +1 -1 +.5 +0
    assert first.difference.interval is not None
    low, high = first.difference.interval
    assert -1 < low < 0.125 < high < 1 and first.verdict == "tie"
    assert (second.name, second.before.mean, second.after.mean) == ("pass@2", 0.75, 0.75)


def test_a_difference_that_all_tasks_have_is_no_tie(tmp_path: Path) -> None:
    worse = result(*((name, 0, 2) for name in "bd"))
    measure = paired(tmp_path, A, worse).measures[0]
    assert (measure.difference.interval, measure.verdict, measure.tasks) == ((-1.0, -1.0), "worse", 2)
    alone = paired(tmp_path, A, result(("b", 0, 2))).measures[0]
    assert (alone.difference.mean, alone.difference.interval, alone.verdict) == (-1.0, None, None)


def test_tasks_turn_where_half_of_the_verdicts_are_crossed(tmp_path: Path) -> None:
    a = result(("a", 1, 4), ("b", 2, 4), ("c", 4, 4), ("d", 0, 4), ("e", 3, 3), ("f", 0, 0))
    b = result(("a", 2, 4), ("b", 1, 4), ("c", 0, 4), ("d", 1, 4), ("e", 2, 4), ("f", 4, 4))
    pairs = paired(tmp_path, a, b)
    assert {way: [p.before.task_id for p in pairs.turned(way)] for way in ("right", "wrong")} == {
        "right": ["a"],
        "wrong": ["c", "b"],  # the largest change first
    }
    assert [round(pair.change, 2) for pair in pairs.pairs] == [
        0.25,
        -0.25,
        -1.0,
        0.25,
        -0.5,
    ]  # f has no verdict in A


def test_a_task_with_too_few_verdicts_has_no_pass_at_k(tmp_path: Path) -> None:
    measures = paired(tmp_path, A, result(("a", 1, 1), ("b", 2, 2))).measures
    assert [(one.name, one.tasks) for one in measures] == [("pass@1", 2), ("pass@2", 1)]


def test_a_majority_is_paired_and_so_are_averages_that_are_not_pass_at_1(tmp_path: Path) -> None:
    votes = {name: [{"answer": name, "count": 2, "right": right}] for name, right in (("a", 2), ("b", 0))}

    def side(right: str, avg: float | None, samples: int = 2) -> dict[str, Any]:
        one = result(("a", 2, 2), maj_at={"2": 0.5}, samples=samples)
        one["per_task"][0] |= {"votes": votes[right], "avg": avg}
        return one

    measures = paired(tmp_path, side("a", 1.0), side("b", 1.0)).measures
    assert [one.name for one in measures] == ["pass@1", "pass@2", "maj@2"]
    assert (measures[2].before.mean, measures[2].after.mean) == (1.0, 0.0)
    partly = paired(tmp_path, side("a", 1.0), side("b", 0.75, 4)).measures
    assert [(one.name, one.difference.mean) for one in partly][2] == ("avg@2 and 4", -0.25)


def test_doubts_are_said(tmp_path: Path) -> None:
    a = written(tmp_path / "a", solo={**A, "temperature": 0.6, "max_tokens": 64}, assisted=A)
    few = result(("a", 1, 2), ("z", 1, 2), failed=3, samples=8, temperature=1.0, max_tokens=64)
    b = written(tmp_path / "b", solo=few)
    assert pair_evaluations(find_evaluation(a), find_evaluation(b)).caveats == [
        "only A has maths, assisted",
        "maths, solo: samples of each task: 2 in A, 8 in B",
        "maths, solo: temperature: 0.6 in A, 1.0 in B",
        "maths, solo: 3 tasks only in A and 1 only in B are left out",
        "B: 6 of 10 rollouts have no verdict, and the numbers are those of the others",
    ]
    assert paired(tmp_path).caveats == []


@pytest.mark.parametrize("name", ["runs/a", "runs/a/evaluations/after", "runs/a/evaluations/after.json"])
def test_an_evaluation_is_found_by_its_run_or_its_place(tmp_path: Path, name: str) -> None:
    written(tmp_path / "runs" / "a", solo=A)
    assert list(find_evaluation(tmp_path / name).tasks[SOLO]) == ["a", "b", "c", "d"]


def test_of_several_evaluations_one_is_named(tmp_path: Path) -> None:
    run = written(written(tmp_path / "a", solo=A), "before", solo=B)
    found = find_evaluation(run, "before")
    assert (found.label, found.tasks[SOLO]["a"].correct) == (f"{run}, before", 2)


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (
            "two",
            ConfigError,
            r"two with the evaluations \['one', 'other'\], allowed RUN/evaluations/NAME, or a run",
        ),
        ("empty", ConfigError, "empty with no evaluation, allowed"),
        ("two/evaluations/third", RunError, "third, which is not there, allowed a finished evaluation"),
        ("two/evaluations/begun", RunError, "begun, which has not finished, allowed"),
        (
            "other/evaluations/one",
            ConfigError,
            r"\['physics, solo'\] in .*one and \['maths, solo'\] in .*allowed two",
        ),
        (
            "torn/evaluations/one",
            RunError,
            r"maths\.solo\.per_task\.0\.verdicts of .*torn/evaluations/one: got",
        ),
        ("list/evaluations/one", RunError, "evaluation .*one.json: got a list, allowed what `aipo eval`"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    tmp_path: Path, a: str, error: type[AipoError], message: str
) -> None:
    for name in ("one", "other"):
        written(tmp_path / "two", name, solo=A)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two" / "evaluations" / "begun").mkdir()
    write_json(written(tmp_path / "other", "one") / "evaluations" / "one.json", {"physics": {"solo": A}})
    written(tmp_path / "torn", "one", solo={"per_task": [{"task_id": "a", "cluster": "a"}]})
    written(tmp_path / "list", "one").joinpath("evaluations", "one.json").write_text("[]")
    b = written(tmp_path / "b", solo=B)
    with pytest.raises(error, match=message):
        pair_evaluations(find_evaluation(tmp_path / a), find_evaluation(b))


# the command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "a", solo=A), written(tmp_path / "b", solo=B)


def test_the_command_prints_differences_and_tasks_that_turned(files: tuple[Path, Path]) -> None:
    lines = [line.split() for line in invoke("compare", *files, columns=120).stdout.splitlines()]
    assert lines[0] == ["A", f"{files[0]},", "after"]
    [row] = [line for line in lines if "pass@1" in line]
    assert row[:6] == ["maths,", "solo,", "pass@1", "0.625", "0.750", "+0.125"] and row[-1] == "4"
    assert ["b", "(maths,", "solo)", "2", "of", "2", "0", "of", "2", "-1.00"] in lines
    assert ["a", "(maths,", "solo)", "0", "of", "2", "2", "of", "2", "+1.00"] in lines
    assert "Of 4 tasks under a setting 1 turned right and 1 wrong." in map(" ".join, lines)
    said = invoke("compare", *files, "--limit", 0, columns=120).stdout
    assert "1 turned right and 1 wrong" in said and "+1.00" not in said


def test_the_command_prints_markdown(files: tuple[Path, Path]) -> None:
    lines = invoke("compare", *files, "--markdown", columns=40).stdout.splitlines()
    assert lines[:4] == [
        f"A: `{files[0]}, after`, B: `{files[1]}, after`",
        "",
        "|  | A | B | B − A |  | tasks |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    assert "| b (maths, solo) | 2 of 2 | 0 of 2 | -1.00 |" in lines


def test_the_command_prints_json(files: tuple[Path, Path]) -> None:
    [event] = map(json.loads, invoke("compare", *files, "--json").stdout.splitlines())
    results = event["results"]
    assert (event["event"], results["a"]) == ("finished", f"{files[0]}, after")
    assert [(m["split"], m["setting"], m["measure"]) for m in results["measures"]] == [
        ("maths", "solo", "pass@1"),
        ("maths", "solo", "pass@2"),
    ]
    [turned] = results["turned"]["wrong"]
    assert (turned["task_id"], turned["change"], turned["b"]["correct"]) == ("b", -1.0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one", "--name", "x"], r"--name: got one with 1 file\(s\), allowed with two evaluations or runs"),
        (["one", "--markdown"], "--markdown: got one with 1"),
        (["one", "two", "--report"], r"--report: got one with 2 file\(s\), allowed with one YAML file"),
        (["one", "two", "--at-once", "3"], "--at-once: got one with 2"),
        (["one", "two", "three"], "compare: got 3 files, allowed a YAML file, or two evaluations or runs"),
        (["one", "two", "--markdown", "--json"], "--markdown: got one with --json, allowed one of the two"),
    ],
)
def test_options_of_the_other_kind_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke("compare", *words)
