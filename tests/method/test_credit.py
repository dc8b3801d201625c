"""Credit: rewards to advantages, with numbers that can be checked by eye."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.method.credit import CREDITS, assign_credit, group, reward
from aipo.method.settings import MethodSettings
from aipo.trace import Mode, StopReason, Trace
from kit import handmade


def traces(*rewards: float | None, group_id: str = "g", **changes: object) -> list[Trace]:
    return [
        handmade.trace(
            trace_id=f"{group_id}{i}",
            group_id=group_id,
            reward=reward,
            advantage=None,
            stop_reason=StopReason.EOS if reward is not None else StopReason.ERROR,
            **changes,
        )
        for i, reward in enumerate(rewards)
    ]


def method(**settings: Any) -> MethodSettings:
    """Settings of credit; advantages are not scaled unless a test says so."""
    return MethodSettings(**({"scale_by_std": False} | settings))


def advantages(given: list[Trace], **settings: Any) -> list[float | None]:
    return [trace.advantage for trace in group(given, method(**settings)).traces]


def test_the_mean_is_the_baseline():
    # mean 0.25
    assert advantages(traces(1, 0, 0, 0)) == [0.75, -0.25, -0.25, -0.25]


def test_groups_do_not_see_each_other():
    given = traces(1, 0, group_id="a") + traces(3, 1, group_id="b")
    assert advantages(given) == [0.5, -0.5, 1.0, -1.0]


def test_scaling_divides_by_the_unbiased_deviation():
    # mean 0.5, variance 0.5² · 4 / 3, deviation 0.57735
    deviation = math.sqrt(1 / 3) + 1e-4
    expected = [0.5 / deviation, 0.5 / deviation, -0.5 / deviation, -0.5 / deviation]
    assert advantages(traces(1, 1, 0, 0), scale_by_std=True) == pytest.approx(expected, abs=1e-12)


def test_negative_advantages_may_weigh_less():
    assert advantages(traces(1, 0), negative_weight=0.5) == [0.5, -0.25]


def test_a_failed_rollout_is_in_nobodys_baseline_and_has_no_advantage():
    assert advantages(traces(1, None, 0)) == [0.5, None, -0.5]


def test_equal_rewards_teach_nothing():
    credited = group(
        traces(0.1, 0.1, 0.1) + traces(1, 0, group_id="h") + traces(None, None, group_id="i"), method()
    )
    assert [t.advantage for t in credited.traces] == [0, 0, 0, 0.5, -0.5, None, None]
    assert (credited.groups, credited.zero_variance_groups, credited.failed) == (2, 1, 2)
    assert credited.active_share == 2 / 5


def test_nothing_scored_is_no_error():
    credited = group(traces(None, None), method())
    assert (credited.groups, credited.active_share, credited.failed) == (0, 0.0, 2)


def test_modes_share_a_baseline_unless_told_otherwise():
    given = traces(1, 1, mode=Mode.ASSISTED) + traces(1, 0, mode=Mode.SOLO)
    assert advantages(given) == [0.25, 0.25, 0.25, -0.75]
    assert advantages(given, per_mode_baseline=True) == [0, 0, 0.5, -0.5]
    assert group(given, method(per_mode_baseline=True)).groups == 2


def test_a_demonstration_is_in_the_baseline_of_its_group():
    # LUFFY: seven wrong answers and a demonstration, mean 1/8, no deviation
    given = [*traces(*[0] * 7), *traces(1, group_id="shown", mode=Mode.EXPERT)]
    given = [replace(trace, group_id="g") for trace in given]
    assert advantages(given) == [-1 / 8] * 7 + [7 / 8]
    assert advantages([replace(trace, reward=1.0) for trace in given]) == [0.0] * 8


def test_a_reward_without_a_baseline_is_the_advantage():
    credited = reward(traces(1, 0, -0.5, None) + traces(0, 0, group_id="h"), method())
    assert [t.advantage for t in credited.traces] == [1, 0, -0.5, None, 0, 0]
    assert (credited.groups, credited.zero_variance_groups, credited.failed) == (2, 1, 1)
    assert credited.active_share == 2 / 5


def test_equal_rewards_teach_without_a_baseline():
    credited = reward(traces(1, 1), method())
    assert ([t.advantage for t in credited.traces], credited.zero_variance_groups) == ([1, 1], 0)


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=8))
def test_advantages_sum_to_zero_and_order_is_kept(rewards: list[float | None]):
    credited = group(traces(*rewards), method())
    assert [t.trace_id for t in credited.traces] == [f"g{i}" for i in range(len(rewards))]
    assert [t.reward for t in credited.traces] == rewards
    assert abs(sum(t.advantage or 0.0 for t in credited.traces)) < 1e-9


def test_credit_is_found_by_name():
    assert CREDITS["group"] is group
    settings = method(credit="reward")
    assert [t.advantage for t in assign_credit(traces(1, 1), settings).traces] == [1, 1]
    assert [t.advantage for t in assign_credit(traces(1, 1), method()).traces] == [0, 0]
