"""From a configuration to objects: what is named is loaded, recorded, or refused by name."""

import pickle
import re
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import pytest

from aipo.config import presets
from aipo.config.build import load_experiment
from aipo.errors import AipoError, ConfigError, LoadError
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.util.imports import load


def test_every_file_is_named_with_a_fingerprint() -> None:
    built = load_experiment("aipo_distil").graphs
    # What else of the graph's folder this process has imported is named, too.
    assert "graph.protocol" in built.files
    names = ("verify", "knowledge", "reasoning")
    files = ["graph", *(f"agents.{name}" for name in names), *(f"prompts.{name}" for name in names)]
    assert [name for name in built.files if not name.startswith("graph.")] == [*files, "prompts.miniature"]
    assert set(built.fingerprints) == set(built.files)
    assert tuple(built.chats) == names


def test_the_drawing_holds_the_sub_graphs() -> None:
    picture = load_experiment("aipo_distil").drawing()
    assert {"policy", "verify:check", "knowledge:answer", "reasoning:next"} <= set(picture["nodes"])
    assert {"from": "prompt", "to": "policy", "conditional": False} in picture["edges"]
    assert "subgraph verify" in picture["mermaid"]


def test_the_manifest_says_what_a_run_was_made_of() -> None:
    experiment = load_experiment("aipo_distil")
    load(experiment.policy.model)
    made_of = experiment.manifest("somewhere")
    assert made_of["model"] == "somewhere"
    assert set(made_of["packages"]) >= {"aipo", "torch", "transformers", "trl", "langgraph"}
    assert set(made_of["files"]["graph"]) == {"file", "fingerprint"}
    named = {"graph", "graph.protocol", "agents.verify", "prompts.miniature", "env"}
    named |= {f"env.miniature.{name}" for name in ("agents", "curriculum", "model")}
    assert set(made_of["files"]) >= named
    assert Path(made_of["files"]["env"]["file"]).parts[-2:] == ("miniature", "task.py")


