"""`aipo replay ...` as it is typed: words, exit codes and what is left behind."""

import json
import shutil
from pathlib import Path

import pytest

import graphs
from aipo.errors import ConfigError, RunError
from aipo.replay.cli import sort_words
from aipo.run import RunFolder
from kit.commands import invoke


@pytest.mark.parametrize(
    ("words", "says", "result"),
    [
        ("check RUN step=0", "4 traces: 4 identical, 0 diverged", {"traces": 4, "identical": 4, "divergences": []}),
        ("score RUN rollout.reward_weights.correct=0.5 --out OUT", "8 traces, 4 with another reward", {"left_out": []}),
        ("graph RUN --prompts PROMPTS --frozen --out OUT", "4 need a live call", {}),
        ("credit RUN --steps 0 method.credit=reward --out OUT", "advantages, means over steps", {}),
        ("consults RUN --group step=0 --out OUT", "verify", {}),
        ("loss TRAINED --steps 0 --no-gradients --grid method.beta=1 --out OUT", "beta=1", {}),
        ("train TRAINED --steps 0 train.learning_rate=0.1 --out OUT", "ess", {}),
    ],
)  # fmt: skip
def test_questions_for_people_and_for_programs(
    run: RunFolder, trained: Path, tmp_path: Path, words: str, says: str, result: dict[str, object]
) -> None:
    prompts = shutil.copytree(Path(graphs.__file__).parent / "prompts", tmp_path / "prompts")
    verify = prompts / "verify.md"
    verify.write_text(verify.read_text().replace("Task: check\n", "Task: check\nBe strict.\n"))
    places = {"RUN": run.path, "TRAINED": trained, "OUT": tmp_path / "out", "PROMPTS": prompts}
    done = invoke("replay", *(places.get(word, word) for word in words.split()), "--json", columns=200)
    assert done.exit_code == 0, done.output
    assert says in done.stderr
    document = json.loads(done.stdout)
    assert {**document, **result, "question": words.split()[0]} == document
    if "OUT" in words:
        kept = json.loads((tmp_path / "out" / "replay.json").read_text())
        assert {**document, **kept} == document and document["folders"] == [str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("check RUN agents=verify", ConfigError, "the filter: got 'agents'"),
        ("check RUN verify", ConfigError, "got 'verify', allowed key=value"),
        ("check NOWHERE", RunError, "allowed a run, one of its evaluations, or a folder of traces"),
        ("score RUN --out RUN", RunError, "which is only read"),
        ("consults RUN --group run.threads=1", ConfigError, "--group: got ['run.threads=1']"),
    ],
)
def test_what_is_wrong_is_said(run: RunFolder, words: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        invoke("replay", *(run.path if word == "RUN" else word for word in words.split()))
    assert message in str(raised.value)


def test_words_with_a_dot_are_settings_the_others_filters() -> None:
    words = ["step=3..7", "rollout.max_tokens=64", "agent=verify", "task=a.b"]
    assert sort_words(words) == (["step=3..7", "agent=verify", "task=a.b"], ["rollout.max_tokens=64"])
