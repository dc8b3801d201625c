"""`aipo overlap`: questions of a test source that stand in a training source."""

import json
from pathlib import Path

import pytest

from aipo.errors import ConfigError
from aipo.evaluate.overlap import Overlap, overlaps
from aipo.rollout import Task
from kit.commands import invoke


def tasks(split: str, *questions: str) -> list[Task]:
    return [Task(task_id=f"{split}/{n}", prompt=q, answer="1", split=split) for n, q in enumerate(questions)]


TRAINING = tasks("train", "one two three four five", "What is $x+1$?", "two three four nine")


@pytest.mark.parametrize(
    ("question", "share", "training", "same"),
    [
        ("One two  three four five", 1.0, "train/0", True),  # case and spaces do not count
        ("one two three four six", 2 / 3, "train/0", False),  # (1 2 3) (2 3 4) of 3 n-grams
        ("zero two three four nine", 2 / 3, "train/2", False),  # (2 3 4) is in two items, (3 4 9) in one
        ("what is $ x + 1 $ ?", 1.0, "train/1", True),
        ("five four three two one", None, "", False),
        ("one two", None, "", False),  # a question of two words is not a part of one
    ],
)
def test_what_a_question_shares(question: str, share: float | None, training: str, same: bool) -> None:
    found = overlaps(TRAINING, tasks("test", question), 3)
    one = [] if share is None else [Overlap(task_id="test/0", share=share, training_id=training, same=same)]
    assert found == one


def test_a_short_question_is_found_as_a_whole() -> None:
    found = overlaps(tasks("train", "2+2?", "what is 2+2?"), tasks("test", "2 + 2?", "3+3?"), 13)
    assert found == [Overlap(task_id="test/0", share=1.0, training_id="train/0", same=True)]


def test_the_largest_share_comes_first() -> None:
    found = overlaps(TRAINING, tasks("test", "one two three six", "one two three four five"), 3)
    assert [(one.task_id, one.share) for one in found] == [("test/1", 1.0), ("test/0", 0.5)]


def test_the_command_says_ids_and_no_questions(tmp_path: Path) -> None:
    for name, questions in (("train", ["a b c d", "e f g h"]), ("test", ["a b c x", "secret words"])):
        lines = [json.dumps({"question": q, "answer": "1"}) for q in questions]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    words = ("overlap", tmp_path / "train.jsonl", tmp_path / "test.jsonl", "--n", 3)
    lines = invoke(*words).stdout.splitlines()
    assert lines[1].split() == ["test/0", "0.50", "train/0"]
    assert (
        lines[-1] == "1 of 2 test items share 3 words in a row with 2 training items; 0 are the same question"
    )
    assert "secret" not in "".join(lines)
    result = json.loads(invoke(*words, "--json").stdout)
    assert (result["n"], result["overlapping"], result["same"], len(result["items"])) == (3, 1, 0, 1)
    with pytest.raises(ConfigError, match="environment: got 'nowhere'"):
        invoke("overlap", "nowhere", tmp_path / "test.jsonl")