def test_an_environment_in_the_working_directory_brings_no_file_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # has modules whose file is said to be '_ops.py', in no folder

    assert torch.ops.__file__ == "_ops.py"
    (tmp_path / "mine.py").write_text("class Mine:\n    def splits(self):\n        return ()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the working directory does not stay on it
    made_of = load_experiment("aipo_distil", ["env={name: 'mine.py:Mine'}"]).manifest("somewhere")
    assert [name for name in made_of["files"] if name.startswith("env")] == ["env"]


def test_the_manifest_has_every_imported_file_of_the_environments_package() -> None:
    options = "{splits: {train: nowhere.jsonl}}"
    experiment = load_experiment("aipo_distil", [f"env={{name: 'envs.math:Math', options: {options}}}"])
    made_of = experiment.manifest("somewhere")["files"]
    places = {name: "/".join(Path(made_of[name]["file"]).parts[-2:]) for name in made_of}
    assert places["env"] == "math/env.py"
    assert (places["env.file.items"], places["env.sandbox"]) == ("file/items.py", "envs/sandbox.py")


def test_the_seed_reaches_the_environment_unless_it_has_one() -> None:
    def hard(*overrides: str) -> object:
        return load_experiment("aipo_distil", overrides).env.tasks("hard")

    assert hard("run.seed=3") != hard()
    assert hard("run.seed=3", "env.options.seed=0") == hard()


REFUSED = {
    "graph.options.bugdet=1": "ConfigError: graph.options of graphs.consult:consult: got ['bugdet'], allowed",
    "graph.options.budget=many": "ConfigError: graph.options of graphs.consult:consult",
    "env.options.sizes=1": "ConfigError: env.options of envs.miniature:Miniature: got ['sizes'], allowed ['carry', 'seed', ",
    "agents.verify.options.error_rate=2": "ConfigError: error_rate",
    "agents.verify.options.max_retries=2": "ConfigError: allowed agents.verify.attempts instead",
    "rollout.cost_limit=2": "ConfigError: got 2 and no prices, which could never be reached",
    "agents.verify={graph: 'graphs.verify:verify', prices: {input: 1, output: 2}}": (
        "ConfigError: agents.verify.prices: got prices without a model"
    ),
    "agents.verify.cache=true": "ConfigError: got temperature None, allowed 0",
    "agents.verify.prompt=nowhere.md": "LoadError: nowhere.md",
    "agents.verify.model=envs.miniature.agents:nobody": "LoadError: got 'nobody', allowed one of",
    "agents.verify.secrets.api_key=NO_SUCH": "LoadError: got no environment variable 'NO_SUCH'",
    "graph.name=graphs.consult": "LoadError: allowed 'module:function' or 'file.py:function'",
    "graph.name=nowhere.py:consult": "LoadError: allowed an existing .py file",
    "graph={name: 'aipo.rollout.spec:derive_seed'}": "GraphError: allowed a compiled StateGraph",
}


@pytest.mark.parametrize(("override", "error"), REFUSED.items())
def test_what_cannot_be_built_is_refused_by_name(override: str, error: str) -> None:
    kind, _, says = error.partition(": ")
    with pytest.raises(AipoError) as caught:
        experiment = load_experiment("aipo_distil", [override])
        _ = experiment.graphs, experiment.env
    assert type(caught.value).__name__ == kind and says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ("{api_key: s3cret}", "api_key"),
        ("{openai_api_key: s3cret}", "openai_api_key"),
        ("{access_token: s3cret}", "access_token"),
        ("{CLIENT_SECRET: s3cret}", "CLIENT_SECRET"),
        ("{password: s3cret}", "password"),
        ("{default_headers: {Authorization: 'Bearer s3cret'}}", "default_headers.Authorization"),
        ("{extra_body: {inner: {api_key: s3cret}}}", "extra_body.inner.api_key"),
        ("{base_url: 'https://me:s3cret@somewhere/v1'}", "base_url"),
        ("{default_headers: {Cookie: 's3cret'}}", "default_headers.Cookie"),
        ("{default_headers: {X-Auth: 's3cret'}}", "default_headers.X-Auth"),
        ("{extra_body: {bearer: s3cret}}", "extra_body.bearer"),
        ("{default_query: {sig: s3cret}}", "default_query.sig"),
        ("{organization: sk-0123456789abcdef}", "organization"),
        ("{max_tokens: 1}", None),
        ("{temperature: 1}", None),
        ("{keyword: 1}", None),
    ],
)
def test_secrets_in_the_open_are_refused_however_deep(options: str, secret: str | None) -> None:
    with pytest.raises(ConfigError) as caught:  # the miniature's agent takes none of these options
        _ = load_experiment("aipo_distil", [f"agents.verify.options={options}"]).graphs
    hint = f"agents.verify.options: got ['{secret}'] in the open, allowed `secrets` beside `options` instead"
    assert (hint in str(caught.value)) is (secret is not None)
    assert "s3cret" not in str(caught.value)


def test_an_endpoint_gets_its_key_and_no_retries_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_KEY", "s3cret")
    experiment = load_experiment(
        "aipo_distil",
        [
            "agents.verify.model=langchain_openai:ChatOpenAI",
            "agents.verify.options={model: some-model, base_url: 'http://127.0.0.1:1/v1', temperature: 0}",
            "agents.verify.secrets.api_key=AGENT_KEY",
            "agents.verify.cache=true",
        ],
    )
    chat = experiment.graphs.chats["verify"]
    assert chat.name == "some-model"
    assert chat.model.max_retries == 0
    assert chat.model.openai_api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(chat.settings)


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith(("qwen", "llama"))])
def test_agents_of_every_preset_of_a_real_model_can_be_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIPO_AGENT_KEY", "none")
    experiment = load_experiment(name)
    chats = experiment.graphs.chats
    assert {*chats} == {"verify", "knowledge", "reasoning"}
    for agent, chat in chats.items():
        assert chat.model.max_tokens == experiment.agents[agent].options["max_tokens"]


def test_a_wrong_value_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENT_KEY", "s3cret")
    (tmp_path / "chat.py").write_text("def chat(*, api_key: int):\n    raise AssertionError\n")
    changes = [f"agents.verify.model={tmp_path / 'chat.py'}:chat", "agents.verify.secrets.api_key=AGENT_KEY"]
    with pytest.raises(ConfigError, match="api_key: Input should be a valid integer") as caught:
        _ = load_experiment("aipo_distil", changes).graphs
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_an_environment_without_an_argument_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text("class Mine:\n    def __init__(self, path, *, seed=0): ...\n")
    with pytest.raises(ConfigError, match=r"env\.options of .*: got no \['path'\]"):
        _ = load_experiment("aipo_distil", [f"env.name={tmp_path / 'env.py'}:Mine"]).env


