"""`aipo eval --suite` and `--resume`: data sets with settings of their own, one queue, no sample twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aipo.config.build import load_experiment
from aipo.config.environment import suite_overrides, suites
from aipo.errors import ConfigError, RunError
from aipo.evaluate.samples import SAMPLES, read_samples
from aipo.trace.store import TraceStore
from kit.commands import invoke
from kit.served_model import ServedModel, served_model

SUITE = """
evaluate: {settings: [solo]}
datasets:
  math500: {rollout: {temperature: 0.6, max_tokens: 50}, evaluate: {samples: 4, ks: [1, 4], keep: all}}
  gpqa: {env: gpqa-diamond, rollout: {temperature: 0.9, max_tokens: 70}, evaluate: {samples: 2, ks: [1, 2]}}
"""
MATH = [
    {"problem": "What is 0+2?", "answer": "2", "level": 1, "subject": "Algebra"},
    {"problem": "What is 1/2+1?", "answer": "1.5", "level": 2, "subject": "Algebra"},
    {"problem": "What is 2+2?", "answer": "4", "level": 2, "subject": "Geometry"},
]
CHOICE = {"Question": "Which is red?", "Correct Answer": "a rose", "High-level domain": "Biology"} | {
    f"Incorrect Answer {n}": f"a cloud {n}" for n in (1, 2, 3)
}
ANSWERS = {
    "0+2": [r"\boxed{2}", r"\boxed{2}", r"\boxed{3}", "no"],
    "1/2+1": [r"\boxed{1.5}", r"\boxed{3/2}", r"\boxed{7}", r"\boxed{7}"],  # two and two, as math-verify says
    "2+2": [r"\boxed{5}"],
    "red": [r"\boxed{a rose}", r"\boxed{a cloud 1}"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the items, and the suite."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/math500.jsonl").write_text("\n".join(map(json.dumps, MATH)))
    (tmp_path / "data/gpqa-diamond.jsonl").write_text(json.dumps(CHOICE))
    (tmp_path / "mine.yaml").write_text(SUITE)
    return tmp_path


def words(data: Path, *more: object) -> list[object]:
    options = (f"env.options.folder={data / 'data'}", f"run.out={data / 'out'}", *more)
    return ["eval", "--suite", data / "mine.yaml", *options]


def results(data: Path) -> dict[str, Any]:
    return json.loads((data / "out/evaluations/eval.json").read_text())


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Without seconds."""
    for settings in results.values():
        for result in settings.values():
            del result["cost"]["seconds"]
    return results


def test_each_data_set_has_its_settings_and_its_numbers(data: Path) -> None:
    model = ServedModel(ANSWERS)
    with served_model(model) as options:
        done = invoke(*words(data), *options, columns=160)
    asked = {(b["temperature"], b["max_completion_tokens"]) for b in model.asked}
    assert asked == {(0.6, 50), (0.9, 70)} and len(model.asked) == 3 * 4 + 2
    found = results(data)
    math, choice = found["math500"]["solo"], found["gpqa-diamond"]["solo"]
    assert (math["temperature"], math["max_tokens"], math["samples"]) == (0.6, 50, 4)
    assert math["pass_at"] == {"1": pytest.approx((0.5 + 0.5 + 0) / 3), "4": pytest.approx(2 / 3)}
    assert math["avg_at"] == {"4": pytest.approx((0.5 + 0.5 + 0) / 3)}
    # 2, 2, 3 and none: 2 wins. Two of 1.5 and two of 7: each wins half of the time. 5 always wins.
    assert math["maj_at"] == {"4": pytest.approx((1 + 0.5 + 0) / 3)}
    assert {level: curve["tasks"] for level, curve in math["by"]["level"].items()} == {"1": 1, "2": 2}
    assert math["by"]["subject"]["Algebra"]["pass_at"]["1"] == 0.5
    second = math["per_task"][1]
    assert second["votes"][0] in (
        {"answer": "1.5", "count": 2, "right": 2},
        {"answer": "3/2", "count": 2, "right": 2},
        {"answer": "7", "count": 2, "right": 0},
    )
    assert second["labels"] == {"subject": "Algebra", "level": "2"}
    assert choice["pass_at"] == {"1": 0.5, "2": 1.0} and choice["by"] == {}
    home = data / "out/evaluations/eval"
    assert len(list(TraceStore(home).read())) == 3 * 4 + 1  # all of math500, the first of gpqa-diamond
    samples = read_samples(home)
    assert sorted(s.answer or "" for s in samples if s.task_id == "math500/0") == ["", "2", "2", "3"]
    assert "math500, solo" in done.stdout and "maj@4" in done.stdout
    text = (data / "out/evaluations/eval.md").read_text()
    assert "## By level" in text and "| math500, solo, 2 |" in text


