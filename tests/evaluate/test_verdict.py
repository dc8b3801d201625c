"""Verdicts: means, paired differences, ties and winners, on numbers that can be checked by eye."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.evaluate.verdict import Estimate, Sample, Scored, difference, estimate, judge, winner


def sample(*seeds: Mapping[str, float]) -> Sample:
    """Seeds 10, 11, ...: by task, which is its own fact."""
    return {
        10 + i: {name: Scored(name, value) for name, value in tasks.items()} for i, tasks in enumerate(seeds)
    }


def flat(value: float, seeds: int = 3, tasks: int = 4) -> Sample:
    return sample(*({f"t{i}": value for i in range(tasks)} for _ in range(seeds)))


def test_a_mean_over_tasks_and_the_median_over_seeds() -> None:
    one = estimate(sample({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.2}))
    assert one is not None
    assert one.mean == pytest.approx(3.2 / 6)
    assert one.by_seed == {10: 0.5, 11: 1.0, 12: pytest.approx(0.1)}
    assert (one.median, one.least, one.most) == (0.5, pytest.approx(0.1), 1.0)
    assert one.interval is not None and one.interval[0] < one.mean < one.interval[1]


def test_nothing_has_no_mean_and_one_task_no_interval() -> None:
    assert estimate({}) is None and estimate({10: {}}) is None
    assert estimate({10: {}, 11: {"a": Scored("a", 0.5)}}) == Estimate(
        mean=0.5, interval=None, by_seed={11: 0.5}
    )


def test_seeds_alone_have_an_interval() -> None:
    one = estimate(sample({"a": 0.0}, {"a": 1.0}))
    assert one is not None and one.interval == (0.0, 1.0)


def test_a_difference_is_taken_task_by_task_of_the_seeds_that_both_have() -> None:
    first = sample({"a": 0.5, "b": 0.9, "c": 1.0}, {"a": 1.0})
    second = sample({"a": 0.25, "b": 1.0}, {"d": 0.0}, {"a": 0.0})
    paired = difference(first, second)
    # a: +.25, b: -.1; c is not in the second, seed 11 shares no task, seed 12 is not in the first.
    assert paired is not None
    assert paired.mean == pytest.approx(0.075) and paired.by_seed == {10: pytest.approx(0.075)}
    assert difference(first, {}) is None


def test_a_pair_that_moves_together_differs_for_sure() -> None:
    hard = sample({"a": 0.0, "b": 0.8}, {"a": 0.1, "b": 0.9})
    easier = {seed: {n: Scored(s.cluster, s.value + 0.1) for n, s in t.items()} for seed, t in hard.items()}
    one, other = estimate(hard), estimate(easier)
    assert one is not None and other is not None and one.interval is not None and other.interval is not None
    assert one.interval[1] > other.interval[0]  # each by itself says nothing
    paired = difference(easier, hard)
    assert paired is not None and paired.interval == pytest.approx((0.1, 0.1))
    assert judge(paired) == "better" and judge(difference(hard, easier)) == "worse"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.2), "better"),
        ((-0.2, -0.01), "worse"),
        ((-0.1, 0.1), "tie"),
        ((0.0, 0.1), "tie"),
        (None, None),
    ],
)
def test_a_tie_is_an_interval_that_holds_0(interval: tuple[float, float] | None, verdict: str | None) -> None:
    assert judge(Estimate(mean=0.1, interval=interval, by_seed={10: 0.1, 11: 0.1})) == verdict
    assert judge(Estimate(mean=0.1, interval=interval, by_seed={10: 0.1})) is None  # one seed


def test_without_a_difference_there_is_no_verdict() -> None:
    assert judge(None) is None


def test_the_simplest_of_those_that_tie_with_the_best_wins() -> None:
    noisy = sample({"a": 0.9, "b": 0.5, "c": 0.7}, {"a": 0.5, "b": 0.9, "c": 0.7})
    arms = {"bad": sample(*[{"a": 0.1, "b": 0.1, "c": 0.1}] * 2), "simple": noisy}
    arms["clever"] = sample({"a": 0.5, "b": 0.9, "c": 0.75}, {"a": 0.9, "b": 0.5, "c": 0.75})
    won = winner(arms)
    assert won is not None
    assert (won.name, won.best, won.tied) == ("simple", "clever", ("simple", "clever"))


def test_the_best_wins_where_nobody_ties_with_it() -> None:
    won = winner({"simple": flat(0.5), "clever": flat(0.75), "worst": flat(0.0)})
    assert won is not None and (won.name, won.tied) == ("clever", ("clever",))


def test_what_no_interval_tells_apart_ties() -> None:
    won = winner({"simple": flat(0.5, 1, 1), "clever": flat(0.75, 1, 1)})
    assert won is not None and (won.name, won.best) == ("simple", "clever")


def test_equals_tie_and_the_first_is_the_best() -> None:
    won = winner({"simple": flat(0.5), "clever": flat(0.5), "missing": {}})
    assert won is not None and (won.name, won.best, won.tied) == ("simple", "simple", ("simple", "clever"))


def test_nothing_measured_has_no_winner() -> None:
    assert winner({}) is None and winner({"simple": {}}) is None


SAMPLES = st.integers(2, 3).flatmap(
    lambda seeds: st.lists(
        st.fixed_dictionaries({name: st.floats(0, 1) for name in "abc"}), min_size=seeds, max_size=seeds
    )
)


@given(SAMPLES, SAMPLES)
def test_a_difference_turned_round_is_its_negative(
    one: list[dict[str, float]], two: list[dict[str, float]]
) -> None:
    two = two[: len(one)]
    one = one[: len(two)]
    forth, back = difference(sample(*one), sample(*two)), difference(sample(*two), sample(*one))
    assert forth is not None and back is not None
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))  # type: ignore[index]
    assert {judge(forth), judge(back)} in ({"tie"}, {"better", "worse"})


@given(SAMPLES)
def test_nobody_beats_itself(one: list[dict[str, float]]) -> None:
    won = winner({"first": sample(*one), "again": sample(*one)})
    assert judge(difference(sample(*one), sample(*one))) == "tie"
    assert won is not None and won.name == "first" and won.tied == ("first", "again")
