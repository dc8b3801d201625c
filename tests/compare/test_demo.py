"""The demo: its pieces, and the whole of it on a policy that has learned next to nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aipo.compare import demo
from aipo.compare.demo import run_demo, summarise
from aipo.compare.results import ArmResult, MatrixResults
from aipo.config.build import Experiment, load_experiment
from aipo.config.load import presets
from aipo.errors import ConfigError, RunError, TrainError

RESULT = {"heldout": {"solo": {"pass_at": {"1": 0.25, "8": None}}, "suppressed": {"pass_at": {"1": 0.5}}}}
TINY = [
    "policy.options.steps=30", "train.steps=1", "train.tasks_per_step=2", "train.group_size=4",
    "rollout.max_tokens=16", "evaluate.samples=1", "evaluate.ks=[1]",
]  # fmt: skip


def results(**evaluations: Any) -> MatrixResults:
    finished = (ArmResult(arm=arm, seed=3, evaluation=one) for arm, one in evaluations.items())
    return MatrixResults(finished=tuple(finished), missing=())


def test_summary_keys_are_flat_and_those_of_the_first_arm_are_plain() -> None:
    scores = {"solo_pass1.heldout": 0.25, "solo_pass8.heldout": None, "solo_pass1_no_tags.heldout": 0.5}
    assert summarise(12.34, results(before=RESULT, aipo=RESULT, grpo=RESULT)) == {
        **{"seed": 3, "wall_s": 12.3},
        **{f"{name}.before": score for name, score in scores.items()},
        **{f"{name}.after": score for name, score in scores.items()},
        **{f"grpo.{name}.after": score for name, score in scores.items()},
    }


def test_the_last_table_shows_what_was_measured() -> None:
    console = Console(record=True, width=120, force_terminal=False)
    console.print(demo.last_table(results(before=RESULT, aipo={}), "title"))
    screen = console.export_text()
    assert "unknown facts, pass@1" in screen and "0.250" in screen and "–" in screen
    assert "pass@8" not in screen and "with agents" not in screen


def test_a_place_that_is_no_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out, says in (
        (tmp_path, "which is not empty, allowed a new folder"),
        (tmp_path / "file", "demo --out"),
        (tmp_path / "file" / "demo", "demo --out"),
    ):
        with pytest.raises(RunError, match=says):
            run_demo(out, seed=0, arms=("aipo",), console=Console(quiet=True))


@pytest.mark.parametrize("arms", [(), ("aipo", "aipo"), ("aipo", "my.yaml"), ("../aipo",)])
def test_arms_are_presets(tmp_path: Path, arms: tuple[str, ...]) -> None:
    known = ",".join(name for name in presets() if not name.endswith("gpu"))
    with pytest.raises(ConfigError, match=f"allowed some of {known}, each once"):
        run_demo(tmp_path / "demo", seed=0, arms=arms, console=Console(quiet=True))
    assert not (tmp_path / "demo").exists()


def test_the_demo_leaves_a_summary_and_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At a size that takes seconds; every process that it starts gets the same overrides.
    monkeypatch.setattr(demo, "OVERRIDES", (*demo.OVERRIDES, *TINY))
    out = tmp_path / "demo"
    console = Console(record=True, width=120, force_terminal=False)
    run_demo(out, seed=5, arms=("aipo", "grpo"), console=console)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 5
    names = [f"solo_pass1.{split}.{when}" for split in ("heldout", "easy") for when in ("before", "after")]
    for key in ("wall_s", *names, "solo_pass1_no_tags.heldout.after", "grpo.solo_pass1.heldout.after"):
        assert isinstance(summary[key], int | float), key
    page = (out / "report.html").read_text()
    assert "grpo" in page and "Before training, solo" in page and "[1m" not in page
    files = {"config.yaml", "manifest.json", "metrics.jsonl", "traces", "model"}
    for arm in ("aipo", "grpo"):
        assert {path.name for path in (out / arm).iterdir()} >= files
    screen = console.export_text()
    assert "unknown facts, pass@1" in screen
    assert "aipo graph consult" in screen


def test_an_arm_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "OVERRIDES", (*demo.OVERRIDES, *TINY, "env.mixture={nowhere: 1.0}"))
    says = r"(?s)aipo 0 ended with exit code 2, its log is .*aipo\.log.*nowhere"
    with pytest.raises(TrainError, match=says):
        run_demo(tmp_path / "demo", seed=0, arms=("aipo",), console=Console(quiet=True))


@pytest.mark.parametrize("arm", ["grpo", "dapo", "dr_grpo", "gspo", "cispo", "mask", "echo"])
def test_arms_have_the_same_budget(arm: str) -> None:
    def budget(experiment: Experiment) -> dict[str, object]:
        return {name: experiment.settings[name] for name in ("train", "rollout", "env", "evaluate", "policy")}

    assert budget(load_experiment("aipo")) == budget(load_experiment(arm))
