"""A dry run says what would be made, and makes nothing."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from aipo.cli import init
from aipo.config.build import Experiment, load_experiment
from aipo.errors import RunError
from aipo.train.dry_run import dry_run
from kit import tiny_peers
from kit.commands import invoke


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def dry(experiment: Experiment, *, resume: bool = False, evaluate_after: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    dry_run(experiment, resume=resume, evaluate_after=evaluate_after, console=console)
    return out.getvalue()


def test_a_dry_run_says_what_would_be_made() -> None:
    said = dry(
        load_experiment("aipo_distil", ["run.out=x", "train.steps=10", "train.save_every=4"]),
        evaluate_after=True,
    )
    assert "run folder   x, new" in said
    assert "rollouts     10 rollout steps x 16 tasks x 8 = 1,280, at most 128 tokens each" in said
    assert "updates      10 x 12 optimizer steps, learning rate 0.0005" in said
    assert "checkpoints  every 4 rollout steps (2 in all)" in said
    assert "evaluation   heldout, easy: 480 tasks x 8 rollouts x 3 (solo, suppressed, assisted)" in said
    assert said.endswith("nothing was made\n")
    assert "checkpoints  none" in dry(load_experiment("aipo_distil", ["run.out=x", "train.save_every=null"]))
    assert os.listdir() == []


def test_it_refuses_what_a_run_would_refuse_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("a")
    experiment = load_experiment("aipo_distil", ["run.out=x"])
    with pytest.raises(RunError, match="x, which is not empty"):
        dry(experiment)
    with pytest.raises(RunError, match=r"--resume: got x, allowed a folder with a config\.yaml of a run"):
        dry(experiment, resume=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"]


def test_the_command_says_what_is_dropped_and_the_version() -> None:
    done = invoke("train", "--dry-run", "run.out=x", "graph.name=graphs.solo:solo", columns=200)
    assert done.exit_code == 0
    assert (
        "dropped      graph.options.budget (preset aipo_distil): set for graphs.consult:consult"
        in done.output
    )
    assert invoke("--version").output == "aipo 0.1.0\n"
    assert os.listdir() == []


def test_copies_are_made_both_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "my" / "envs").mkdir(parents=True)
    with pytest.raises(RunError, match=r"init: got my/envs, which exists already"):
        init(Path("my"))
    assert os.listdir("my") == ["envs"]


def test_of_several_policies_it_names_each(tmp_path: Path) -> None:
    said = dry(tiny_peers.config(tmp_path / "made"))
    assert f"left         {tmp_path}/made/left, sampled by the engine local" in said
    assert f"right        {tmp_path}/made/right, sampled by the engine local" in said
    assert not (tmp_path / "made" / "run").exists()
