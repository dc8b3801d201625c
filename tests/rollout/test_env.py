"""A task that no trace could hold is refused before it costs a rollout."""

from typing import Any, cast

import numpy as np
import pytest

from aipo.errors import TaskError
from aipo.rollout.env import Env, weights_with_noted
from kit.engines import task


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


def test_what_json_can_hold_is_welcome():
    metadata = {"value": np.float32(0.5), "pair": (1, None), "ids": np.array([1, 2])}
    assert task(metadata=metadata).metadata is metadata
