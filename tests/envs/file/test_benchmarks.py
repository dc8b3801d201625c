"""Benchmarks by name: from a folder in place of the hub, for `aipo train` and `aipo eval` without a configuration."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aipo.config.build import load_experiment
from aipo.config.environment import environment_overrides, with_environment
from aipo.errors import ConfigError, LoadError
from envs.file import File
from envs.file.benchmarks import TESTS, TRAINING, benchmark_names, settings

MATH = {"problem": "2+2?", "answer": "4"}
# One item each with the columns that the data set of the hub has.
ITEMS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((*TRAINING, *TESTS), MATH),
    "gsm8k-train": {"question": "2+2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    "gsm8k-test": {"question": "2+2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    "dapo-math": {"prompt": "2+2?", "solution": "4", "ability": "MATH"},
    "math500": {"problem": "2+2?", "solution": "s", "answer": "4", "subject": "Algebra", "level": 2},
    "amc": {"id": 0, "problem": "2+2?", "answer": 4.0, "url": "u"},
    "minerva": {"question": "2+2?", "answer": "4"},
    "olympiadbench": {"question": "2+2?", "answer": "4"},
    "gpqa-diamond": {
        "Question": "2+2?",
        "Correct Answer": "4\n",
        "Incorrect Answer 1": "3",
        "Incorrect Answer 2": "5",
        "Incorrect Answer 3": "22",
        "Subdomain": "Sums",
    },
    "mmlu-pro": {
        "question_id": 7,
        "question": "2+2?",
        "options": ["3", "5", "4", "22"],
        "answer": "C",
        "answer_index": 2,
        "category": "math",
    },
}


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / f"{name.replace('-', '_').upper()}.jsonl").write_text(json.dumps(ITEMS[name]) + "\n")
    return folder


@pytest.mark.parametrize("name", ITEMS)
def test_every_benchmark_reads_its_columns_and_scores_its_answer(tmp_path: Path, name: str) -> None:
    env = File({name: name}, folder=folder_of(tmp_path, name))
    (task,) = env.tasks(name)
    assert task.prompt.startswith("2+2?") and task.task_id == f"{name}/0"
    right = task.answer if "options" in task.metadata else "4"
    assert asyncio.run(env.score(task, f"So \\boxed{{{right}}}")) == {"correct": 1.0}
    assert asyncio.run(env.score(task, "So \\boxed{17}")) == {"correct": 0.0}
    env.close()


def test_what_is_kept_beside_the_answer(tmp_path: Path) -> None:
    env = File({"math500": "math500", "gpqa-diamond": "gpqa-diamond"}, folder=folder_of(tmp_path, *ITEMS))
    assert env.tasks("math500")[0].metadata == {"subject": "Algebra", "level": 2}
    (task,) = env.tasks("gpqa-diamond")
    assert task.metadata["Subdomain"] == "Sums" and set(task.metadata["options"]) == {"3", "4", "5", "22"}


@pytest.mark.parametrize(
    ("names", "mixture", "evaluated"),
    [
        ("math500", {"math500": 1.0}, ["math500"]),
        ("AIME_24, aime25", {"aime24": 0.5, "aime25": 0.5}, ["aime24", "aime25"]),
        ("dapo-math,math500", {"dapo-math": 1.0}, ["math500"]),
        ("gsm8k", {"gsm8k-train": 1.0}, ["gsm8k-test"]),
        ("deepscaler", {"deepscaler": 1.0}, ["deepscaler"]),
    ],
)
def test_what_is_for_training_is_trained_on(names: str, mixture: dict, evaluated: list) -> None:
    section = settings(names)
    assert section is not None
    assert (section["mixture"], section["evaluated"]) == (mixture, evaluated)


def test_names_that_are_none() -> None:
    assert settings("miniature") is None
    with pytest.raises(ConfigError, match=r"benchmarks: got \['aime99'\], allowed each once of \['aime24', "):
        settings("aime24,aime99")
    with pytest.raises(ConfigError, match=r"benchmarks: got \['amc', 'AMC'\], allowed each once"):
        settings("amc,AMC")
    with pytest.raises(ConfigError, match=r"environment: got 'aime99', allowed .*, or benchmarks: aime24, "):
        environment_overrides("aime99")
    assert {"gsm8k", "math500", "mmlu-pro"} < set(benchmark_names())


def test_without_a_configuration_the_preset_is_small(tmp_path: Path) -> None:
    config, words = with_environment("dapo-math,amc", None, [f"env.options.folder={tmp_path}"])
    experiment = load_experiment(config or "", words)
    folder_of(tmp_path, "dapo-math", "amc")
    experiment.check_env()
    assert (experiment.source, experiment.evaluation.splits) == ("small", ("amc",))
    assert [task.split for task in experiment.env.tasks("dapo-math")] == ["dapo-math"]
    assert with_environment(None, None, ["a.b=1"]) == (None, ["a.b=1"])
    assert with_environment("amc", "grpo", [])[0] == "grpo"
    assert with_environment("amc", None, [], of_run=True)[0] is None


def test_a_file_of_questions_is_an_environment(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n')
    experiment = load_experiment("small", environment_overrides(str(tmp_path / "mine.jsonl")))
    experiment.check_env()
    assert (experiment.mixture, experiment.evaluation.splits) == ({"mine": 1.0}, ("mine",))


def test_without_the_hub_the_error_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    says = (
        r"got ConnectionError: no route, allowed one that can be loaded, 'Idavidrein/gpqa'\. Without the hub, put a file "
        r"gpqa-diamond\.jsonl \(or \.jsonl\.gz, \.csv, \.parquet\) with the columns problem or question or prompt, Correct "
        r"Answer, Incorrect Answer 1, Incorrect Answer 2, Incorrect Answer 3 into a folder, and name that: "
        r"env\.options\.folder=FOLDER"
    )
    with pytest.raises(LoadError, match=says):
        File({"gpqa-diamond": "gpqa-diamond"}).tasks("gpqa-diamond")
    folder_of(tmp_path, "amc")
    with pytest.raises(
        LoadError, match=r"folder: got \['AMC.jsonl'\] in .*, allowed one file called math500 with .jsonl"
    ):
        File({"math500": "math500"}, folder=tmp_path).tasks("math500")
    (tmp_path / "amc.csv").write_text("problem,answer\n1?,1\n")
    with pytest.raises(LoadError, match=r"got \['AMC.jsonl', 'amc.csv'\] in"):
        File({"amc": "amc"}, folder=tmp_path).tasks("amc")
