"""Canonical answers of real benchmarks, written in many ways: right ones score 1 and wrong ones 0.

Runs where `AIPO_BENCHMARKS` names a folder of the benchmarks' files (envs/README.md). `AIPO_BENCHMARKS_PART=1/20` takes every
twentieth item. Nothing of the items is printed but their ids.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo.errors import ScoreError
from aipo.rollout import Task
from envs.file import File

FOLDER = os.environ.get("AIPO_BENCHMARKS")
FIRST, OF = (int(one) for one in os.environ.get("AIPO_BENCHMARKS_PART", "1/1").split("/"))
NAMES = ("aime24", "aime25", "amc", "math500", "gsm8k-test", "minerva", "olympiadbench")

RIGHT = (
    "The answer is \\boxed{{{0}}}.",
    "First \\boxed{{17}}, no: \\boxed{{ {0} }}",
    "$\\boxed{{{0}}}$ is my final answer",
    "\\[\\boxed{{\\displaystyle {0}}}\\]",
    "\\boxed{{\\mathbf{{{0}}}}}",
    "\\boxed{{\\left({0}\\right)}}",
    "\\boxed{{{{{0}}}}}",
    "\\boxed{{\\color{{red}}{{{0}}}}}",
    "\\boxed{{${0}$}}",
    "\\boxed{{\\text{{Answer: }}{0}}}",
    "\\boxed{{{0}.}}",
    "\\boxed{{{0}}}\n\nSo it is \\boxed{{}}.",
)
"""Ways to write an answer; those that bracket it are left out where it has commas, and would be a tuple."""
WRONG = (
    "{0}",
    "",
    "\\boxed{{}}",
    "\\boxed{{{0}",
    "\\boxed{{{0}}} and then \\boxed{{31337.25}}",
    "\\boxed{{31337.25}}",
    "\\boxed{{{0}}} or rather \\boxed{{\\text{{I do not know}}}}",
    "\\boxed{{3({0})+31337.25}}",
)


def ways(task: Task) -> Iterator[str]:
    """Right answers to a task."""
    answer = task.answer or ""
    plain = not any(
        sign in answer
        for sign in (",", ";", "=", "\\text", "or", "and", "\\cup", "\\in", "<", ">", "\\le", "\\ge")
    )
    for way in RIGHT:
        if plain or not any(part in way for part in ("left(", "mathbf", "color")):
            yield way.format(answer)


@pytest.mark.skipif(FOLDER is None, reason="AIPO_BENCHMARKS names no folder of benchmarks' files")
@pytest.mark.parametrize("name", NAMES)
def test_every_item_is_right_in_every_way_and_wrong_in_every_other(name: str) -> None:
    env = File({name: name}, folder=Path(FOLDER or ""), answer_line=False)
    verdicts = asyncio.run(_verdicts(env, env.tasks(name)[FIRST - 1 :: OF]))
    env.close()
    assert [one for one in verdicts if one[2] is not one[3]] == []
    print(name, len({one[0] for one in verdicts}), "items,", len(verdicts), "verdicts")


async def _verdicts(env: File, tasks: tuple[Task, ...]) -> list[tuple[str, str, bool | str, bool]]:
    """Task, way, verdict, and what it should be."""
    rows: list[tuple[str, str, bool | str, bool]] = []
    for task in tasks:
        texts = [(way, True) for way in ways(task)] + [(way.format(task.answer), False) for way in WRONG]
        assert len(texts) >= 8 + 6
        for number, (text, right) in enumerate(texts):
            try:
                verdict: bool | str = (await env.score(task, text))["correct"] == 1.0
            except ScoreError as error:
                verdict = str(error)
            rows.append((task.task_id, f"way {number}", verdict, right))
    return rows
