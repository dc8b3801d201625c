"""A task that no trace could hold is refused before it costs a rollout."""

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from aipo.errors import TaskError
from aipo.rollout.env import Env, Task, judge, weights_with_noted
from kit.engines import Exam, task


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": " \n"}, "prompt of task 't0'"),
        ({"prompt": "bad \ud83d"}, "task 't0': str is not valid UTF-8"),
        ({"metadata": {"seen": {1, 2}}}, "task 't0': Type is not JSON serializable: set"),
        ({"metadata": {"big": 2**70}}, "task 't0': Integer exceeds 64-bit range"),
        ({"metadata": {1: "one"}}, "task 't0': Dict key must be str"),
    ],
)
def test_a_task_that_cannot_be_used_is_refused(changes: dict[str, Any], reason: str):
    with pytest.raises(TaskError) as caught:
        task(**changes)
    assert str(caught.value).startswith(reason)


def test_a_wrapper_of_an_environment_need_not_know_of_derivations():
    assert weights_with_noted(cast(Env, object()), {"correct": 1.0}) == {"derivation": 0.0, "correct": 1.0}
    assert weights_with_noted(cast(Env, object()), {"derivation": 0.5}) == {"derivation": 0.5}


class Explained(Exam):
    """Says what it is told to say, or raises it."""

    def __init__(self, says: object) -> None:
        self._says = says

    def explain(self, task: Task, text: str) -> Any:
        if isinstance(self._says, Exception):
            raise self._says
        return self._says


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (Exam(), None),
        (Explained(""), None),
        (Explained("the text has 42 in it"), "the text has 42 in it"),
        (Explained("half an \ud83d"), "half an ?"),
        (Explained("x" * 2000), "x" * 999 + "…"),
        (Explained(42), "42"),
        (Explained(KeyError("a")), "explain failed: KeyError: 'a'"),
    ],
)
def test_a_verdict_has_the_reason_that_the_environment_gives(env: Env, reason: str | None):
    assert asyncio.run(judge(env, task(), "it is 42")) == ({"correct": 1.0, "short": 1.0}, reason)


def test_what_json_can_hold_is_welcome():
    metadata = {"value": np.float32(0.5), "pair": (1, None), "ids": np.array([1, 2])}
    assert task(metadata=metadata).metadata is metadata
