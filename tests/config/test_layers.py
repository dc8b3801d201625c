"""Layers of settings: what is for another graph, environment or model is dropped; every value has a source."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from aipo.config import PRESETS, presets
from aipo.config.build import load_experiment
from aipo.config.cli import _presets
from aipo.config.load import load_config, resolve
from aipo.config.show import show
from aipo.errors import ConfigError, RunError

SOLO = "graph.name=graphs.solo:solo"
GRAPH = "from graphs.solo import solo\n\n\ndef mine({}):\n    return solo()\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file into the working directory, which is an empty one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.mark.parametrize("preset", ["aipo_distil", "grpo", "luffy", "qwen2.5-7b-1gpu"])
def test_a_presets_options_that_another_graph_does_not_take_are_dropped(preset: str) -> None:
    before = load_config(preset).graph.options
    assert load_config(preset, [SOLO]).graph.options == {"prompt": before["prompt"]}


@pytest.mark.parametrize("preset", presets())
def test_of_what_one_preset_drops_of_another_nothing_is_said(preset: str) -> None:
    assert resolve(preset)[1].dropped == []


def test_a_preset_keeps_nothing_for_the_environment_of_the_one_it_extends() -> None:
    config = load_config("gsm8k-tutor")
    assert (config.env.name, [*config.env.options["splits"]]) == ("envs.gsm8k:GSM8K", ["train", "test"])
    assert [agent.options for agent in config.agents.values()] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ("", {}),
        ("*, budget", {"budget": 3}),
        ("*, agents, prompt, budget", {"prompt": "miniature.md", "budget": 3}),
        ("**options", {"prompt": "miniature.md", "budget": 3}),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_graph_of_ones_own_gets_what_it_takes(
    write, parameters: str, options: dict[str, object], in_file: bool
) -> None:
    write("mine.py", GRAPH.format(parameters))
    mine = write("mine.yaml", "extends: aipo_distil\ngraph: {name: 'mine.py:mine'}\n")
    experiment = (
        load_experiment(mine) if in_file else load_experiment("aipo_distil", ["graph.name=mine.py:mine"])
    )
    assert experiment.graph_options == options
    assert experiment.graphs.graph


def test_with_another_environment_too_a_presets_options_are_nobodys(write) -> None:
    write("mine.py", GRAPH.format("*, prompt='policy.md'"))
    config = load_config("aipo_distil", ["graph.name=mine.py:mine", "env.name=envs.math:Math"])
    assert config.graph.options == {}


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("extends: aipo_distil\n", [SOLO, "graph.options.budget=2"]),
        ("extends: aipo_distil\n", ["graph.options.budget=2", SOLO]),
        ("extends: aipo_distil\n", ["graph={name: 'graphs.solo:solo', options: {budget: 2}}"]),
        ("extends: aipo_distil\ngraph: {name: 'graphs.solo:solo', options: {budget: 2}}\n", []),
        ("extends: aipo_distil\ngraph: {options: {budget: 2}}\n", [SOLO]),
    ],
)
def test_an_option_that_the_user_sets_is_never_dropped(write, text: str, overrides: list[str]) -> None:
    experiment = load_experiment(write("mine.yaml", text), overrides)
    with pytest.raises(ConfigError, match=r"graph\.options of graphs\.solo:solo: got \['budget'\], allowed"):
        _ = experiment.graphs


def test_a_file_drops_what_the_file_beneath_says_for_another_graph(write) -> None:
    write("base.yaml", "extends: aipo_distil\ngraph: {options: {budget: 2, grammar: {after: x}}}\n")
    write("mine.py", GRAPH.format("*, prompt"))
    mine = write("mine.yaml", "extends: base.yaml\ngraph: {name: 'mine.py:mine'}\n")
    assert load_config(mine).graph.options == {"prompt": "miniature.md"}


@pytest.mark.parametrize("name", ["graphs.consult:consult", "graphs/consult.py:consult"])
def test_the_same_graph_by_another_name_keeps_its_options(name: str) -> None:
    assert load_config("aipo_distil", [f"graph.name={name}"]).graph.options["budget"] == 3


def test_another_environment_on_the_command_line_keeps_nothing_of_the_presets(write) -> None:
    config = load_config("qwen2.5-7b-1gpu", ["env.name=mine.py:Mine", "env.mixture={all: 1.0}"])
    assert (config.env.options, config.env.mixture, config.evaluate.splits) == (
        {},
        {"all": 1.0},
        ("heldout",),
    )
    mine = write("mine.yaml", "extends: aipo_distil\nevaluate: {splits: [test]}\n")
    assert load_config(mine, ["env.name=mine.py:Mine"]).evaluate.splits == ("test",)


def test_splits_of_another_environment_are_all_named_at_once(write) -> None:
    write(
        "mine.py",
        "from envs.miniature import Miniature\nclass Mine(Miniature):\n    def splits(self): return ('train', 'test')\n",
    )
    with pytest.raises(
        ConfigError,
        match=r"env\.mixture: got \['easy_train', 'hard'\] and evaluate\.splits: got \['heldout'\], allowed "
        r"\['train', 'test'\], the splits of mine\.py:Mine; set env\.mixture and evaluate\.splits",
    ):
        load_experiment("aipo_distil", ["env.name=mine.py:Mine"]).check_env()


def test_another_model_gets_no_options_of_the_one_before(write) -> None:
    mine = write("mine.yaml", "extends: aipo_distil\npolicy: {options: {steps: 5}}\n")
    assert load_config(mine, ["policy.model=folder"]).policy.options == {}
    assert load_config("aipo_distil", ["policy.model=m.py:f", "policy.options.size=2"]).policy.options == {
        "size": 2
    }


def test_another_model_of_an_agent_gets_neither_options_nor_secrets() -> None:
    agents = load_config("qwen2.5-7b-1gpu", ["agents.verify.model=langchain_anthropic:ChatAnthropic"]).agents
    assert (agents["verify"].options, agents["verify"].secrets) == ({}, {})
    assert agents["verify"].timeout == agents["knowledge"].timeout == 300.0
    assert agents["knowledge"].secrets == {"api_key": "AIPO_AGENT_KEY"}


def test_the_order_of_agents_stays() -> None:
    config = load_config(
        "aipo_distil", ["agents.verify={graph: 'graphs.verify:verify'}", "agents.knowledge.budget=1"]
    )
    assert list(config.agents) == ["verify", "knowledge", "reasoning"]
    assert config.agents["verify"].model is None


def test_a_recorded_configuration_imports_nothing(write) -> None:
    write("evil.py", "raise SystemExit('imported')")
    recorded = write("config.yaml", "extends: aipo_distil\ngraph: {name: 'evil.py:graph'}\n")
    _, layers = resolve(recorded, of_run=True)
    assert layers.settings["graph"] == {"name": "evil.py:graph"}


def test_a_file_that_holds_itself_is_refused(write) -> None:
    with pytest.raises(ConfigError, match=r"configuration mine\.yaml"):
        load_config(write("mine.yaml", "run: &run {out: *run}\n"))


# aipo config


def preset_line(source: str) -> tuple[str, str]:
    """'preset NAME:7' → the name, and what stands there."""
    name, line = source.removeprefix("preset ").split(":")
    text = (PRESETS / f"{name}.yaml").read_text().splitlines()[int(line) - 1]
    return name, text.partition("#")[0].strip()


def test_every_value_has_its_source_as_a_comment(write) -> None:
    mine = write("mine.yaml", "extends: grpo\n\ntrain:\n  steps: 7\n")
    text = show(mine, ["run.seed=3", SOLO], as_json=False)
    sources = {
        line.split(":")[0].strip(): line.rpartition("# ")[2] for line in text.splitlines() if "#" in line
    }
    assert sources["seed"] == "override"
    assert sources["steps"] == "mine.yaml:4"
    assert preset_line(sources["negative_weight"]) == ("grpo", "negative_weight: 0.3")
    assert preset_line(sources["tasks_per_step"]) == ("aipo_distil", "tasks_per_step: 16")
    assert sources["save_every"] == sources["device"] == "default"
    assert text.startswith(
        "# dropped: graph.options.budget (preset aipo_distil): set for graphs.consult:consult, and graph.name is now "
        "graphs.solo:solo\n"
    )
    assert load_config(write("shown.yaml", text)) == load_config(mine, ["run.seed=3", SOLO])


@pytest.mark.parametrize("preset", ["aipo_distil", "qwen2.5-7b-8gpu"])
def test_what_is_shown_is_a_configuration(write, preset: str) -> None:
    odd = 'graph.options.grammar={after: "\\n", notices: {exhausted: \'a # b: "c"\'}}'
    assert load_config(write("shown.yaml", show(preset, [odd], as_json=False))) == load_config(preset, [odd])


def test_what_anchors_and_merges_give_stands_where_they_do() -> None:
    shown = json.loads(show("qwen2.5-7b-8gpu", [], as_json=True))
    assert shown["settings"]["agents"]["knowledge"]["timeout"] == 300.0
    assert preset_line(shown["sources"]["agents.knowledge.timeout"]) == ("qwen2.5-7b-8gpu", "timeout: 300")
    assert shown["sources"]["agents.knowledge.graph"] != shown["sources"]["agents.verify.graph"]


def test_a_key_may_be_a_number(write) -> None:
    mine = write("mine.yaml", "extends: aipo_distil\nenv:\n  options:\n    years: {2024: a, '2025': b}\n")
    sources = json.loads(show(mine, [], as_json=True))["sources"]
    assert [sources[f"env.options.years.{year}"] for year in (2024, 2025)] == ["mine.yaml:4"] * 2


def test_names_of_presets_are_completed() -> None:
    assert (_presets("gr"), _presets("nothing")) == (["grpo"], [])
    assert set(_presets("")) == set(presets())


def test_a_run_folder_is_shown_and_another_folder_is_refused(write, tmp_path: Path) -> None:
    write("config.yaml", yaml.safe_dump({**load_config("aipo_distil").model_dump(mode="json")}))
    assert json.loads(show(str(tmp_path), [], as_json=True))["settings"]["train"]["steps"] == 140
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"aipo config: got .*empty, allowed a preset"):
        show(str(tmp_path / "empty"), [], as_json=False)


@pytest.mark.parametrize(
    ("text", "overrides", "value", "said"),
    [
        ("extends: aipo\n", ["method.coefficient=constant"], None, ["preset aipo"]),
        ("extends: aipo\n", ["method.coefficient=power"], 0.25, []),
        (
            "extends: aipo\n",
            ["method.coefficient=floor", "method.coefficient_value=0.2"],
            0.2,
            ["preset aipo"],
        ),
        ("extends: aipo\nmethod: {coefficient: luffy}\n", [], None, ["preset aipo"]),
        ("extends: aipo\nmethod: {coefficient_value: 0.4}\n", ["method.coefficient=pi"], None, ["mine.yaml"]),
        ("extends: mask\nmethod: {coefficient_value: null}\n", ["method.coefficient=pi"], None, []),
    ],
)
def test_the_value_of_another_coefficient_is_dropped(
    write, text: str, overrides: list[str], value: float | None, said: list[str]
) -> None:
    experiment = load_experiment(write("mine.yaml", text), overrides)
    assert experiment.method.coefficient_value == value
    now = experiment.method.coefficient
    assert list(experiment.dropped) == [
        f"method.coefficient_value ({name}): set for power, and method.coefficient is now {now}"
        for name in said
    ]
