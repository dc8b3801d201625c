"""Which checkpoint a run goes on from."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from aipo.config.build import load_experiment
from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.train.checkpoints import rollout_step_of
from aipo.train.resume import differences, same_run, take_up


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("agents.verify.options.base_url=http://there/v1", None),
        ("agents.verify.timeout=90", None),
        ("agents.verify.secrets={api_key: OTHER}", None),
        ("agents.verify.prices={input: 1, output: 2}", None),
        ("policy.vllm.servers=[http://there]", None),
        ("evaluate.samples=16", None),
        ("warmup.steps=3", None),
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
    run.config.write_text(load_experiment("aipo_distil", [here]).to_yaml())
    with pytest.raises(ConfigError, match=says) if says else nullcontext():
        same_run(run, load_experiment("aipo_distil", [here, change]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("warmup.teacher.options.base_url=http://there/v1", None),
        ("warmup.teacher.secrets={api_key: OTHER}", None),
        ("warmup.teacher.prices={input: 1, output: 2}", None),
        ("warmup.teacher.timeout=90", None),
        ("warmup.teacher.options.model=larger", r"warmup\.teacher\.options\.model: 'larger', was None"),
        ("warmup.steps=3", r"warmup\.steps: 3, was 10"),
    ],
)
def test_of_a_teacher_the_same_may_change(tmp_path: Path, change: str, says: str | None) -> None:
    run = RunFolder(tmp_path)
    teacher = [
        "warmup.teacher.model=langchain_openai:ChatOpenAI",
        "warmup.teacher.options={base_url: http://here/v1}",
    ]
    run.config.write_text(load_experiment("aipo_distil", teacher).to_yaml())
    run.manifest.write_text('{"command": "warmup"}')
    with pytest.raises(ConfigError, match=says) if says else nullcontext():
        same_run(run, load_experiment("aipo_distil", [*teacher, change]), "warmup")


def test_agents_of_a_run_from_before_thinking_was_taken_out_say_what_they_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    settings = yaml.safe_load(load_experiment("aipo_distil").to_yaml())
    for agent in settings["agents"].values():
        del agent["thinking"]
    for _ in range(2):  # the second is recorded with what the first has filled in
        run.config.write_text(yaml.safe_dump(settings))
        experiment = load_experiment("aipo_distil")
        take_up(run, experiment)
        same_run(run, experiment)
        settings = yaml.safe_load(experiment.to_yaml())
        assert {name: agent["thinking"] for name, agent in settings["agents"].items()} == {
            name: {} for name in experiment.agents
        }
    named = load_experiment("aipo_distil", ["agents.verify.thinking={<think>: </think>}"])
    take_up(run, named)
    with pytest.raises(ConfigError, match=r"agents\.verify\.thinking.<think>: '</think>', was None"):
        same_run(run, named)


def test_what_a_run_of_today_says_is_not_filled_in(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    experiment = load_experiment("aipo_distil")
    run.config.write_text(experiment.to_yaml())
    take_up(run, experiment)
    assert experiment.settings == load_experiment("aipo_distil").settings


def test_a_rollout_step_by_the_name_of_a_checkpoint() -> None:
    assert rollout_step_of(Path("checkpoints/checkpoint-10"), 5) == 2
    assert rollout_step_of(None, 5) == 0


def test_differences_are_named_unless_they_may_be(tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    recorded.write_text(load_experiment("aipo_distil").to_yaml())
    now = load_experiment(
        "aipo_distil", ["train.steps=3", "method.coefficient=pi", "run.threads=2", "evaluate.samples=9"]
    )
    assert differences(recorded, now) == [
        "method.coefficient: 'pi', was 'mask'",
        "train.steps: 3, was 140",
    ]
    assert differences(recorded, now, ["run.*", "train.*", "method.*"]) == ["evaluate.samples: 9, was 8"]


def test_what_a_run_of_an_older_version_lacks_is_no_difference(tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    settings = yaml.safe_load(load_experiment("aipo_distil").to_yaml())
    for agent in settings["agents"].values():
        del agent["thinking"]
    for section, key in (
        ("rollout", "control_tokens"),
        ("run", "date"),
        ("train", "keep_weights"),
        ("policy", "lora"),
    ):
        del settings[section][key]
    recorded.write_text(yaml.safe_dump(settings))
    assert differences(recorded, load_experiment("aipo_distil")) == []
    assert differences(
        recorded, load_experiment("aipo_distil").with_settings({"run.out": "elsewhere"}), ()
    ) == ["run.out: 'elsewhere', was 'runs/aipo'"]
    now = load_experiment(
        "aipo_distil", ["rollout.control_tokens=refuse", "agents.verify.thinking={<a>: </a>}"]
    )
    assert differences(recorded, now) == [
        "agents.verify.thinking: None, was {}",
        "agents.verify.thinking.<a>: '</a>', was None",
        "rollout.control_tokens: 'refuse', was 'text'",
    ]
