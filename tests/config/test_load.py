"""Configuration: strict, and an error that says what to write instead."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from aipo.config import presets
from aipo.config.build import Experiment, load_experiment
from aipo.config.load import Config, checked, load_config
from aipo.config.schema import AgentConfig
from aipo.errors import ConfigError
from aipo.method.agent_weights import NEGATIVES
from aipo.method.batch import COUNTS
from aipo.method.credit import CREDITS
from aipo.method.objectives import IMPORTANCE_MODES, OBJECTIVES
from aipo.method.plan import PLANS
from aipo.method.settings import MethodSettings


def test_every_preset_loads() -> None:
    assert {"aipo", "grpo", "mask"} < set(presets())
    for name in presets():
        assert isinstance(load_config(name), Config)


def test_grpo_differs_from_aipo_in_the_method_alone() -> None:
    aipo, grpo = load_config("aipo_distil").model_dump(), load_config("grpo").model_dump()
    assert [section for section in aipo if aipo[section] != grpo[section]] == ["method"]
    assert grpo["method"]["assist_share"] == 0.0


def test_overrides_win_and_values_are_yaml() -> None:
    config = load_config(
        "aipo_distil", ["run.out=/tmp/x", "method.coefficient=floor", "train.steps=3", "evaluate.ks=[1, 2]"]
    )
    assert str(config.run.out) == "/tmp/x"
    assert config.method.coefficient == "floor"
    assert config.train.steps == 3
    assert config.evaluate.ks == (1, 2)


def test_an_agent_is_one_line() -> None:
    config = load_config("aipo_distil", ["agents.calculate.graph=graphs/calculate.py:calculate"])
    assert list(config.agents) == ["verify", "knowledge", "reasoning", "calculate"]
    assert config.agents["calculate"].model is None


ALLOWED = (
    "['constant', 'echo', 'floor', 'luffy', 'mask', 'pi', 'power', 'ratio', 'rlplus'] or 'file.py:function'"
)
REWARD = "method.credit=reward method.negative_weight=1 method.scale_by_std=false"
CLIP = "coefficient_clip_low, coefficient_clip_high"
REFUSED = {
    # keys, values and their form
    "metod.plan=independent": "metod: unknown key; did you mean 'method'?",
    "method.coeficient=pi": "did you mean 'method.coefficient'?",
    "method.agents.verfy.coefficient=mask": "method.agents: got ['verfy'], allowed ['verify', 'knowledge', 'reasoning']",
    "method.agents.verify.coefficient=sft": "method.agents.verify: coefficient: got 'sft', allowed",
    "method.agents.expert.coefficient=pi": "method.agents: got ['expert'], allowed ['verify',",
    "agents.verify.bugdet=2": "did you mean 'agents.verify.budget'?",
    "method.coefficient=sum": f"method: coefficient: got 'sum', allowed {ALLOWED}",
    "method.max_mismatch=0": "method.max_mismatch: Input should be greater than 0, got 0",
    "train.steps=-1": "train.steps: Input should be greater than or equal to 1, got -1",
    "method.assist_share=1.5": "method.assist_share: Input should be less than or equal to 1, got 1.5",
    "train.steps": "override: got 'train.steps', allowed 'section.key=value'",
    "train.steps.more=1": "train.steps",
    "run.out=[": "override 'run.out=['",
    "run.date=2026-02-30": "override 'run.date=2026-02-30': day is out of range for month",
    "policy.vllm.secret=sk-0123456789": "policy.vllm.secret: got no NAME of an environment variable (not shown",
    "agents.verify.secrets.api_key=sk-0123456789": "agents.verify.secrets.api_key: got no NAME of an environment variable",
    "agents.verify.options.api_key=sk-0123456789": "agents.verify.options: got ['api_key'] in the open, allowed `secrets`",
    # settings that contradict each other
    "evaluate.samples=4 evaluate.ks=[1,16]": "ks: got 16, allowed at most samples=4",
    "train.warmup=0.8 train.decay=0.5": "warmup + decay: got 1.3, allowed at most 1",
    "rollout.suppress_tags=['<x:{y}>']": "suppress_tags: got '<x:{y}>', allowed no other field than {agent}",
    "policy.engine=vllm rollout.workers=2 agents.verify.model=aipo.rollout.reference_chat:reference": (
        "rollout.workers: got 2 and agents ['verify'] of aipo.rollout.reference_chat:reference"
    ),
    "method.importance_mode=mask": "importance_cap: got none, allowed > 1 where importance_mode is mask",
    "method.importance_mode=mask method.importance_cap=1.0": "importance_cap: got 1, allowed > 1 where importance_mode",
    "method.coefficient_clip_low=2 method.coefficient_clip_high=0.1": (
        f"method: {CLIP}: got 2.0 and 0.1 for coefficient 'mask', allowed 0 <= low"
    ),
    "method.coefficient=pi method.coefficient_value=0.3": (
        "method: coefficient_value: got 0.3 with 'pi', which takes none, allowed with ['constant', "
    ),
    "method.objective=cispo method.clip_keeps_gradient=true": (
        "clip_keeps_gradient: got true with the objective cispo, whose clip takes no gradient away"
    ),
    "method.objective=dr_grpo method.denominator=union": (
        'denominator: got "union" with the objective dr_grpo, which counts no tokens'
    ),
    "method.coefficient_trust=1": "coefficient_trust: got 1.0 with the coefficient mask",
    # what a plan or a credit would not heed
    "method.demonstrations=1": "demonstrations: got 1 with the plan independent, allowed null",
    "method.plan=expert method.demonstrations=9": (
        "method.demonstrations: got 9, allowed at most train.group_size=8"
    ),
    "method.plan=expert method.demonstrations=8": (
        "train.group_size: got 8, of which 8 are demonstrations, with method.credit=group, allowed 2 or more"
    ),
    "method.plan=expert method.per_mode_baseline=true": "per_mode_baseline: got true with the plan expert",
    "method.plan=expert method.coefficient=ratio": "coefficient: got ratio with the plan expert",
    "train.group_size=1": "train.group_size: got 1, of which 0 are demonstrations, with method.credit=group",
    f"{REWARD} method.scale_by_std=true": (
        "scale_by_std: got true with the credit reward, which has no baseline, allowed false"
    ),
    f"{REWARD} method.negative_weight=0.3": "negative_weight: got 0.3 with the credit reward",
    f"{REWARD} method.per_mode_baseline=true": "per_mode_baseline: got true with the credit reward",
    f"{REWARD} method.plan=expert train.group_size=1": (
        "coefficient: got 'mask' where all of a group are demonstrations"
    ),
}


@pytest.mark.parametrize(("overrides", "says"), REFUSED.items())
def test_a_wrong_setting_is_refused_by_name(overrides: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("mask", overrides.split(" "))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        *dict.fromkeys(("JUDGE_KEY", "JUDGE.KEY", "judge-key", "team-a.judge-key-2"), True).items(),
        *dict.fromkeys(("", "a key", "KEY=x", "9f86d081", "sk-abcdefgh"), False).items(),
        ("b5c0b187-fe30-4af0-9b2f-4f1c8e1bf1a2", False),
    ],
)
def test_the_name_of_a_variable_is_no_key(name: str, is_taken: bool) -> None:
    settings = {"graph": "graphs.verify:verify", "secrets": {"api_key": name}}
    if is_taken:
        assert checked(AgentConfig, settings, "mine").secrets == {"api_key": name}
        return
    with pytest.raises(ConfigError, match=r"secrets\.api_key: got no NAME .*not shown") as caught:
        checked(AgentConfig, settings, "mine")
    assert not name or name not in str(caught.value)


def test_one_rollout_is_a_group_where_there_is_no_baseline() -> None:
    config = load_config(
        "mask", [*REWARD.split(), "method.plan=expert", "train.group_size=1", "method.coefficient=constant"]
    )
    assert (config.train.group_size, config.method.demonstrations) == (1, None)


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[[str], Config]:
    """Loads a configuration that is a text, from `mine.yaml`."""

    def load(text: str) -> Config:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return load_config(str(file))

    return load


def test_null_leaves_an_agent_out(load_text) -> None:
    assert list(load_config("aipo_distil", ["agents.verify=null"]).agents) == ["knowledge", "reasoning"]
    assert list(load_text("extends: aipo_distil\nagents: {verify: null, knowledge: null}\n").agents) == [
        "reasoning"
    ]
    assert list(load_config("aipo_distil").agents) == [
        "verify",
        "knowledge",
        "reasoning",
    ]  # of the preset nothing is gone


def test_an_agent_that_is_not_there_cannot_be_left_out(load_text) -> None:
    message = r"agents\.verfy: got null, .*allowed \['verify', .*; did you mean 'agents\.verify'\?"
    with pytest.raises(ConfigError, match=message):
        load_config("aipo_distil", ["agents.verfy=null"])
    with pytest.raises(ConfigError, match=message):
        load_text("extends: aipo_distil\nagents: {verfy: null}\n")


def test_a_file_extends_a_preset(load_text) -> None:
    config = load_text("extends: grpo\ntrain: {steps: 7}\n")
    assert config.train.steps == 7
    assert config.train.group_size == 8
    assert config.method.assist_share == 0.0


@pytest.mark.parametrize(
    ("env", "mixture"),
    [
        ("{name: 'mine.py:Mine', mixture: {all: 1.0}}", {"all": 1.0}),
        ("{mixture: {hard: 0.25}}", {"easy_train": 0.5, "hard": 0.25}),
    ],
)
def test_another_environment_keeps_nothing_of_the_one_before(load_text, env: str, mixture: object) -> None:
    assert load_text(f"extends: aipo_distil\nenv: {env}\n").env.mixture == mixture


def test_what_anchors_share_is_overridden_for_one_alone() -> None:
    config = load_config("qwen2.5-7b-8gpu", ["agents.verify.options.temperature=0.1"])
    temperatures = {name: agent.options["temperature"] for name, agent in config.agents.items()}
    assert temperatures == {"verify": 0.1, "knowledge": 0.7, "reasoning": 0.7}


def test_a_circle_of_files_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle a.yaml -> b.yaml -> a.yaml"):
        load_config("a.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n", "got list"),
        ("a: [", "configuration"),
        ("train: {steps: 7, steps: 9}", r"mine\.yaml: got \['steps'\] more than once, allowed each key once"),
        ("run: {date: 2026-02-30}", "day is out of range for month"),
        ("a: &a {b: *a}", "recursion"),
        ("extends: [aipo, grpo]", r"extends: got \['aipo', 'grpo'\], allowed a YAML file or one of"),
        ("extends: 5", "extends: got 5, allowed"),
        ("extends: false", "extends: got False, allowed"),
        ("version https://git-lfs.github.com/spec/v1", "got a pointer of git-lfs in place of the file"),
    ],
)
def test_a_file_that_is_no_configuration(load_text, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_text(text)


def test_an_unknown_name_lists_the_presets() -> None:
    with pytest.raises(
        ConfigError,
        match=r"got 'apio', allowed a YAML file or one of \['aepo', 'agent', 'aipo', .*'grpo', .*'mask', .*\]",
    ):
        load_config("apio")


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match="policy: is missing"):
        checked(Config, {}, "nothing")


def test_what_is_dumped_loads_again_and_holds_no_secret(load_text, monkeypatch) -> None:
    monkeypatch.setenv("AGENT_KEY", "s3cret")
    words = ["agents.verify.secrets.api_key=AGENT_KEY", "run.date=2026-01-31"]
    config = load_config("aipo_distil", words)
    dump = Experiment(config).to_yaml()
    assert load_text(dump) == config
    assert yaml.safe_load(dump)["agents"]["verify"]["secrets"] == {"api_key": "AGENT_KEY"}


def test_choices_are_those_that_the_code_has() -> None:
    for field, names in {
        "plan": PLANS,
        "credit": CREDITS,
        "negative": NEGATIVES,
        "objective": OBJECTIVES,
        "denominator": COUNTS,
        "importance_mode": IMPORTANCE_MODES,
    }.items():
        assert set(get_args(MethodSettings.model_fields[field].annotation)) == set(names), field


def test_a_name_as_method_takes_the_method_of_that_preset(tmp_path: Path) -> None:
    real = load_config("small", ["method=grpo", "method.beta=0.1", "train.steps=3"])
    assert real.method == load_config("grpo", ["method.beta=0.1"]).method  # nothing of small's own is left
    assert (real.env.name, real.train.steps) == ("envs.math:Math", 3)
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: small\nmethod: luffy\n")
    assert load_config(str(mine)).method == load_config("luffy").method
    assert load_config("grpo", [f"method={mine}"]).method == load_config("luffy").method
    assert (
        load_config("grpo", ["method.beta=0.1", "method=aipo"]).method.beta == 0.1
    )  # the order does not matter


def test_a_method_that_is_nobodys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="configuration: got 'gpro', allowed a YAML file or one of"):
        load_config("small", ["method=gpro"])
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: small\nmethod: {mine}\n")
    with pytest.raises(
        ConfigError, match=r"method: got a circle .*mine\.yaml -> .*mine\.yaml, allowed a chain"
    ):
        load_config(str(mine))
    other = tmp_path / "other.yaml"
    mine.write_text(f"extends: small\nmethod: {other}\n")
    other.write_text(f"extends: {mine}\n")
    with pytest.raises(ConfigError, match=r"method: got a circle .*mine\.yaml -> .*other\.yaml"):
        load_config(str(mine))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "method.branching.rollouts=9",
            "method.branching.rollouts: got 9, allowed at most train.group_size=8",
        ),
        ("method.assist_share=0", "method.assist_share: got 0 with method.plan=branching, allowed more"),
        (
            "policy.engine=vllm",
            "policy.vllm.top_logprobs: got 0 with method.plan=branching, which needs entropies",
        ),
        (
            "method.plan=independent",
            'branching: got {"rollouts": 4, "change": "sum"} with the plan independent',
        ),
        (
            "method.grant_steps=3",
            "grant_steps: got 3.0 with the plan branching, whose forks repeat granted requests",
        ),
        ("method.demonstrations=1", "demonstrations: got 1 with the plan branching, allowed null"),
        (
            "method.branching.ways=1",
            "method.branching.ways: Input should be greater than or equal to 2, got 1",
        ),
        ("method.branching.tau=0.4", "tau: got 0.4 with decision=drawn, allowed null"),
        ("train.group_size=1", "method.branching.rollouts: got 4, allowed at most train.group_size=1"),
    ],
)
def test_forks_that_contradict_other_settings_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("arpo", [override])
    assert says in str(error.value)


def test_entropies_of_a_server_are_needed_for_advantages_by_entropy():
    load_experiment("grpo", ["method.entropy_weight=0.2"])
    served = ["policy.engine=vllm", "method.entropy_weight=0.2"]
    with pytest.raises(
        ConfigError, match=r"top_logprobs: got 0 with method.entropy_weight, which needs entropies"
    ):
        load_experiment("grpo", served)
    assert (
        load_experiment("grpo", [*served, "policy.vllm.top_logprobs=20"])
        .for_evaluation()
        .method.entropy_weight
        == 0
    )