def test_a_killed_evaluation_goes_on_and_samples_nothing_twice(data: Path) -> None:
    model = ServedModel(ANSWERS, limit=5)
    file = data / "out/evaluations/eval" / SAMPLES
    with served_model(model) as options:
        command = [*words(data, "rollout.concurrency=3", "env.options.workers=1"), *options]
        _kill_after(5, file, command)
        before = file.read_text().splitlines()
        assert len(before) == 5 and not (data / "out/evaluations/eval.json").exists()
        with pytest.raises(RunError, match=r"--name: got 'eval', of which .*has samples, allowed --resume"):
            invoke(*command)
        with pytest.raises(
            RunError, match=r"--resume: got another datasets\.math500\.seed, .* than .*setup\.json"
        ):
            invoke(*command, "--resume", "run.seed=7")
        with pytest.raises(RunError, match=r"--resume: got another policy than .*setup\.json"):
            invoke(*command[:-1], "cleverer", "--resume")
        model.limit = None
        invoke(*command, "--resume")
        lines = file.read_text().splitlines()
        assert lines[:5] == before and len(lines) == 3 * 4 + 2 == model.answered.total()
        resumed = numbers(results(data))
        # Nothing is missing now: the numbers are counted again, nobody is asked.
        invoke(*command, "--resume", "evaluate.ks=[2]")
        assert model.answered.total() == 14 and results(data)["math500"]["solo"]["pass_at"].keys() == {"2"}
    traces = [trace.trace_id for trace in TraceStore(file.parent).read()]
    assert len(traces) == len(set(traces)) == 3 * 4 + 1
    with served_model(ServedModel(ANSWERS)) as options:
        invoke(*words(data, f"run.out={data / 'again'}"), *options)
    again = numbers(json.loads((data / "again/evaluations/eval.json").read_text()))
    assert [again[split]["solo"]["counts"] for split in again] == [
        r["solo"]["counts"] for r in resumed.values()
    ]


def _kill_after(count: int, file: Path, command: Sequence[object]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aipo.cli", *map(str, command)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not file.is_file() or file.read_text().count("\n") < count:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_samples_that_a_machine_failed_are_done_again(data: Path) -> None:
    model = ServedModel(ANSWERS, broken=2)
    with served_model(model) as options:
        invoke(*words(data), *options)
        assert sum(r["solo"]["counts"]["failed"] for r in results(data).values()) == 2
        invoke(*words(data), *options, "--resume")
    assert sum(r["solo"]["counts"]["failed"] for r in results(data).values()) == 0
    assert model.answered.total() == 14 and len(model.asked) == 16
    home = data / "out/evaluations/eval"
    assert len((home / SAMPLES).read_text().splitlines()) == 16 and len(read_samples(home)) == 14
    again = [trace.trace_id for trace in TraceStore(home).read() if "@" in trace.trace_id]
    assert again and all(trace_id.endswith("@1") for trace_id in again)


def test_suites_that_ship_are_configurations() -> None:
    for name in suites():
        for overrides in suite_overrides(name).values():
            assert load_experiment("small", overrides).evaluation.settings == ("solo",)
    ours = {name: load_experiment("small", words) for name, words in suite_overrides("aipo").items()}
    samples = {name: experiment.evaluation.samples for name, experiment in ours.items()}
    assert samples == {"aime24": 16, "aime25": 16, "math500": 4, "gpqa-diamond": 4, "livecodebench": 4}
    assert ours["livecodebench"].graph_options["prompt"] == "code.md"
    assert ours["math500"].graph_options["prompt"] == "policy.md"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datasets: []", r"datasets of suite .*: got \[\], allowed data sets by name"),
        ("rollout: {temperature: 1.0}", "datasets of suite .*: got None"),
        ("datasets: {math500: 3}", r"got {'math500': 3}, allowed sections of a configuration"),
        ("datasets: {maths500: {}}", "environment: got 'maths500'"),
        ("datasets: {math500: {rollouts: {max: 1}}}", "rollouts"),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        for overrides in suite_overrides(str(tmp_path / "mine.yaml")).values():
            load_experiment("small", overrides)


def test_what_contradicts_a_suite_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"--suite: got 'none', allowed one of \['aipo'\] or a YAML file"):
        invoke("eval", "--suite", "none")
    with pytest.raises(ConfigError, match=r"--suite, --env: got aipo and math500, allowed one of the two"):
        invoke("eval", "--suite", "aipo", "--env", "math500")
    (data / "mine.yaml").write_text("datasets: {math500: {}, again: {env: math500}}")
    with (
        served_model(ServedModel({})) as options,
        pytest.raises(
            ConfigError, match="got split 'math500' in math500 and again, allowed a name of its own for each"
        ),
    ):
        invoke(*words(data), *options)
    with (
        served_model(ServedModel({})) as options,
        pytest.raises(RunError, match="--resume: got 'eval', allowed an evaluation that was begun"),
    ):
        (data / "mine.yaml").write_text(SUITE)
        invoke(*words(data), *options, "--resume")
