"""Servers, keys and proxies that cannot be used are refused before a run folder is taken."""

from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import load_experiment
from aipo.errors import ConfigError, LoadError
from aipo.evaluate.run import evaluate_folder
from aipo.train.run import train_run

QUIET = Console(quiet=True)
FAR = ["policy.engine=vllm", "policy.vllm.servers=['http://far.invalid:8000']"]
AGENT = (
    "agents={judge: {graph: 'graphs.verify:verify', model: 'langchain_openai:ChatOpenAI', "
    "options: {model: m, base_url: 'http://far.invalid/v1'}, secrets: {api_key: JUDGE_KEY}}}"
)
SOCKS = "ALL_PROXY: got 'socks5://127.0.0.1:9' for requests to "


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize(
    ("overrides", "variables", "says"),
    [
        (FAR, {"ALL_PROXY": "socks5://127.0.0.1:9"}, f"{SOCKS}http://far.invalid:8000"),
        ([AGENT], {"ALL_PROXY": "socks5://127.0.0.1:9"}, f"{SOCKS}http://far.invalid/v1"),
        (["policy.model=far/model"], {"ALL_PROXY": "socks5://127.0.0.1:9"}, f"{SOCKS}https://huggingface.co"),
        ([*FAR, "policy.vllm.secret=KEY"], {"KEY": "k\n"}, "policy.vllm.secret: got a space or a line break"),
        ([AGENT], {"JUDGE_KEY": ""}, "agents.judge.secrets: got an empty value"),
    ],
)
def test_what_cannot_reach_its_server_is_refused_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    overrides: list[str],
    variables: dict[str, str],
    says: str,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name, value in {"JUDGE_KEY": "k", "NO_PROXY": "", "no_proxy": "", **variables}.items():
        monkeypatch.setenv(name, value)
    overrides = [f"run.out={tmp_path / 'run'}", *overrides]
    with pytest.raises((ConfigError, LoadError)) as caught:
        if command == "train":
            train_run(load_experiment("aipo", overrides), resume=False, evaluate_after=False, console=QUIET)
        else:
            evaluate_folder(None, "aipo", overrides, name="eval", console=QUIET)
    assert str(caught.value).startswith(says)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "server",
    ["127.0.0.1:8000", "http://a:1/v1", "http://a:1/v1/completions", "http://a:99999", "http://k@a:1"],
)
def test_an_address_that_is_none_is_refused_with_the_configuration(server: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.vllm\.servers: servers: got '{server}' \("):
        load_experiment("aipo", [f"policy.vllm.servers=['{server}']"])
