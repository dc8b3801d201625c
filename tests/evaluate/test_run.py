"""An evaluation: what it is refused for, before anything is loaded, and its table."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError, TaskError
from aipo.evaluate.run import evaluate_folder
from aipo.evaluate.tables import table
from aipo.evaluate.tasks import choose_task
from aipo.run import RunFolder
from aipo.train.run import train_run
from aipo.util.files import write_text
from kit.tiny_run import config, model_folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has been trained, as far as its files tell."""
    folder = RunFolder(tmp_path / "run")
    write_text(folder.config, "extends: aipo_distil\n")
    write_text(folder.evaluation("after"), "{}")
    folder.model.mkdir()
    return folder


def examine(run: Path | None, config: str | None = None, *overrides: str, name: str = "mine") -> None:
    evaluate_folder(run, config, overrides, name=name, console=Console(quiet=True))


def test_a_run_that_is_not_trained_yet_is_refused(run: RunFolder) -> None:
    run.model.rmdir()
    with pytest.raises(RunError, match="has no trained policy yet, allowed a finished run"):
        examine(run.path)


@pytest.mark.parametrize("name", ["", "../after", "a b", "a.json", "a/b"])
def test_a_name_is_a_plain_word(run: RunFolder, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--name: got .*allowed letters, digits, - and _"):
        examine(run.path, name=name)


def test_what_contradicts_a_run_is_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--run .* and --config grpo, allowed one of them"):
        examine(run.path, "grpo")
    with pytest.raises(RunError, match=r"--name: got 'after', .* holds already, allowed a new name"):
        examine(run.path, name="after")
    assert run.evaluation("after").read_text() == "{}"
    with pytest.raises(RunError, match="which holds a run, and an untrained policy, allowed --run"):
        examine(None, "aipo_distil", f"run.out={run.path}")


@pytest.mark.parametrize("of_run", [True, False])
def test_two_tasks_of_one_id_are_refused_of_a_run_and_of_a_configuration(
    run: RunFolder, tmp_path: Path, of_run: bool
) -> None:
    (tmp_path / "mine.py").write_text(
        "from aipo.rollout import Task\n"
        "class E:\n"
        "    def splits(self): return ('b',)\n"
        "    def tasks(self, split): return 2 * [Task(task_id='b', prompt='1?', answer='1', split='b')]\n"
        "    def score(self, task, text): return {'correct': 1.0}\n"
    )
    words = [f"env.name={tmp_path / 'mine.py'}:E", "evaluate.splits=[b]", f"run.out={tmp_path / 'out'}"]
    with pytest.raises(TaskError, match=r"tasks of split 'b' of .*mine\.py:E: got id 'b' twice"):
        examine(run.path if of_run else None, None, *words)
    for chosen in ((None, 0, None), ("b", None, 5)):
        with pytest.raises(TaskError, match="got id 'b' twice"):
            choose_task(load_experiment("aipo_distil", words), *chosen)


def test_a_place_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"run\.out: got .*allowed a folder that can be written"):
        examine(None, None, f"run.out={tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (
            "True",
            r"^evaluation 'mine': 4 of 4 rollouts failed\. Most frequent reason \(4 times\): ValueError: no judge",
        ),
        ("task.task_id == 'b/0'", None),
    ],
)
def test_rollouts_that_fail_are_said_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, says: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from aipo.rollout import Task\n"
        "class E:\n"
        "    def splits(self): return ('b',)\n"
        "    def tasks(self, split): return [Task(task_id=f'b/{n}', prompt='1?', answer='1', split='b') for n in range(4)]\n"
        "    def score(self, task, text):\n"
        f"        if {fails}: raise ValueError('no judge')\n"
        "        return {'correct': 1.0}\n"
    )
    words = ["env.name=mine.py:E", "evaluate={splits: [b], samples: 1, ks: [1], settings: [solo]}"]
    words += [
        f"policy={{model: {model_folder(tmp_path / 'm')}}}",
        "run.out=out",
        "graph.name=graphs.solo:solo",
    ]
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    if says is not None:
        with pytest.raises(RunError, match=says):
            evaluate_folder(None, None, words, name="mine", console=console)
        assert not Path("out/evaluations/mine.json").exists()
        return
    evaluate_folder(None, None, words, name="mine", console=console)
    assert (
        "1 of 4 rollouts failed. Most frequent reason (1 times): ValueError: no judge"
        in console.export_text()
    )


def test_a_trained_run_is_finished_though_all_rollouts_of_its_evaluation_fail(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from envs.miniature import Miniature\n"
        "class E(Miniature):\n"
        "    def tasks(self, split): return super().tasks(split)[:8]\n"
        "    def score(self, task, text):\n"
        "        if task.split == 'heldout': raise ValueError('no judge')\n"
        "        return {'correct': float(len(text) % 2)}\n"
    )
    words = [f"env.name={tmp_path / 'mine.py'}:E", "train.steps=1", "train.tasks_per_step=2"]
    words.append("evaluate={splits: [heldout], samples: 1, ks: [1], settings: [solo]}")
    console = Console(record=True, width=200, file=io.StringIO())
    train_run(config(tmp_path, *words), resume=False, evaluate_after=True, console=console)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.model.is_dir() and json.loads(folder.ended.read_text())["state"] == "finished"
    result = json.loads(folder.evaluation("after").read_text())["heldout"]["solo"]
    assert (result["pass_at"], result["counts"]["failed"]) == ({"1": None}, 8)
    assert (
        "8 of 8 rollouts failed. Most frequent reason (8 times): ValueError: no judge"
        in console.export_text()
    )


def test_the_table_counts_what_failed() -> None:
    result = {"pass_at": {"1": 0.5, "2": None}, "interval": {"1": [0.4, 0.6], "2": None}}
    console = Console(record=True, width=80, force_terminal=False)
    console.print(table({"easy": {"solo": {**result, "counts": {"failed": 17}}}}))
    lines = [
        line.split("  ") for line in map(str.strip, console.export_text().splitlines()) if line[:1].isalpha()
    ]
    assert [[part.strip() for part in line if part.strip()] for line in lines] == [
        ["split, setting", "pass@1", "pass@2", "failed"],
        ["easy, solo", "0.500", "[0.40, 0.60]", "–", "17"],
    ]


def test_many_k_stand_below_each_other_and_no_number_is_broken() -> None:
    ks = dict.fromkeys("1248", 0.889)
    r = {"pass_at": ks, "interval": {k: [0.87, 0.91] for k in ks}, "counts": {"failed": 0}}
    console = Console(record=True, width=80, force_terminal=False)
    console.print(table({"heldout": {"solo": r, "suppressed": r}}))
    (title, *first), (_, *second) = (
        [line.split() for line in part.splitlines() if line.strip()]
        for part in console.export_text().split("heldout, ")[1:]
    )
    numbers = [[f"pass@{k}", "0.889", "[0.87,", "0.91]"] for k in "1248"]
    assert title == ["solo"] and first == second == [*numbers, ["failed", "0"]]
