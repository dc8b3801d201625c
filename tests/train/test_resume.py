"""Which checkpoint a run goes on from."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.errors import ConfigError
from aipo.replay.checkpoints import Choice, Weights
from aipo.run import RunFolder
from aipo.train.checkpoints import last_checkpoint, rollout_step_of
from aipo.train.resume import differences, same_run


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("agents.verify.options.base_url=http://there/v1", None),
        ("agents.verify.timeout=90", None),
        ("agents.verify.secrets={api_key: OTHER}", None),
        ("agents.verify.prices={input: 1, output: 2}", None),
        ("policy.vllm.servers=[http://there]", None),
        ("evaluate.samples=16", None),
        ("agents.verify.options.error_rate=0.5", r"agents\.verify\.options\.error_rate: 0\.5, was None"),
        ("agents.verify.budget=1", r"agents\.verify\.budget: 1, was 3"),
        ("rollout.max_tokens=64", r"rollout\.max_tokens: 64, was 128"),
    ],
)
def test_what_may_change_is_where_things_are_and_how_long_they_may_take(
    tmp_path: Path, change: str, says: str | None
) -> None:
    run = RunFolder(tmp_path)
    here = "agents.verify.options={base_url: http://here/v1}"
    run.config.write_text(load_experiment("aipo", [here]).to_yaml())
    with pytest.raises(ConfigError, match=says) if says else nullcontext():
        same_run(run, load_experiment("aipo", [here, change]))


def checkpoint(run: RunFolder, step: int, state: str | None) -> Path:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_newest_one_by_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert last_checkpoint(run) is None
    checkpoint(run, 9, "{}")
    newest = checkpoint(run, 10, "{}")
    assert last_checkpoint(run) == newest
    assert rollout_step_of(newest, 5) == 2


def test_one_that_was_being_written_when_the_run_was_killed_is_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    checkpoint(run, 3, None)
    checkpoint(run, 4, '{"global_step": ')
    assert last_checkpoint(run) is None
    whole = checkpoint(run, 2, '{"global_step": 2}')
    assert last_checkpoint(run) == whole
    # Nor is it looked through by a replay of a younger generation.
    choice = Choice(run=run, name="nearest", optimizer_steps=1, start=Weights("folder", 0))
    assert choice.at(5) == Weights(str(whole), 2)
    assert choice.at(1) == Weights("folder", 0)
    assert choice.sampled_steps() == [0, 2]


def test_differences_are_named_unless_they_may_be(tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    recorded.write_text(load_experiment("aipo").to_yaml())
    now = load_experiment(
        "aipo", ["train.steps=3", "method.coefficient=pi", "run.threads=2", "evaluate.samples=9"]
    )
    assert differences(recorded, now.settings) == [
        "method.coefficient: 'pi', was 'mask'",
        "train.steps: 3, was 140",
    ]
    assert differences(recorded, now.settings, ["run.*", "train.*", "method.*"]) == [
        "evaluate.samples: 9, was 8"
    ]
