"""Offline training: the same rows as online, and what becomes of rows that somebody else sampled."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, RunError, TrainError
from aipo.replay.checkpoints import start_of
from aipo.replay.output import renamed
from aipo.replay.questions.credit import replay_credit
from aipo.replay.questions.train import replay_train
from aipo.run import RunFolder
from aipo.trace.store import TraceStore
from aipo.trace.token_stats import TokenStatsStore
from aipo.util.files import exclusive
from kit import handmade, tiny_run
from kit.recorded import replayed_losses, report


def offline(run: Path, out: Path | None, *overrides: str, **changes: object) -> str:
    """What it says; its exit code is 0."""
    said = io.StringIO()
    given = {
        "grid": (),
        "steps": None,
        "epochs": 1,
        "resume": False,
        "console": Console(file=said, width=300),
    }
    assert replay_train(run, overrides=overrides, out=out, **(given | changes)) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of another start."""
    return tiny_run.model_folder(tmp_path_factory.mktemp("models") / "stranger", seed=1)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in RunFolder(run).read_metrics()]


def test_the_same_settings_learn_the_same_from_stored_traces(trained: Path, tmp_path: Path) -> None:
    """Without a correction it is the online run once more: every loss, and the weights at the end."""
    out = tmp_path / "out"
    offline(trained, out, "method.importance_cap=null")
    assert losses(out) == pytest.approx(losses(trained), abs=1e-6)
    online, again = (load_file(run / "model" / "model.safetensors") for run in (trained, out))
    for name, weight in online.items():
        torch.testing.assert_close(again[name], weight, rtol=1e-5, atol=1e-6)


