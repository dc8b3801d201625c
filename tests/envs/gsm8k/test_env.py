"""GSM8K's environment: which items it takes, and where tutors look solutions up."""

import asyncio
import json
from pathlib import Path

import pytest

from aipo.errors import TaskError
from envs.gsm8k import GSM8K
from kit.word_problems import PENS, write_problems


def items(folder: Path, *rows: dict[str, object]) -> Path:
    file = folder / f"{len(list(folder.iterdir()))}.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def test_a_task_is_that_of_the_math_environment(tmp_path: Path) -> None:
    env = GSM8K({"mine": write_problems(tmp_path)})
    task = env.tasks("mine")[0]
    assert (task.prompt, task.answer) == (PENS["question"], "42")
    assert task.metadata == {"solution": "She buys 4 * 12 = 48 pens.\nShe can use 48 - 6 = 42 pens."}
    assert asyncio.run(env.score(task, "\\boxed{42}")) == {"correct": 1.0}
    assert env.demonstration(task) == f"{task.metadata['solution']}\n\n\\boxed{{42}}"
    env.close()


def test_a_solution_is_found_by_its_question_in_every_split(tmp_path: Path) -> None:
    env = GSM8K(
        {
            "one": items(tmp_path, PENS),
            "two": items(tmp_path, {"question": "1+1?", "answer": "1+1=2\n#### 2"}),
        }
    )
    assert [step.line for step in env.solution("1+1?\n").steps] == ["1+1=2"]
    assert [step.result for step in env.solution(PENS["question"]).steps] == ["48", "42"]


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ({"question": "1+1?", "answer": "2"}, "no solution"),
        ({"question": "1+1?", "answer": "1+1=2\n#### two"}, "the answer 'two'"),
        ({"question": "1/2+1?", "answer": "1/2+1=3/2\n#### 3/2"}, "the answer '3/2'"),
    ],
)
def test_items_that_no_tutor_can_teach_are_refused(tmp_path: Path, row: dict[str, object], got: str) -> None:
    with pytest.raises(TaskError, match=f"task 'mine/0': got {got}, allowed a worked solution"):
        GSM8K({"mine": items(tmp_path, row)}).tasks("mine")


def test_two_answers_to_one_question_are_refused(tmp_path: Path) -> None:
    other = PENS | {"answer": "48 - 5 = 43\n#### 43"}
    env = GSM8K({"one": items(tmp_path, PENS), "two": items(tmp_path, other)})
    with pytest.raises(TaskError, match="got '42' in 'one/0' and '43' in 'two/0', allowed the same one"):
        env.solution(PENS["question"])
