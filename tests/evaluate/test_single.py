"""`aipo try`: one question on the terminal, without and with agents."""

import json
from pathlib import Path

import pytest
from typer.testing import Result

from aipo.config.build import load_experiment
from aipo.errors import AipoError, ConfigError, RunError
from aipo.evaluate.single import find_task
from aipo.run import RunFolder
from aipo.util.files import write_text
from envs.miniature.model import cold_start
from kit.commands import invoke

ALONE = ("agents={}", "graph={name: 'graphs.solo:solo', options: {prompt: miniature.md}}")


@pytest.fixture(scope="module")
def policy() -> str:
    """The miniature's policy, hardly taught, as a setting."""
    return f"policy.model={cold_start(seed=0, steps=2)}"


def tried(*words: object) -> Result:
    return invoke("try", *words)


def test_solo_and_assisted_with_the_reward_of_the_environments_own_task(policy: str) -> None:
    done = tried("9@5+30=?", policy, "rollout.max_tokens=8", "--json")
    document = json.loads(done.stdout)
    assert (document["question"], document["answer"]) == ("9@5+30=?\n", "549")
    assert [trace["kind"] for trace in document["traces"]] == ["solo", "assisted"]
    assert {trace["reward"] for trace in document["traces"]} == {0.0}
    assert [trace["texts"][0] for trace in document["traces"]] == ["9@5+30=?\n", "agents\n9@5+30=?\n"]
    assert "hard/9@5+30 · assisted · step 0 · reward 0" in done.stderr


def test_a_question_that_nobody_has_the_answer_of(policy: str) -> None:
    words = [policy, "rollout.max_tokens=8", "--setting", "solo"]
    printed = tried("1+1=?", *words).stdout
    assert "try · solo · step 0 · no reward · ended by unscored" in printed
    assert "no answer is expected: --answer gives one" in printed
    printed = tried("1+1=?", "--answer", "2", *words).stdout
    assert "reward 0" in printed and printed.splitlines()[-1] == "expected: 2"


def test_the_trained_policy_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    experiment = load_experiment("grpo", [f"run.out={tmp_path}", "rollout.max_tokens=8", *ALONE])
    write_text(folder.config, experiment.to_yaml())
    with pytest.raises(RunError, match="no trained policy yet"):
        tried("1+1=?", "--run", tmp_path)
    folder.model.symlink_to(cold_start(seed=0, steps=2))
    (trace,) = json.loads(tried("9@5+30=?", "--run", tmp_path, "--json").stdout)["traces"]
    assert trace["kind"] == "solo"  # there are no agents
    assert not folder.traces.exists()


@pytest.mark.parametrize(
    ("question", "answer", "task"),
    [
        (" 9@5+30=? ", None, ("hard/9@5+30", "9@5+30=?\n", "549")),
        ("9@5+30=?", "1", ("hard/9@5+30", "9@5+30=?\n", "1")),
        ("1+1=?", None, ("try", "1+1=?\n", None)),
    ],
)
def test_a_question_is_the_environments_own_or_looks_like_one(
    question: str, answer: str | None, task: tuple[str, str, str | None]
) -> None:
    made = find_task(load_experiment("aipo_distil"), question, answer)
    assert (made.task_id, made.prompt, made.answer) == task


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["--run", "x", "--config", "aipo_distil"],
            ConfigError,
            "got --run x and --config aipo_distil, allowed one of them",
        ),
        (["--run", "nowhere"], RunError, "allowed a folder with a config.yaml of a run"),
        (
            [*ALONE, "--setting", "assisted"],
            ConfigError,
            "got ['assisted'], allowed ['solo'] here",
        ),
        (["--setting", "alone"], ConfigError, "got ['alone'], allowed ['solo', 'suppressed', 'assisted']"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], error: type[AipoError], message: str) -> None:
    with pytest.raises(error) as caught:
        tried("1+1=?", *words)
    assert message in str(caught.value)
