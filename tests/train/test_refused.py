"""What is known to fail is refused before anything is made: by a run, by a dry run and by an evaluation."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from aipo.config.build import Experiment, load_experiment
from aipo.errors import AipoError, ConfigError
from aipo.evaluate.run import evaluate_folder
from aipo.rollout.env import Task
from aipo.train.dry_run import dry_run
from aipo.train.ranks import join
from aipo.train.run import train_run
from aipo.train.schedule import check_trackers
from envs.miniature import Miniature
from envs.miniature.model import cold_start
from graphs.solo import PROMPTS

QUIET = Console(quiet=True)
ENGINES = Path(__file__).parents[1] / "kit" / "engines.py"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without GPU and optional packages, on which no policy may be made."""

    def build(*_: object) -> None:
        raise AssertionError("a policy was made")

    monkeypatch.setattr(Experiment, "build_model", build)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for package in ("tensorboard", "clearml"):
        monkeypatch.setattr(
            f"transformers.integrations.integration_utils.is_{package}_available", lambda: False
        )
    monkeypatch.setitem(sys.modules, "socksio", None)
    variables = {"KEY": "k", "BROKEN_KEY": "k\n", "NO_KEY": "", "NO_PROXY": "", "no_proxy": ""}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def train(words: list[str]) -> None:
    train_run(load_experiment("aipo_distil", words), resume=False, evaluate_after=False, console=QUIET)


def dry(words: list[str]) -> None:
    dry_run(load_experiment("aipo_distil", words), resume=False, evaluate_after=False, console=QUIET)


def evaluate(words: list[str]) -> None:
    evaluate_folder(None, "aipo_distil", words, name="eval", console=QUIET)


def refused(command: Callable[[list[str]], None], says: str, *words: str) -> None:
    with pytest.raises(AipoError, match=says):
        command(["run.out=x", *words])
    assert os.listdir() == []


FOURTH = f"agents.calculate={{graph: 'graphs.knowledge:knowledge', prompt: '{PROMPTS}/knowledge.md'}}"
FAR = ("policy.engine=vllm", "policy.vllm.servers=['http://far.invalid:8000']")
JUDGE = (
    "agents={{judge: {{graph: 'graphs.verify:verify', model: 'langchain_openai:ChatOpenAI', "
    "options: {{model: m, base_url: 'http://far.invalid/v1'}}, secrets: {{api_key: {}}}}}}}"
)


@pytest.mark.parametrize("command", [train, dry, evaluate])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([FOURTH], r"suppress_tags: got \['<consult:calculate>', .*method.distil_suppress=false"),
        (["graph.options.budgt=3"], r"graph\.options of graphs\.consult:consult: got \['budgt'\]"),
        (["evaluate.splits=[heldin]"], r"evaluate\.splits: got \['heldin'\]"),
        (["policy.model=nowhere"], "policy.model: got 'nowhere'"),
        (["policy.model=nowhere.py:f"], "nowhere.py"),
        (["policy.device=cuda"], r"policy\.device: got 'cuda' where torch .* sees no GPU, allowed 'cpu' or"),
        ([*FAR, "policy.vllm.secret=BROKEN_KEY"], "^policy.vllm.secret: got a space or a line break"),
        ([JUDGE.format("NO_KEY")], "^agents.judge.secrets: got an empty value"),
        (["policy.vllm.servers=[http://a:1/v1]"], r"policy\.vllm\.servers: servers: got 'http://a:1/v1' \("),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(
    command: Callable[[list[str]], None], words: list[str], says: str
) -> None:
    refused(command, says, *words)


