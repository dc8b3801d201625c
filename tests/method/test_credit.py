"""Credit: rewards to advantages, with numbers that can be checked by eye."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.method.credit import assign_credit, group
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


STD = math.sqrt(1 / 3) + 1e-4  # of 1, 1, 0, 0: the unbiased one, √(0.5² · 4 / 3), as TRL has it


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        (traces(1, 0, 0, 0), {}, [0.75, -0.25, -0.25, -0.25]),
        (traces(1, 0, group_id="a") + traces(3, 1, group_id="b"), {}, [0.5, -0.5, 1.0, -1.0]),
        (traces(1, 1, 0, 0), {"scale_by_std": True}, [0.5 / STD, 0.5 / STD, -0.5 / STD, -0.5 / STD]),
        (traces(1, 0), {"negative_weight": 0.5}, [0.5, -0.25]),
        # a failed rollout is in nobody's baseline
        (traces(1, None, 0), {}, [0.5, None, -0.5]),
        (traces(1, 1, mode=Mode.ASSISTED) + traces(1, 0), {}, [0.25, 0.25, 0.25, -0.75]),
        (traces(1, 1, mode=Mode.ASSISTED) + traces(1, 0), {"per_mode_baseline": True}, [0, 0, 0.5, -0.5]),
        # LUFFY: seven wrong answers and a demonstration, mean 1/8, no deviation
        (traces(*[0] * 7) + traces(1, mode=Mode.EXPERT), {}, [-1 / 8] * 7 + [7 / 8]),
        (traces(*[1] * 7) + traces(1, mode=Mode.EXPERT), {}, [0] * 8),
    ],
)
def test_the_mean_of_a_group_is_the_baseline(
    given: list[Trace], settings: dict[str, Any], expected: list[float | None]
):
    assert advantages(given, **settings) == [
        None if value is None else pytest.approx(value, abs=1e-12) for value in expected
    ]


# Three equal ones, whose mean is not 0.1 in binary, and two that differ.
MIXED = traces(0.1, 0.1, 0.1) + traces(1, 0, group_id="h")
ZEROS = traces(0, 0, group_id="h")
FAILED = traces(None, None, group_id="i")


@pytest.mark.parametrize(
    ("settings", "given", "expected", "counts"),
    [
        ({}, MIXED + FAILED, [0, 0, 0, 0.5, -0.5, None, None], (2, 1, 2 / 5)),
        ({}, FAILED, [None, None], (0, 0, 0.0)),
        # without a baseline the reward is the advantage
        ({"credit": "reward"}, traces(1, 1), [1, 1], (1, 0, 1.0)),
        ({"credit": "reward"}, traces(1, 0, -0.5, None) + ZEROS, [1, 0, -0.5, None, 0, 0], (2, 1, 2 / 5)),
    ],
)
def test_equal_rewards_teach_nothing_against_a_baseline(
    settings: dict[str, str], given: list[Trace], expected: list[float | None], counts: tuple[int, int, float]
):
    credited = assign_credit(given, method(**settings))
    assert [t.advantage for t in credited.traces] == expected
    assert (credited.groups, credited.zero_variance_groups, credited.active_share) == counts


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=8))
def test_advantages_sum_to_zero_and_order_is_kept(rewards: list[float | None]):
    credited = group(traces(*rewards), method())
    assert [t.trace_id for t in credited.traces] == [f"g{i}" for i in range(len(rewards))]
    assert [t.reward for t in credited.traces] == rewards
    assert abs(sum(t.advantage or 0.0 for t in credited.traces)) < 1e-9


# -- several policies ----------------------------------------------------------------------------------------


def of_policies(**rewards: list[float | None]) -> list[Trace]:
    """A group of each policy for the same task."""
    return [trace for name, own in rewards.items() for trace in traces(*own, policy=name)]


@pytest.mark.parametrize(
    ("rewards", "calibrated"),
    [
        # b has mean 1/4 and spread 1: 1 + 3/4 and 0 - 1/4; a has mean 1/2
        ({"a": [1, 0, 1, 0], "b": [1, 0, 0, 0]}, [1.75, -0.25, 1.75, -0.25, 1.5, -0.5, -0.5, -0.5]),
        # spread 2 of b, mean 0: (3 - 0) / 2 is clipped to 1, (1 - 0) / 2 is not
        ({"a": [3, 1], "b": [1, -1]}, [4, 1.5, 0.5, -2]),
        # three policies: each of the two others counts at most one half
        ({"a": [1, 0], "b": [1, 0], "c": [0, 1]}, [2, -1, 2, -1, -1, 2]),
        # b's rewards have no spread: the sign of the difference, at the bound
        ({"a": [1, 0.5, 0], "b": [0.5, 0.5, 0.5]}, [2, 0.5, -1, 0.5, 0.5, 0.5]),
        # a failed rollout has no reward, and a policy whose rollouts all failed adds nothing
        ({"a": [1, None, 0], "b": [None, None, None]}, [1, None, 0, None, None, None]),
        # one policy: the reward itself
        ({"a": [1, 0, 0, 0]}, [1, 0, 0, 0]),
    ],
)
def test_a_calibrated_reward_is_compared_with_those_of_the_other_policies(
    rewards: dict[str, list[float | None]], calibrated: list[float | None]
):
    """Advantages are those of `group` on the calibrated rewards."""
    given = of_policies(**rewards)
    credited = assign_credit(given, method(credit="calibrated"))
    by_hand = iter(calibrated)
    plain = of_policies(**{name: [next(by_hand) for _ in own] for name, own in rewards.items()})
    expected = [None if a is None else pytest.approx(a) for a in advantages(plain)]
    assert [trace.advantage for trace in credited.traces] == expected
    assert [trace.reward for trace in credited.traces] == [trace.reward for trace in given]


def test_calibration_compares_rollouts_of_the_same_task():
    """And of the same mode, where each mode has its own mean."""
    given = traces(1, 0, policy="a") + traces(0, 1, policy="b", group_id="h")
    assert [t.advantage for t in assign_credit(given, method(credit="calibrated")).traces] == [
        *(0.5, -0.5),
        *(-0.5, 0.5),
    ]
    given = traces(1, 0, policy="a") + traces(0, 1, policy="b", mode=Mode.ASSISTED)
    apart = assign_credit(given, method(credit="calibrated", per_mode_baseline=True))
    assert [t.advantage for t in apart.traces] == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("credit", ["group", "reward", "calibrated"])
def test_each_policy_has_a_group_of_its_own(credit: str):
    both = assign_credit(of_policies(a=[1, 1], b=[1, 0]), method(credit=credit))
    a, b = both.of_policy("a"), both.of_policy("b")
    assert (both.groups, a.groups, b.groups) == (2, 1, 1)
    assert a.traces + b.traces == both.traces
    if credit == "group":
        assert [t.advantage for t in both.traces] == [0, 0, 0.5, -0.5]
        assert (a.zero_variance_groups, b.zero_variance_groups) == (1, 0)
        assert (a.active_share, b.active_share) == (0.0, 1.0)


def wrote(node: str, number: int) -> Any:
    return replace(handmade.policy(5), source=node, history=number)


def test_each_node_has_a_group_of_its_own():
    """Two rollouts came to the critic, with rewards 1 and 0; the third, with 0, did not."""
    pieces = [handmade.prompt(2), wrote("plan", 0), wrote("critic", 1), handmade.env(3)]
    given = traces(1, 0, 0, None)
    given = [
        replace(trace, segments=tuple(pieces[: 4 if place != 2 else 2])) for place, trace in enumerate(given)
    ]
    credited = assign_credit(given, method(credit="node", negative_weight=0.5))
    assert [trace.advantage for trace in credited.traces] == [
        *map(pytest.approx, [2 / 3, -1 / 6, -1 / 6]),
        None,
    ]
    of_nodes = [[s.advantage for s in trace.segments] for trace in credited.traces]
    assert of_nodes[0] == [None, pytest.approx(2 / 3), 0.5, None]
    assert of_nodes[1] == [None, pytest.approx(-1 / 6), -0.25, None]
    assert of_nodes[2] == [None, pytest.approx(-1 / 6)]
    assert of_nodes[3] == [None] * 4