@pytest.mark.parametrize(
    ("name", "torn"),
    [
        ("model.safetensors", b"\xff" * 8 + b"{"),
        ("model.safetensors", b""),
        ("pytorch_model.bin", b"PK\x03\x04"),
    ],
)
def test_torn_weights_without_a_manifest_are_refused_by_their_folder(
    tmp_path: Path, name: str, torn: bytes
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1}')
    (tmp_path / name).write_bytes(torn)
    says = re.escape(f"policy.model: got {str(tmp_path)!r}, allowed a folder or hub name")
    with pytest.raises(LoadError, match=says + ".*copy or download them again"):
        load_experiment("aipo_distil", [f"policy.model={tmp_path}"]).network(tmp_path)


def test_two_classes_with_one_model_name_are_told_apart() -> None:
    def settings(function: str) -> object:
        changes = [f"agents.verify.model=envs.miniature.agents:{function}"]
        return load_experiment("aipo_distil", changes).graphs.chats["verify"].settings

    assert settings("verify") != settings("knowledge")


def test_an_experiment_builds_once_and_travels_as_its_settings() -> None:
    experiment = load_experiment("aipo_distil", ["train.steps=3"])
    assert experiment.env is experiment.env and experiment.graphs is experiment.graphs
    again = pickle.loads(pickle.dumps(experiment))
    assert again.settings == experiment.settings and again.train.steps == 3


@pytest.mark.parametrize("preset", presets())
def test_any_preset_can_be_changed_for_an_evaluation(preset: str) -> None:
    assert load_experiment(preset).for_evaluation().with_settings({"run.seed": 3}).seed == 3


def test_the_settings_of_an_evaluation_are_settings(tmp_path: Path) -> None:
    words = [
        *("method.agent_prompt=solo", "method.negative=pi", "method.agents.verify.coefficient=floor"),
        "method.grant_steps=2",
    ]
    evaluated = load_experiment("aipo", words).for_evaluation()
    (tmp_path / "config.yaml").write_text(evaluated.to_yaml())
    for again in (evaluated.with_settings({"run.seed": 3}), load_experiment(f"{tmp_path}/config.yaml")):
        assert (again.method.coefficient, again.method.agents) == ("mask", {})


def test_changed_settings_are_checked_again() -> None:
    experiment = load_experiment("aipo_distil")
    assert experiment.with_settings({"method.beta": 0.1, "run.out": "runs/b"}).method.beta == 0.1
    assert experiment.method.beta == 0.0
    with pytest.raises(ConfigError, match=r"method\.kl: unknown key"):
        experiment.with_settings({"method.kl": 0.1})
    with pytest.raises(ConfigError, match=r"rollout\.workers: got 2 with policy\.engine=local"):
        experiment.with_settings({"rollout.workers": 2})


@pytest.mark.parametrize(
    ("graph", "prompt", "says"),
    [
        ("consult", "## solo\n{{ question }}", r"got no section \['assisted'\]"),
        ("consult", "## assisted\n{{ question }}\n## Rules\nx\n## solo\ny", r"line 3: got section 'Rules'"),
        (
            "consult",
            "## assisted\n{{ nosuch }}\n## solo\ny",
            r"line 2, section 'assisted': got variable 'nosuch'",
        ),
        ("solo", "## solo\n{{ question }}", None),
        ("solo", "## solo\n{{ question }}\n## Rules\nx", r"line 3: got section 'Rules'"),
        ("solo", "## solo\n{{ request }}", r"got variable 'request', allowed \['agents', 'question'\]"),
    ],
)
def test_the_policys_prompt_is_checked(tmp_path: Path, graph: str, prompt: str, says: str | None) -> None:
    (tmp_path / "mine.md").write_text(prompt)
    agents = ["agents={}"] if graph == "solo" else []
    words = [f"graph.name=graphs.{graph}:{graph}", f"graph.options={{prompt: {tmp_path}/mine.md}}", *agents]
    with pytest.raises(LoadError, match=says) if says else nullcontext():
        _ = load_experiment("grpo" if graph == "solo" else "aipo_distil", words).graphs


@pytest.mark.parametrize(("setting", "refuses"), [("text", False), ("refuse", True)])
def test_whether_questions_with_control_tokens_are_refused(setting: str, refuses: bool) -> None:
    experiment = load_experiment("aipo_distil", [f"rollout.control_tokens={setting}"])
    policy = ScriptedPolicy(CharTokenizer(), ())
    assert experiment.engine(policy, run_id="r", forbidden_ids=()).refuse_control is refuses
