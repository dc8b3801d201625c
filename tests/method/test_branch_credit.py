"""Credit in a tree of rollouts made by hand: what shared tokens get, and that hard and soft learn the same."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aipo.method.batch import TokenTotals, collate, denominators, with_gradient
from aipo.method.credit import assign_credit
from aipo.method.loss import LossInputs, aipo_loss
from aipo.method.rows import rows_of
from aipo.method.settings import MethodSettings
from aipo.trace import StopReason, Trace
from kit import handmade
from kit.handmade import agent, policy, prompt

pytestmark = pytest.mark.fast


def branch(
    index: int, reward: float | None, *segments: Any, parent: int | None = None, at: int | None = None
) -> Trace:
    return handmade.trace(
        *segments,
        trace_id=f"run/g/{index}",
        run_id="run",
        group_id="g",
        index=index,
        reward=reward,
        advantage=None,
        stop_reason=StopReason.ERROR if reward is None else StopReason.EOS,
        parent_id=None if parent is None else f"run/g/{parent}",
        fork_token=at,
    )


def tree(failed: bool = False, first: float = 1.0) -> list[Trace]:
    """0 is right. 1 leaves it behind 4 tokens and is wrong; 2 leaves 1 behind 7 tokens and is right; 3 stands alone and is
    wrong. No two tokens of the tree have the same id."""
    trunk = (prompt(1), policy(2, 3), agent(4))
    limb = (policy(10, 11), agent(12))
    return [
        branch(0, first, *trunk, policy(5, 6)),
        branch(1, None if failed else 0.0, *trunk, *limb, policy(13), parent=0, at=4),
        branch(2, 1.0, *trunk, *limb, policy(14, 15, 16), parent=1, at=7),
        branch(3, 0.0, prompt(1), policy(20, 21)),
    ]


def method(attribution: str, **changes: Any) -> MethodSettings:
    given = {"plan": "branching", "credit": "branch", "attribution": attribution, "scale_by_std": False}
    return MethodSettings(**{**given, **changes})


def given_to(traces: list[Trace], attribution: str) -> list[list[float | None]]:
    credited = assign_credit(traces, method(attribution)).traces
    return [[trace.advantage_of(piece) for piece in trace.segments] for trace in credited]


def test_soft_gives_each_row_its_own():
    assert given_to(tree(), "soft") == [[0.5] * 4, [-0.5] * 6, [0.5] * 6, [-0.5] * 2]


def test_hard_gives_shared_tokens_the_mean_of_the_rollouts_through_them():
    trunk = pytest.approx(1 / 6)  # of 0, 1 and 2: +½, −½, +½
    limb = 0.0  # of 1 and 2
    assert given_to(tree(), "hard") == [
        [trunk, trunk, trunk, 0.5],
        [trunk, trunk, trunk, limb, limb, -0.5],
        [trunk, trunk, trunk, limb, limb, 0.5],
        [-0.5, -0.5],
    ]


def test_a_failed_rollout_has_no_part_in_the_mean():
    given = given_to(tree(failed=True, first=3.0), "hard")  # rewards 3, none, 1 and 0: their mean is 4/3
    trunk, first, second = (pytest.approx(n / 3) for n in (2, 5, -1))
    assert given[0] == [trunk, trunk, trunk, first]
    assert given[1] == [None] * 6
    assert given[2] == [
        trunk,
        trunk,
        trunk,
        second,
        second,
        second,
    ]  # 1 went through its limb, and counts for nothing


def slopes(attribution: str, objective: str) -> Tensor:
    """The gradient of every token's log-prob, by id; tokens that rollouts share are one."""
    settings = method(attribution, objective=objective)
    credited = assign_credit(tree(), settings)
    every = [row for trace in credited.traces for row in rows_of(trace)]
    rows = with_gradient(every, settings)
    how = {"minibatches": 1, "max_completion_length": 16}
    batch = collate(rows, denominators(rows, settings, TokenTotals.of(every), **how), pad_id=0)
    table = torch.full((32,), -1.0, requires_grad=True)
    logprobs = table[batch["completion_ids"]]
    aipo_loss(
        LossInputs.of(batch, logprobs, torch.zeros_like(logprobs), fresh=True), settings
    ).loss.backward()
    assert table.grad is not None
    return table.grad


@pytest.mark.parametrize("objective", ["dapo", "dr_grpo", "cispo"])
def test_hard_and_soft_have_the_same_gradient(objective: str):
    soft, hard = slopes("soft", objective), slopes("hard", objective)
    torch.testing.assert_close(soft, hard)
    assert np.flatnonzero(soft.numpy()).tolist() == [2, 3, 5, 6, 13, 14, 15, 16, 20, 21]
    assert soft[2] == pytest.approx(float(soft[5]))  # two of three branches are right, as is one of one


def test_where_every_row_counts_the_same_shared_tokens_of_short_rows_count_more():
    """GRPO averages within a row first: soft weighs a rollout's share of a token by the length of its row."""
    soft, hard = slopes("soft", "grpo"), slopes("hard", "grpo")
    assert not torch.allclose(soft[2], hard[2])
    torch.testing.assert_close(soft[5], hard[5])
