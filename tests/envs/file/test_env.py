"""Questions of a user's own: verdicts by name, and what a verdict that fails says."""

import asyncio
from pathlib import Path

import pytest

from aipo.errors import ConfigError, LoadError, ScoreError, TaskError
from aipo.rollout import Task
from envs.file import File

QUESTIONS = "question,answer\nCapital of France?,Paris\nHalf of one?,1/2\n"


def env_of(folder: Path, **options: object) -> File:
    (folder / "mine.csv").write_text(QUESTIONS)
    return File({"mine": str(folder / "mine.csv")}, **options)  # pyright: ignore[reportArgumentType]


VERDICTS = [
    # verdict, item, text, correct, reason
    ("exact", 0, "Paris", 1.0, "the answer is 'Paris'; the canonical answer is 'Paris'"),
    ("exact", 0, " Paris \n", 1.0, "the answer is 'Paris'"),
    ("exact", 0, "paris", 0.0, "the answer is 'paris'"),
    ("exact", 0, "It is \\boxed{Paris}, not Rome", 1.0, "the answer is 'Paris'"),
    ("exact", 0, "Rome?\nNo.\n**Final answer:** Paris.", 1.0, "the answer is 'Paris'"),
    ("exact", 0, "It is Paris", 0.0, "the answer is 'It is Paris'"),
    ("exact", 0, "", 0.0, "the answer is ''"),
    ("contains", 0, "It is paris, I think", 1.0, "the text contains the canonical answer 'Paris'"),
    ("contains", 0, "Parisian", 0.0, "the text does not contain the canonical answer 'Paris'"),
    ("contains", 0, "Capital of France? Rome", 0.0, "the text does not contain"),
    ("math", 1, "\\boxed{0.5}", 1.0, "the last \\boxed{...} says '0.5'; the canonical answer is '1/2'"),
    ("math", 1, "The answer is 0.5.", 1.0, "the last answer line says '0.5'; the canonical answer is '1/2'"),
    (
        "math",
        1,
        "Answer: 0.5\nor \\boxed{2",
        0.0,
        "no answer: the last \\boxed{...} is missing, or not closed",
    ),
    ("math", 1, "0.5", 0.0, "no answer"),
]


@pytest.mark.parametrize(("verdict", "index", "text", "correct", "reason"), VERDICTS)
def test_verdicts_by_name(
    tmp_path: Path, verdict: str, index: int, text: str, correct: float, reason: str
) -> None:
    env = env_of(tmp_path, verdict=verdict)
    task = env.tasks("mine")[index]
    assert asyncio.run(env.score(task, text)) == {"correct": correct}
    assert env.explain(task, text).startswith(reason)
    env.close()


def test_answer_lines_can_be_left_out(tmp_path: Path) -> None:
    env = env_of(tmp_path, verdict="math", answer_line=False)
    task = env.tasks("mine")[1]
    assert asyncio.run(env.score(task, "The answer is 0.5.")) == {"correct": 0.0}


def test_contains_reads_nothing_into_signs(tmp_path: Path) -> None:
    env = env_of(tmp_path, verdict="contains")
    task = Task(task_id="t", prompt="?", answer="1.5 (a*)", split="mine")
    assert asyncio.run(env.score(task, "so 1.5 (a*)!")) == {"correct": 1.0}
    assert asyncio.run(env.score(task, "so 175 (aa)!")) == {"correct": 0.0}


JUDGES = """
import os, time
def near(text, answer): return text.strip().lower() == answer.lower()
def half(text, answer, question, metadata): return {"correct": 0.5, "long": len(question)}
async def late(text, answer): return 1
def silent(text, answer): return None
def odd(text, answer): return "yes"
def empty(text, answer): return {}
def crash(text, answer): raise ValueError("no such thing")
def gone(text, answer): os._exit(0)
def forever(text, answer):
    while True: pass
"""
JUDGED = [
    ("near", {"correct": 1.0}),
    ("half", {"correct": 0.5, "long": 18.0}),
    ("late", {"correct": 1.0}),
    ("silent", r"judges.py:silent: got None, which is no verdict"),
    ("odd", r"got 'yes', allowed True or False, a number, numbers by name, or None"),
    ("empty", r"got \{\}, allowed"),
    ("crash", r"got RuntimeError: .*judges.py:crash raised ValueError: no such thing"),
    ("gone", r"got the end of its process \(exit status 0\), allowed a result"),
    ("forever", r"got no result, allowed 1 s of processor time"),
]


