"""`aipo env`: tasks to look at, and verdicts on a text."""

import json
import shlex
from pathlib import Path

import pytest

from aipo.errors import AipoError, ConfigError, TaskError, TraceError
from aipo.evaluate.tasks import environment
from kit.commands import invoke

HARD = ["--split", "hard", "--index", "0"]
RIGHT = "9@5=519\n519+30=549\n#549"


def env(*words: object, stdin: str | None = None) -> str:
    return invoke("env", *words, stdin=stdin).stdout


@pytest.mark.parametrize("name", ["miniature", "aipo", "envs.miniature:Miniature"])
def test_splits_by_any_name_of_the_environment(name: str) -> None:
    lines = env(name).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["split", "tasks", "question"],
        ["easy_train", "600", "0@8+30=?"],
    ]
    assert lines[-1].startswith("envs.miniature:Miniature from ")
    result = json.loads(env(name, "--json"))
    assert result["splits"]["heldout"]["tasks"] == 240


def test_an_environment_of_ones_own_from_a_file_and_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aipo.errors import ScoreError\n"
        "from aipo.rollout import Task\n"
        "class Mine:\n"
        "    def splits(self): return ('a',)\n"
        "    def tasks(self, split): return [Task(task_id='t', prompt='1+1?', answer=None, split='a')]\n"
        "    async def score(self, task, text):\n"
        "        if text == 'late': raise ScoreError('the judge took too long')\n"
        "        return None if text == '?' else {'style': 0.5}\n"
    )
    name = f"{tmp_path / 'mine.py'}:Mine"
    assert json.loads(env(name, "--index", 0, "--json"))["task"]["answer"] is None
    late = json.loads(env(name, "--score", "late", "--json"))["score"]
    assert late == {"parts": None, "reward": None, "why": "the judge took too long"}
    assert "verdict   unscored" in env(name, "--score", "?")
    with pytest.raises(ConfigError, match=r"reward part: got 'style', allowed \['correct', 'derivation'\]"):
        env(name, "--score", "!")
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"env: {{name: '{name}', mixture: {{a: 1.0}}}}\npolicy: {{model: none}}\nrollout: {{reward_weights: {{style: 2}}}}\n"
    )
    assert json.loads(env(file, "--score", "!", "--json"))["score"]["reward"] == 1.0


def test_odd_numbers_and_empty_splits_are_said(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from aipo.rollout import Task\n"
        "NAN = float('nan')\n"
        "class Odd:\n"
        "    def __init__(self, names=('nan', 'empty')): self.names = names\n"
        "    def splits(self): return tuple(self.names)\n"
        "    def tasks(self, split):\n"
        "        if split == 'empty': return []\n"
        "        return [Task(task_id='t', prompt='?', answer='1', split=split, metadata={'x': [NAN]})]\n"
        "    def score(self, task, text): return {'correct': float(text)}\n"
    )
    name = f"{tmp_path / 'odd.py'}:Odd"
    shown = json.loads(env(name, "--json"))["splits"]
    assert shown["nan"]["first"]["metadata"] == {"x": [None]} and shown["empty"]["first"] is None
    assert 'metadata  {"x":[null]}' in env(name, "--index", 0)
    for text in ("nan", "inf"):
        with pytest.raises(TraceError, match=f"reward part 'correct': got {text}, allowed a finite number"):
            env(name, "--score", text)
    assert json.loads(env(name, "--score", "0.5", "--json"))["score"]["reward"] == 0.5
    for choice in ("--seed", "--index"):
        with pytest.raises(
            ConfigError, match=r"--split: got 'empty', which has no tasks, allowed one of \['nan'"
        ):
            env(name, "--split", "empty", choice, 0)
    with pytest.raises(ConfigError, match="environment: got one without splits"):
        env(name, "env.options.names=[]", "--index", 0)


@pytest.mark.parametrize(("name", "split"), [("gym", "sums"), ("math", "train")])
def test_an_environment_without_its_splits_says_how_to_give_them(name: str, split: str) -> None:
    with pytest.raises(ConfigError, match=r"got no \['splits'\], allowed .*, such as ") as caught:
        env(name)
    (example,) = shlex.split(str(caught.value).partition(", such as ")[2])
    assert environment(name, [example]).env.splits() == (split,)


