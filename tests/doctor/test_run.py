"""`aipo doctor`: every check of a run, in the terminal and as an exit code."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from aipo import cli
from aipo.config.build import Experiment, load_experiment
from aipo.doctor.check import Check
from aipo.doctor.consults import asks_agents, check_consults
from aipo.doctor.run import diagnose, line
from aipo.policies.scripted import ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from envs.miniature.model import cold_start
from kit.servers import serving
from kit.tiny_vllm import TinyVLLM


@pytest.fixture(scope="module")
def policy() -> Path:
    """The miniature's policy, hardly taught."""
    return cold_start(seed=0, steps=2)


def config(policy: Path, tmp_path: Path, *overrides: str) -> Experiment:
    return load_experiment(
        "aipo_distil", [f"policy.model={policy}", f"run.out={tmp_path / 'run'}", *overrides]
    )


@contextmanager
def served(policy: Path, *, positions: int = 256) -> Iterator[list[str]]:
    """Settings for a server of `policy`."""
    network = AutoModelForCausalLM.from_pretrained(policy)
    tiny = TinyVLLM(network, HFTokenizer(AutoTokenizer.from_pretrained(policy)), positions=positions)
    with serving(tiny.app) as url:
        yield ["policy.engine=vllm", f"policy.vllm.servers=['{url}']"]


ALL = [
    *("versions", "environment", "agent verify", "agent knowledge", "agent reasoning", "graph", "coefficient"),
    *("tokenizer", "tags", "chat template", "feedback", "learning rate", "memory", "disk"),
]  # fmt: skip
SERVED = [
    *("server", "served model", "context", "served tokenizer", "weight routes", "flags", "log-probs", "token ids"),
    "exactness",
]  # fmt: skip


def test_everything_is_there_in_this_process(policy: Path, tmp_path: Path) -> None:
    made = list(diagnose(config(policy, tmp_path), quick=False))
    assert [check.what for check in made] == [*ALL, "exactness", "consults"]
    assert {check.status for check in made[:-1]} == {"ok"}
    last = made[-1]  # two steps teach nobody to ask
    assert (last.status, last.found) == ("warn", "no request in 8 assisted rollouts of at most 128 tokens")
    assert "`aipo warmup`" in last.advice
    assert not (tmp_path / "run").exists()


def test_requests_of_a_policy_that_asks_are_counted(policy: Path, tmp_path: Path) -> None:
    words = HFTokenizer(AutoTokenizer.from_pretrained(policy))
    experiment = config(policy, tmp_path, "env.mixture={hard: 1}")
    asking = ScriptedPolicy(
        words, lambda text: "#1" if "feedback" in text else "<consult:verify>1+1=2</consult>"
    )
    check = check_consults(experiment, asking)
    assert (check.status, check.found) == ("ok", "verify 8 in 8 assisted rollouts of at most 128 tokens")
    failing = ScriptedPolicy(words, [])
    assert check_consults(experiment, failing).status == "fail"
    assert not asks_agents(load_experiment("grpo"))


def test_everything_is_there_at_a_server(policy: Path, tmp_path: Path) -> None:
    with served(policy) as vllm:
        made = list(diagnose(config(policy, tmp_path, *vllm), quick=False))
        quick = list(diagnose(config(policy, tmp_path, *vllm), quick=True))
    assert [check.what for check in made] == [*ALL, *SERVED, "consults"]
    assert {check.status for check in made[:-1]} == {"ok"} and made[-1].status == "warn"
    assert [check.what for check in quick] == [check.what for check in made][:-2]


def test_the_longest_prompt_is_what_has_to_fit(policy: Path, tmp_path: Path) -> None:
    """`agents`, a line end and 12 characters are the longest of the miniature's prompts: 999+90=? and such."""
    with served(policy, positions=100) as vllm:
        (short,) = [c for c in diagnose(config(policy, tmp_path, *vllm), quick=True) if c.what == "context"]
    assert short.status == "warn"
    assert short.found.startswith("100 tokens, for a prompt of 16 and rollout.max_tokens=128")


def test_what_is_wrong_does_not_hide_the_rest(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    broken = [
        "env.mixture={hard: 1, nosuch: 0}",
        "agents.verify.model=langchain_openai:ChatOpenAI",
        "agents.verify.secrets={api_key: NOT_THERE}",
        "policy.engine=vllm",
        "policy.vllm.secret=NOT_THERE",
    ]
    made = list(diagnose(config(policy, tmp_path, *broken), quick=False))
    fails = {check.what: check.found for check in made if check.status == "fail"}
    assert list(fails) == ["environment", "agent verify", "server"]
    assert "nosuch" in fails["environment"]
    assert "'NOT_THERE'" in fails["agent verify"]
    assert "policy.vllm.secret" in fails["server"]


@pytest.mark.parametrize(
    ("overrides", "what", "says"),
    [
        (
            [
                "env={name: 'envs.math:Math', mixture: {train: 1}, "
                "options: {splits: {train: FOLDER/items.jsonl, test: FOLDER/nothing.jsonl}}}",
                "evaluate.splits=[test]",
            ],
            "environment",
            "nothing.jsonl",
        ),
        (["rollout.reward_weights={style: 1}"], "prompts", "reward"),
        (["method.coefficient=FOLDER/mine.py:nothing"], "coefficient", "nothing"),
        (["method.coefficient=FOLDER/mine.py:half"], None, ""),
        (["method.agents.verify.coefficient=FOLDER/mine.py:nothing"], "coefficient", "nothing"),
    ],
)
def test_what_would_stop_a_run_shows_before_it(
    overrides: list[str], what: str | None, says: str, policy: Path, tmp_path: Path
) -> None:
    (tmp_path / "items.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    (tmp_path / "mine.py").write_text("def half(pi):\n    return 0.5 * pi\n")
    words = [override.replace("FOLDER", str(tmp_path)) for override in overrides]
    made = diagnose(config(policy, tmp_path, *words), quick=True)
    fails = [check for check in made if check.status == "fail"]
    assert [check.what for check in fails] == ([] if what is None else [what])
    assert all(says in check.found for check in fails)


def test_no_policy_no_further(tmp_path: Path) -> None:
    made = list(diagnose(config(tmp_path / "nothing", tmp_path), quick=True))
    assert (made[-1].what, made[-1].status) == ("tokenizer", "fail")


def shown(check: Check, width: int = 70) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(line(check))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_line() -> None:
    assert shown(Check("ok", "disk", "all well")).rstrip() == "ok    disk              all well"
    said = shown(Check("fail", "served tokenizer", "[red]other\x1b[31m ids", "serve the policy"))
    assert [text.rstrip() for text in said.splitlines()] == [
        "fail  served tokenizer  [red]other⟨U+001B⟩[31m ids",
        "                        → serve the policy",
    ]


def test_the_exit_code_and_the_last_line(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def code(*overrides: str) -> int:
        words = ["doctor", "--quick", f"policy.model={policy}", f"run.out={tmp_path / 'run'}", *overrides]
        monkeypatch.setattr(sys, "argv", ["aipo", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    assert code() == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == "14 ok, 0 warn, 0 fail"
    assert code("--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] and [check["status"] for check in result["checks"]] == ["ok"] * 14
    assert code("rollout.reward_weights={style: 1}") == 1
    assert code("rollout.reward_weigths={style: 1}") == 2  # misspelt: the configuration itself is wrong
