"""Plans and draws: which rollouts, of which tasks, and the same ones again after a resume."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import ConfigError, TaskError
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.method.task_order import draw_tasks
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode
from kit.engines import Exam, task


def plan(
    count: int = 1, *, step: int = 3, group_size: int = 8, seed: int = 0, **settings: Any
) -> list[RolloutSpec]:
    method = MethodSettings(**({"suppress_share": 0.25} | settings))
    tasks = [task(f"t{i}") for i in range(count)]
    return plan_rollouts(tasks, method, step=step, steps=5, group_size=group_size, seed=seed)


def letters(specs: list[RolloutSpec]) -> str:
    """`a`ssisted, `s`olo, `f` for solo without tags, `e`xpert."""
    return "".join("f" if s.suppress else s.mode.value[0] for s in specs)


def test_groups_are_numbered_by_task_and_their_rollouts_by_place():
    specs = plan(2, group_size=2)
    assert [(s.task.task_id, s.group_id, s.index, s.step) for s in specs] == [
        ("t0", "00003-000", 0, 3),
        ("t0", "00003-000", 1, 3),
        ("t1", "00003-001", 0, 3),
        ("t1", "00003-001", 1, 3),
    ]


@pytest.mark.parametrize(
    ("size", "assist", "suppress", "modes", "more"),
    [
        (1, 0.5, 0.0, "a", {}),  # 0.5 rounds up
        (3, 0.5, 0.5, "aaf", {}),  # 1.5 → 2; 0.5 → 1
        (4, 0.0, 1.0, "ffff", {}),
        (4, 1.0, 1.0, "aaaa", {}),
        (4, 0.3, 0.0, "asss", {}),  # 1.2 → 1
        (10, 0.15, 0.0, "aassssssss", {}),  # 1.5 → 2, although 0.15 is less than 15/100 in binary
        (8, 0.5, 0.25, "aaaasssf", {}),
        (8, 0.0, 0.0, "ssssssse", {"plan": "expert"}),  # LUFFY: seven are sampled, one is shown
        # shares are of the six that are sampled: 3, and 1.5 → 2 of 3
        (8, 0.5, 0.5, "aaasffee", {"plan": "expert", "demonstrations": 2}),
        (4, 0.5, 0.5, "eeee", {"plan": "expert", "demonstrations": 4}),
        (1, 0.0, 0.0, "e", {"plan": "expert", "demonstrations": 1}),
    ],
)
def test_shares_are_rounded_half_up_and_the_last_are_shown(
    size: int, assist: float, suppress: float, modes: str, more: dict[str, Any]
):
    assert letters(plan(group_size=size, assist_share=assist, suppress_share=suppress, **more)) == modes


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**40))
def test_seeds_differ_and_depend_on_nothing_else(step: int, count: int, size: int, seed: int):
    specs = plan(count, step=step, group_size=size, seed=seed)
    seeds = [s.seed for s in specs]
    assert len(set(seeds)) == len(specs) == count * size
    assert seeds[:size] == [s.seed for s in plan(1, step=step, group_size=size, seed=seed)]
    assert seeds[0] not in {s.seed for s in plan(count, step=step + 1, group_size=size, seed=seed)}


def test_what_is_sampled_beside_a_demonstration_is_what_would_be_sampled_without():
    alone = plan(2, assist_share=0.0, suppress_share=0.0)
    beside = plan(2, plan="expert", assist_share=0.0, suppress_share=0.0)
    assert [s.seed for s in beside] == [s.seed for s in alone]
    assert [s for s in beside if s.mode is not Mode.EXPERT] == [s for s in alone if s.index < 7]


@pytest.mark.parametrize(
    ("end", "shares"), [(None, "44444"), (0.0, "43210"), (1.0, "45678"), (0.25, "44332")]
)
def test_the_share_of_agents_moves_in_a_straight_line(end: float | None, shares: str):
    by_step = [plan(step=step, assist_share_end=end) for step in range(5)]
    assert "".join(str(letters(specs).count("a")) for specs in by_step) == shares


@pytest.mark.parametrize(("end", "shares"), [(None, "11111"), (0.0, "11100"), (1.0, "12334")])
def test_suppressed_rollouts_can_come_late(end: float | None, shares: str):
    """A quarter of the four solo rollouts at first; with 1.0 all of them in the last step."""
    by_step = [plan(step=step, suppress_share_end=end) for step in range(5)]
    assert "".join(str(letters(specs).count("f")) for specs in by_step) == shares
    assert {len(specs) for specs in by_step} == {8}


@pytest.mark.parametrize(
    ("steps", "grants"),
    [(None, [1, 1, 1, 1]), (1.0, [1, 1 / 2, 1 / 3, 1 / 4]), (3.0, [1, 3 / 4, 3 / 5, 1 / 2])],
)
def test_requests_are_granted_less_and_less_often(steps: float | None, grants: list[float]):
    by_step = [plan(step=step, grant_steps=steps) for step in range(4)]
    assert [specs[0].grant for specs in by_step] == pytest.approx(grants)
    assert {spec.grant for specs in by_step for spec in specs if spec.mode is not Mode.ASSISTED} == {1.0}


# --- drawing ----------------------------------------------------------------------------------------------


def draw(count: int, step: int, seed: int = 0, **mixture: float) -> list[str]:
    return [t.task_id for t in draw_tasks(Exam(), mixture or {"easy": 1.0}, count, step=step, seed=seed)]


@given(st.integers(1, 7), st.integers(0, 5), st.integers(0, 1000))
def test_a_split_is_gone_through_before_it_repeats(count: int, epochs: int, seed: int):
    drawn = [name for step in range(5 * (epochs + 1)) for name in draw(count, step, seed)]
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == ["easy0", "easy1", "easy2", "easy3", "easy4"]


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    assert len({tuple(draw(5, step, seed)) for step in range(5) for seed in range(5)}) > 15


@pytest.mark.parametrize(
    ("count", "mixture", "easy", "hard"),
    [
        (4, {"easy": 0.5, "hard": 0.5}, 2, 2),
        (3, {"easy": 0.5, "hard": 0.5}, 2, 1),  # a tie goes to the earlier one
        (3, {"hard": 0.5, "easy": 0.5}, 1, 2),
        (10, {"easy": 0.66, "hard": 0.34}, 7, 3),  # 6.6 and 3.4
        (3, {"easy": 1.0, "hard": 0.0}, 3, 0),
        (100, {"easy": 0.29, "hard": 0.71}, 29, 71),  # 0.29 * 100 is 28.999999999999996
    ],
)
def test_splits_share_a_step_by_largest_remainder(
    count: int, mixture: dict[str, float], easy: int, hard: int
):
    for step in range(3):
        assert Counter(name[:4] for name in draw(count, step, **mixture)) == Counter(easy=easy, hard=hard)


@pytest.mark.parametrize(
    ("mixture", "error", "reason"),
    [
        ({"easy": 1.5, "hard": -0.5}, ConfigError, "share of split 'easy': got 1.5, allowed 0 to 1"),
        ({"easy": 0.5}, ConfigError, "sum of shares: got 0.5, allowed 1"),
        ({}, ConfigError, "sum of shares: got 0"),
        ({"easi": 1.0}, ConfigError, "split: got 'easi', allowed ['easy', 'hard', 'none']"),
        ({"easy": 0.9, "hard": 0.1}, ConfigError, "tasks of split 'hard' in a step: got 0, allowed >= 1"),
        ({"none": 1.0}, TaskError, "tasks of split 'none': got 0, allowed >= 1"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(
    mixture: dict[str, float], error: type[Exception], reason: str
):
    with pytest.raises(error) as caught:
        draw_tasks(Exam(), mixture, 2, step=0, seed=0)
    assert str(caught.value).startswith(reason)


def test_a_task_needs_a_question():
    with pytest.raises(TaskError, match="prompt of task 'empty': got ' ', allowed non-empty text"):
        task("empty", prompt=" ")
