"""GPQA-Diamond with its options in the text: every letter is right in many ways and wrong in others.

Runs where `AIPO_BENCHMARKS` names a folder with `gpqa_diamond.parquet` whose columns are `prompt` and `reward_model`. Nothing of
the items is printed but their ids: its authors ask that examples never stand in plain text.
"""

import asyncio
import os
from pathlib import Path

import pytest

from envs.choice import Choice

FILE = Path(os.environ.get("AIPO_BENCHMARKS", "nowhere")) / "gpqa_diamond.parquet"
RIGHT = (
    "\\boxed{{{0}}}",
    "\\boxed{{({0})}}",
    "\\boxed{{\\text{{{0}}}}}",
    "\\boxed{{\\textbf{{({0})}}}}",
    "\\boxed{{{0}.}}",
    "\\boxed{{{1}}}",
    "\\boxed{{\\text{{Option }}{0}}}",
    "I think so.\nThe correct answer is ({0}).",
    "**Answer:** {0}",
    "\\boxed{{Z1}} no, \\boxed{{{0}}}",
)
WRONG = (
    "\\boxed{{{2}}}",
    "Answer: {2}",
    "\\boxed{{{0}, {2}}}",
    "\\boxed{{{0} or {2}}}",
    "{0}",
    "",
    "\\boxed{{{0}",
    "\\boxed{{{0}}} \\boxed{{{2}}}",
)


@pytest.mark.skipif(not FILE.is_file(), reason="AIPO_BENCHMARKS names no folder with gpqa_diamond.parquet")
def test_every_letter_is_right_in_every_way_and_wrong_in_every_other() -> None:
    source = {"file": FILE, "question": "prompt.1.content", "answer": "reward_model.ground_truth"}
    env = Choice({"gpqa": source})  # pyright: ignore[reportArgumentType]
    wrong: list[str] = []
    for task in env.tasks("gpqa"):
        letter = task.answer or ""
        names = (letter, letter.lower(), "ABCD"[("ABCD".index(letter) + 1) % 4])
        for number, way in enumerate((*RIGHT, *WRONG)):
            verdict = asyncio.run(env.score(task, way.format(*names)))
            if verdict != {"correct": float(number < len(RIGHT))}:
                wrong.append(f"{task.task_id}, way {number}")
    assert wrong == []
    print(len(env.tasks("gpqa")), "items,", len(env.tasks("gpqa")) * len((*RIGHT, *WRONG)), "verdicts")