@pytest.mark.parametrize("command", [train, dry])
def test_a_graph_that_declines_no_request_cannot_be_told_to(
    command: Callable[[list[str]], None], tmp_path: Path
) -> None:
    graphs = tmp_path / "elsewhere"
    graphs.mkdir()
    (graphs / "mine.py").write_text(
        "from graphs.consult import consult\n\n\ndef mine(**options):\n    return consult(**options)\n"
    )
    words = ["method.grant_steps=2", f"graph.name={graphs}/mine.py:mine"]
    says = r"^method\.grant_steps: got 2 with graph\.name=\S+mine, which .*`grants = True`"
    with pytest.raises(ConfigError, match=says):
        command(["run.out=x", *words])
    assert not Path("x").exists()
    load_experiment("aipo_distil", [words[1]]).check_grants()
    load_experiment("aipo_distil", [words[0]]).check_grants()


@pytest.mark.parametrize("command", [train, dry, evaluate])
@pytest.mark.parametrize(
    ("words", "url"),
    [
        (FAR, "http://far.invalid:8000"),
        ([JUDGE.format("KEY")], "http://far.invalid/v1"),
        (["policy.model=far/model"], "https://huggingface.co"),
    ],
)
def test_so_is_a_proxy_that_cannot_be_used(
    command: Callable[[list[str]], None], words: list[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    refused(command, f"^ALL_PROXY: got 'socks5://127.0.0.1:9' for requests to {url}", *words)


class Silent(Miniature):
    """The miniature, of which only the easy half is shown how to solve."""

    def demonstration(self, task: Task) -> str | None:
        return None if task.split == "hard" else super().demonstration(task)


MIXTURE = "env.mixture={easy_train: 0.5, hard: 0.5}"
COINS = [f"env.name={ENGINES}:Coin", "env.mixture={coin: 1.0}", "evaluate.splits=[coin]"]


@pytest.mark.parametrize("command", [train, dry])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["env.mixture={easy: 0.5, nowhere: 0.5}"], r"env\.mixture: got \['nowhere'\], allowed \['easy_train'"),
        (["env.mixture={easy_train: 3}"], "share of split 'easy_train': got 3"),
        (["method.coefficient=ratio"], r"agents\.verify\.model: got envs\.miniature\.agents:verify, which tells"),
        (["method.coefficient=nowhere.py:steady"], r"file: got 'nowhere\.py'"),
        (["method.plan=expert", f"env.name={__file__}:Silent", MIXTURE], "task 'hard/.*': got None, allowed text of a"),
        (["method.plan=expert", *COINS], r"method\.plan: got expert with environment Coin, which has no"),
        (["run.report_to=[nowhere]"], r"got 'nowhere', allowed some of \['azure_ml', .*'wandb'\], or none: \[\]"),
        (["run.report_to=[tensorboard]"], r"got 'tensorboard', which cannot be used here \(RuntimeError: Tensor"),
        (["run.report_to=[clearml]"], r"run\.report_to: got 'clearml', which cannot be used here"),
        (["run.report_to=[all, wandb]"], r"run\.report_to: got 'all', allowed some of"),
    ],
)  # fmt: skip
def test_so_is_a_mistake_in_what_only_training_needs(
    command: Callable[[list[str]], None], words: list[str], says: str
) -> None:
    refused(command, says, *words)


@pytest.mark.parametrize("names", [[], ["none"], ["all"]])
def test_trackers_that_need_nothing(names: list[str]) -> None:
    check_trackers(names)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MIXED_PRECISION", "bf16", r"got --mixed_precision bf16, allowed no: .*\(train\.autocast=true\)"),
        ("MIXED_PRECISION", "fp16", r"got --mixed_precision fp16, allowed no: "),
        ("DYNAMO_BACKEND", "INDUCTOR", r"got --dynamo_backend inductor, allowed no$"),
    ],
)
def test_what_a_launcher_decides(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    refused(train, says)
    monkeypatch.setenv(f"ACCELERATE_{variable}", "no")
    assert join(cpu=True).size == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert join(cpu=True, autocast=True).size == 1


def test_a_gpu_that_is_not_there_for_the_cold_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device of the miniature's policy: got 'cuda' where torch sees no"):
        cold_start(device="cuda", cache=tmp_path)