def test_one_task_by_its_number_or_a_seed() -> None:
    shown = env("aipo", *HARD).splitlines()
    assert shown == [
        "task      hard 0",
        "id        hard/9@5+30",
        "question  9@5+30=?",
        "answer    549",
        "cluster   9@5",
        'metadata  {"fact":"9@5","operand":30}',
        "solution  9@5=519",
        "          519+30=549",
        "          #549",
    ]
    drawn = [json.loads(env("aipo", "--split", "hard", "--seed", 7, "--json")) for _ in range(2)]
    assert drawn[0] == drawn[1] and 0 <= drawn[0]["index"] < 480
    lines = env("aipo", "--split", "hard", "--limit", 2).splitlines()
    assert lines[1].split() == ["0", "hard/9@5+30", "9@5+30=?", "549"]
    assert lines[-1] == "2 of 480 tasks (--limit shows more, --index shows one)"


@pytest.mark.parametrize(
    ("text", "parts", "reward", "why"),
    [
        (RIGHT, {"correct": 1.0, "derivation": 1.0}, 1.0, "the last line is '#549', right is '#549'"),
        (
            "9@5=520\n#549",
            {"correct": 1.0, "derivation": 0.0},
            1.0,
            "the last line is '#549', right is '#549'; lines that do not follow: ['9@5=520']",
        ),
        ("#550", {"correct": 0.0, "derivation": 1.0}, 0.0, "the last line is '#550', right is '#549'"),
        ("", {"correct": 0.0, "derivation": 1.0}, 0.0, "the last line is '', right is '#549'"),
    ],
)
def test_a_text_is_scored_wherever_it_comes_from(
    tmp_path: Path, text: str, parts: dict[str, float], reward: float, why: str
) -> None:
    file = tmp_path / "answer.txt"
    file.write_text(text)
    given = [
        env("aipo", *HARD, "--score", text, "--json"),
        env("aipo", *HARD, "--score-file", file, "--json"),
    ]
    given.append(env("aipo", *HARD, "--score", "-", "--json", stdin=text))
    for document in given:
        assert json.loads(document)["score"] == {"parts": parts, "reward": reward, "why": why}


@pytest.mark.parametrize(
    ("text", "correct", "why"),
    [
        (r"so \boxed{3.0}", 1.0, r"the last \boxed{...} says '3.0'; the canonical answer is '3'"),
        ("3", 0.0, r"no answer: the last \boxed{...} is missing, or not closed; the canonical answer is '3'"),
    ],
)
def test_mathematics_says_which_box_counts(tmp_path: Path, text: str, correct: float, why: str) -> None:
    (tmp_path / "items.jsonl").write_text('{"problem": "1+2?", "answer": "3"}\n')
    split = f"env.options.splits={{a: {tmp_path / 'items.jsonl'}}}"
    score = json.loads(env("math", split, "--score", text, "--json"))["score"]
    assert score == {"parts": {"correct": correct}, "reward": correct, "why": why}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["nowhere"], ConfigError, "environment: got 'nowhere', allowed one of envs/"),
        (["envs.nowhere"], ConfigError, "environment: got 'envs.nowhere'"),
        (["aipo", "--split", "none"], TaskError, "split of the miniature: got 'none', allowed one of"),
        (["aipo", "--index", "600"], ConfigError, "--index: got 600, allowed 0 to 599 in split 'easy_train'"),
        (["aipo", "--index=-1"], ConfigError, "--index: got -1"),
        (["aipo", "--index", "1", "--seed", "1"], ConfigError, "--index, --seed: got 1 and 1"),
        (["aipo", "--score", "1", "--score-file", "x"], ConfigError, "--score, --score-file: got both"),
        (["aipo", "--score-file", "nowhere"], ConfigError, "allowed text in UTF-8"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], error: type[AipoError], message: str) -> None:
    with pytest.raises(error) as caught:
        env(*words)
    assert message in str(caught.value)