def test_the_result_is_a_run_that_names_its_source(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    offline(trained, out, steps=(1, 2))
    folder = RunFolder.open(out)
    config = load_experiment(str(folder.config))
    assert (config.train.steps, config.method.importance_cap, config.out) == (2, 2.0, out)
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["replay_of"]["what"] == "train"
    assert manifest["model"] == str(trained.parent / "start")
    kept, source = (list(TraceStore(run / "traces").read()) for run in (out, trained))
    recorded = {trace.trace_id: trace for trace in source}
    assert len(kept) == 48
    for trace in kept:
        was = recorded[trace.parent_id]
        assert (trace.run_id, trace.step, trace.group_id) == ("out", was.step - 1, was.group_id)
        assert trace.trace_id == f"out/{was.group_id}/{was.index}"
        assert (trace.reward, trace.segments) == (was.reward, was.segments)
    taught = [trace for trace in kept if trace.advantage]
    assert TokenStatsStore(folder.token_stats).of(taught[0].trace_id, taught[0].step)
    assert (folder.model / "tokenizer.json").is_file()


def test_ess_says_how_far_the_trained_policy_is_from_the_one_that_sampled(
    trained: Path, tmp_path: Path, stranger: Path
) -> None:
    offline(trained, tmp_path / "own")
    offline(trained, tmp_path / "other", f"policy.model={stranger}")
    runs = (RunFolder(tmp_path / name) for name in ("own", "other"))
    own, other = ([line["ess"] for line in run.read_metrics()] for run in runs)
    assert own[0] == pytest.approx(1.0, abs=1e-5)  # its own samples, and the same weights
    assert all(0 < value <= 1 for value in own + other)
    assert max(other) < 0.9
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    assert manifest["model"] == str(stranger)


@pytest.mark.parametrize("correction", ["truncate", "mask"])
def test_the_loss_again_follows_the_correction(
    trained: Path, tmp_path: Path, stranger: Path, correction: str
) -> None:
    """Rows that somebody else sampled, so that most are corrected: what training logged, and without a cap not."""
    out = tmp_path / "out"
    words = (f"policy.model={stranger}", f"method.importance_mode={correction}", "method.importance_cap=1.5")
    offline(trained, out, *words, steps=(0, 1))
    again = {"checkpoint": "nearest", "overrides": ("method.importance_cap=40",)}
    outcomes = replayed_losses(out, tmp_path / "again", **again)
    recorded = [o for o in outcomes if o["online"]]
    logged = {line["step"]: line for line in RunFolder(out).read_metrics()}
    assert [o["optimizer_step"] for o in recorded] == [1, 3]
    for outcome in recorded:
        line = logged[outcome["optimizer_step"]]
        assert outcome["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert outcome["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
        for name in ("importance", "clip/importance", "ess", "mismatch/mean", "mismatch/max"):
            assert outcome["metrics"][name] == pytest.approx(line[name], rel=1e-4), name
        assert line["clip/importance"] > 0.1
    others = {o["optimizer_step"]: o for o in outcomes if o["setting"] != recorded[0]["setting"]}
    assert all(abs(others[o["optimizer_step"]]["loss"] - o["loss"]) > 1e-3 for o in recorded)


def test_a_limit_on_the_drift_is_for_a_sampler_with_the_trainers_weights(
    trained_copy: Path, tmp_path: Path, stranger: Path
) -> None:
    run, out = trained_copy, tmp_path / "out"
    recorded = load_experiment(str(run / "config.yaml"), ["method.max_mismatch=1e-2"])
    (run / "config.yaml").write_text(recorded.to_yaml())
    offline(run, out, f"policy.model={stranger}", steps=(0, 0))
    assert RunFolder(out).read_metrics()[0]["mismatch/mean"] > 1e-2
    with pytest.raises(TrainError, match=r"train/inference mismatch in optimizer step 1"):
        offline(run, tmp_path / "no", f"policy.model={stranger}", "method.max_mismatch=1e-2", steps=(0, 0))


def test_a_grid_trains_a_policy_for_each_setting(trained: Path, tmp_path: Path) -> None:
    said = offline(trained, tmp_path, grid=["method.coefficient=mask,constant"], steps=(0, 0))
    mask, constant = tmp_path / "coefficient=mask", tmp_path / "coefficient=constant"
    assert load_experiment(str(mask / "config.yaml")).method.coefficient == "mask"
    assert losses(mask)[0] != losses(constant)[0]
    assert "coefficient=mask" in said and "ess" in said
    (table,) = report(mask)["tables"]
    assert [row[0] for row in table["rows"]] == ["coefficient=mask", "coefficient=constant"]


def test_epochs_are_gone_through_step_by_step(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    offline(trained, out, steps=(0, 1), epochs=2)
    traces = list(TraceStore(out / "traces").read())
    assert len(traces) == len({trace.trace_id for trace in traces}) == 4 * 24
    first = {trace.step: trace for trace in reversed(traces)}
    expected = ["00000-00000-000", "00001-00001-000", "00002-00000-000", "00003-00001-000"]
    assert [first[step].group_id for step in range(4)] == expected


def test_it_goes_on_from_its_last_checkpoint(trained: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    offline(trained, whole)
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "checkpoint-6")
    (out / "config.yaml").write_text((out / "config.yaml").read_text().replace(str(whole), str(out)))
    offline(trained, out, resume=True)
    assert losses(out) == losses(whole)
    with pytest.raises(ConfigError, match=r"got train\.learning_rate: 1\.0, was 0\.01"):
        offline(trained, out, "train.learning_rate=1", resume=True)


def test_a_recorded_file_is_not_imported(trained_copy: Path, tmp_path: Path) -> None:
    config = trained_copy / "config.yaml"
    config.write_text(config.read_text().replace("code.py", "gone.py"))
    offline(trained_copy, tmp_path / "out", steps=(0, 0))


@pytest.mark.parametrize(
    ("word", "steps", "error", "says"),
    [
        ("train.steps=3", None, ConfigError, r"train\.steps: got 3, allowed none: stored traces decide it"),
        ("run.seed=0", (900, None), RunError, r"--steps: got \(900, None\), allowed steps of .*traces"),
    ],
)
def test_a_mistake_is_said_by_name_and_takes_no_folder(
    trained: Path, tmp_path: Path, word: str, steps: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        offline(trained, tmp_path / "out", word, steps=steps)
    assert not (tmp_path / "out").exists()


def test_nobody_is_reported_to_unless_named(trained_copy: Path, tmp_path: Path) -> None:
    run = trained_copy
    text = (run / "config.yaml").read_text().replace("report_to: []", "report_to: [nobody_knows]")
    (run / "config.yaml").write_text(text)
    assert load_experiment(str(run / "config.yaml")).report_to
    offline(run, tmp_path / "out", steps=(0, 0))
    assert not load_experiment(str(tmp_path / "out" / "config.yaml")).report_to
    with pytest.raises(Exception, match="nobody_knows"):
        offline(run, tmp_path / "other", "run.report_to=[nobody_knows]", steps=(0, 0))


def test_policies_of_one_rollout_stay_apart() -> None:
    only = handmade.trace(handmade.prompt(2), handmade.policy(4), trace_id="r/g/0", fork_token=1)
    pair = [replace(only, trace_id=f"r/g/0/{name}", policy=name) for name in ("a", "b")]
    new = [renamed(trace, "out", step=3, group_id="h") for trace in (only, *pair)]
    assert [trace.trace_id for trace in new] == ["out/h/0", "out/h/0/a", "out/h/0/b"]
    assert [(t.parent_id, t.step, t.fork_token) for t in new] == [
        (t.trace_id, 3, None) for t in (only, *pair)
    ]


def test_one_process_at_a_time(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    offline(trained, out, steps=(0, 0))
    with exclusive(out), pytest.raises(RunError, match="which another process is writing"):
        offline(trained, out, steps=(0, 0), resume=True)


def test_a_replay_of_a_replay_starts_where_the_first_run_did(trained: Path, tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    words = ["method.negative_weight=1"]
    replay_credit(trained, grid=(), overrides=words, steps=(0, 0), out=tmp_path / "credit", console=quiet)
    config = load_experiment(str(tmp_path / "credit" / "config.yaml"), ["policy.model=somebody:else"])
    assert start_of(RunFolder(tmp_path / "credit"), config).path == str(trained.parent / "start")


def test_forks_are_not_learned_from(trained: Path, tmp_path: Path) -> None:
    forks = tmp_path / "forks"
    shutil.copytree(trained, forks)
    made_of = json.loads((forks / "manifest.json").read_text())
    said = made_of | {"replay_of": {"what": "consults", "trainable": False}}
    (forks / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(RunError, match=r"traces to learn from: got .*forks, forks that went on"):
        offline(forks, tmp_path / "out")
    with pytest.raises(RunError, match="traces to learn from"):
        replayed_losses(forks, tmp_path / "out")
    assert not (tmp_path / "out").exists()