@pytest.mark.parametrize(("function", "result"), JUDGED, ids=[name for name, _ in JUDGED])
def test_a_function_of_the_users_judges_and_its_failure_is_no_verdict(
    tmp_path: Path, function: str, result: dict | str
) -> None:
    (tmp_path / "judges.py").write_text(JUDGES)
    env = env_of(tmp_path, verdict=f"python.{tmp_path / 'judges.py'}:{function}", seconds=1.0)
    task = env.tasks("mine")[0]
    assert env.explain(task, "paris").endswith(
        f"judges.py:{function} judges; the canonical answer is 'Paris'"
    )
    if isinstance(result, dict):
        assert asyncio.run(env.score(task, "paris")) == result
    else:
        with pytest.raises(ScoreError, match=result):
            asyncio.run(env.score(task, "paris"))
    env.close()


def test_what_cannot_judge_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"verdict: got 'maths', allowed exact, choice, contains, math, python\."
    ):
        env_of(tmp_path, verdict="maths")
    with pytest.raises(LoadError, match=r"judges.py"):
        env_of(tmp_path, verdict=f"python.{tmp_path / 'judges.py'}:near")
    (tmp_path / "judges.py").write_text(JUDGES)
    with pytest.raises(LoadError, match=r"got 'far', allowed one of \['crash'"):
        env_of(tmp_path, verdict=f"python.{tmp_path / 'judges.py'}:far")


def test_a_task_without_an_answer_and_one_of_no_split(tmp_path: Path) -> None:
    env = env_of(tmp_path, verdict="exact")
    with pytest.raises(TaskError, match="answer of task 't': got None"):
        asyncio.run(env.score(Task(task_id="t", prompt="?", answer=None, split="mine"), "4"))
    mine, asked = str(tmp_path / "mine.csv"), Task(task_id="try", prompt="?", answer="4", split="try")
    assert asyncio.run(env.score(asked, "4")) == {"correct": 1.0}
    mixed = File({"a": {"file": mine, "verdict": "contains"}, "b": mine})  # pyright: ignore[reportArgumentType]
    assert asyncio.run(mixed.score(mixed.tasks("a")[0], "to Paris")) == {"correct": 1.0}
    assert asyncio.run(mixed.score(mixed.tasks("b")[0], "to Paris")) == {"correct": 0.0}
    with pytest.raises(ScoreError, match=r"allowed one where all splits have one of \['contains', 'exact'\]"):
        asyncio.run(mixed.score(asked, "4"))


def test_a_solution_gets_the_box_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"question": "2+2?", "answer": "4", "proof": "As 2+2=4."}\n'
        '{"question": "1+1?", "answer": "2", "proof": "So\\nAnswer: 2"}\n'
    )
    source = {"file": tmp_path / "a.jsonl", "solution": "proof"}
    env = File({"a": source})  # pyright: ignore[reportArgumentType]
    shown = [env.demonstration(task) for task in env.tasks("a")]
    assert shown == ["As 2+2=4.\n\n\\boxed{4}", "So\nAnswer: 2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "question,answer\n1?\n",
            r"CSV: got a row that is not as long as the head, allowed 2 values, in .*mine.csv:2",
        ),
        ("question,answer\n1?,2,3\n", r"not as long as the head"),
        ('question,answer\n"1?,2\n', r"CSV: got unexpected end of data, allowed a table in UTF-8"),
    ],
)
def test_tables_that_are_not_whole_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(LoadError, match=says):
        File({"mine": str(tmp_path / "mine.csv")}).tasks("mine")  # pyright: ignore[reportArgumentType]


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes("question,answer\ncaf\u00e9?,1\n".encode("latin-1"))
    with pytest.raises(LoadError, match=r"CSV: got 'utf-8' codec can't decode .*mine.csv"):
        File({"mine": str(tmp_path / "mine.csv")}).tasks("mine")  # pyright: ignore[reportArgumentType]
