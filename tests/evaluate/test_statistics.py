"""Intervals, means, paired differences, ties and winners: literals that can be counted by hand, and properties."""

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aipo.errors import ConfigError
from aipo.evaluate.statistics import (
    Estimate,
    Sample,
    Scored,
    bootstrap_interval,
    difference,
    estimate,
    judge,
    winner,
)


@pytest.mark.parametrize(
    ("values", "clusters", "runs", "interval"),
    [
        # Two clusters, one all 0 and one all 1: a resample has mean 0 (1/4), 1/2 (1/2) or 1 (1/4).
        ([0, 0, 1, 1], "aabb", None, (0.0, 1.0)),
        ([0.25] * 6, "abcdef", None, (0.25, 0.25)),
        # Facts alone: twice a is (0 + .2) / 2, twice b is (1 + .6) / 2.
        ([0.0, 1.0, 0.2, 0.6], "abab", None, (0.1, 0.8)),
        # Of 16 equally likely resamples one has run 1 and a only, which is 0, and one run 1 and b only, which is 1.
        ([0.0, 1.0, 0.2, 0.6], "abab", [1, 1, 2, 2], (0.0, 1.0)),
        ([0.0, 1.0], "aa", [1, 2], (0.0, 1.0)),
        # Run 1 knows only a, run 2 only b: twice run 1 and twice b is nothing, which has no mean.
        ([0.25, 0.75], "ab", [1, 2], (0.25, 0.75)),
    ],
)
def test_intervals_by_hand(
    values: list[float], clusters: str, runs: Sequence[int] | None, interval: tuple[float, float]
) -> None:
    assert bootstrap_interval(values, list(clusters), 0, runs=runs) == pytest.approx(interval)


def test_resamples_are_those_that_can_be_counted_out() -> None:
    """Against every resample of three facts and two runs: 27 draws of facts times 4 of runs, equally likely."""
    table = {1: [0.1, 0.5, 0.9], 2: [0.3, 0.2, 0.8]}
    every = sorted(
        sum(table[run][fact] for run in runs for fact in facts) / 6
        for facts in ((a, b, c) for a in range(3) for b in range(3) for c in range(3))
        for runs in ((a, b) for a in (1, 2) for b in (1, 2))
    )
    assert len(every) == 108
    low, high = bootstrap_interval(
        [*table[1], *table[2]], list("abcabc"), 0, runs=[1, 1, 1, 2, 2, 2], resamples=50_000
    )
    # 2.5 % of 108 are 2.7 of them.
    assert low == pytest.approx(every[2]) and high == pytest.approx(every[-3])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc"), st.integers(0, 2)), min_size=2, max_size=20),
    st.randoms(use_true_random=False),
)
def test_the_order_of_items_does_not_matter(rows: list[tuple[float, str, int]], rng: random.Random) -> None:
    def interval() -> tuple[float, float]:
        values, clusters, runs = zip(*rows, strict=True)
        return bootstrap_interval(values, clusters, 0, runs=runs, resamples=50)

    assume(len({cluster for _, cluster, _ in rows}) > 1 or len({run for *_, run in rows}) > 1)
    before = interval()
    values = [value for value, _, _ in rows]
    assert min(values) - 1e-9 <= before[0] <= before[1] <= max(values) + 1e-9
    rng.shuffle(rows)
    assert interval() == pytest.approx(before)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Facts and runs that both move the mean: 95 % is not reached with 8 runs, and not missed by far."""
    rng = random.Random(1)
    held = 0
    for trial in range(200):
        of_fact = [rng.gauss(0, 1) for _ in range(30)]
        of_run = [rng.gauss(0, 0.3) for _ in range(8)]
        rows = [
            (fact + run + rng.gauss(0, 1), str(i), j)
            for i, fact in enumerate(of_fact)
            for j, run in enumerate(of_run)
        ]
        values, clusters, runs = zip(*rows, strict=True)
        low, high = bootstrap_interval(values, clusters, trial, runs=runs, resamples=200)
        held += low <= 0 <= high
    assert 176 <= held <= 200


@pytest.mark.parametrize("clusters", [["a", "a"], ["a"], ["a", "b", "c"]])
def test_an_interval_needs_two_clusters_and_one_for_each_value(clusters: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least two clusters or two runs"):
        bootstrap_interval([0.0, 1.0], clusters, 0)


def sample(*seeds: Mapping[str, float]) -> Sample:
    """Seeds 10, 11, ...: by task, which is its own fact."""
    return {
        10 + i: {name: Scored(name, value) for name, value in tasks.items()} for i, tasks in enumerate(seeds)
    }


def test_a_mean_over_tasks_and_the_median_over_seeds() -> None:
    one = estimate(sample({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.2}))
    assert one is not None
    assert one.mean == pytest.approx(3.2 / 6)
    assert one.by_seed == {10: 0.5, 11: 1.0, 12: pytest.approx(0.1)}
    assert (one.median, one.least, one.most) == (0.5, pytest.approx(0.1), 1.0)
    assert one.interval is not None and one.interval[0] < one.mean < one.interval[1]


def test_nothing_has_no_mean_and_one_task_no_interval() -> None:
    assert estimate({}) is None and estimate({10: {}}) is None and difference(sample({"a": 1.0}), {}) is None
    one = estimate({10: {}, 11: {"a": Scored("a", 0.5)}})
    assert one == Estimate(mean=0.5, interval=None, by_seed={11: 0.5})


def test_a_difference_is_taken_task_by_task_of_the_seeds_that_both_have() -> None:
    first = sample({"a": 0.5, "b": 0.9, "c": 1.0}, {"a": 1.0})
    second = sample({"a": 0.25, "b": 1.0}, {"d": 0.0}, {"a": 0.0})
    paired = difference(first, second)
    # a: +.25, b: -.1; c is not in the second, seed 11 shares no task, seed 12 is not in the first.
    assert paired is not None
    assert paired.mean == pytest.approx(0.075) and paired.by_seed == {10: pytest.approx(0.075)}


def test_a_pair_that_moves_together_differs_for_sure() -> None:
    hard, easier = ({"a": 0.0, "b": 0.8}, {"a": 0.1, "b": 0.9}), ({"a": 0.1, "b": 0.9}, {"a": 0.2, "b": 1.0})
    one, other = estimate(sample(*hard)), estimate(sample(*easier))
    assert one is not None and other is not None and one.interval is not None and other.interval is not None
    assert one.interval[1] > other.interval[0]  # each by itself says nothing
    paired = difference(sample(*easier), sample(*hard))
    assert paired is not None and paired.interval == pytest.approx((0.1, 0.1))


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
    assert judge(None) is None


def flat(value: float, seeds: int = 3, tasks: int = 4) -> Sample:
    return sample(*({f"t{i}": value for i in range(tasks)} for _ in range(seeds)))


NOISY = sample({"a": 0.9, "b": 0.5, "c": 0.7}, {"a": 0.5, "b": 0.9, "c": 0.7})
NOISIER = sample({"a": 0.5, "b": 0.9, "c": 0.75}, {"a": 0.9, "b": 0.5, "c": 0.75})


@pytest.mark.parametrize(
    ("arms", "best", "tied"),
    [
        # the simplest of those that tie with the best wins
        (
            {"bad": sample(*[dict.fromkeys("abc", 0.1)] * 2), "simple": NOISY, "clever": NOISIER},
            "clever",
            ("simple", "clever"),
        ),
        ({"simple": flat(0.5), "clever": flat(0.75), "worst": flat(0.0)}, "clever", ("clever",)),
        # what no interval tells apart ties
        ({"simple": flat(0.5, 1, 1), "clever": flat(0.75, 1, 1)}, "clever", ("simple", "clever")),
        # of equals the first is the best
        ({"simple": flat(0.5), "clever": flat(0.5), "missing": {}}, "simple", ("simple", "clever")),
    ],
)
def test_the_winner(arms: dict[str, Sample], best: str, tied: tuple[str, ...]) -> None:
    won = winner(arms)
    assert won is not None and (won.name, won.best, won.tied) == (tied[0], best, tied)


def test_nothing_measured_has_no_winner() -> None:
    assert winner({}) is None and winner({"simple": {}}) is None


SAMPLES = st.lists(st.fixed_dictionaries({name: st.floats(0, 1) for name in "abc"}), min_size=2, max_size=2)


@given(SAMPLES, SAMPLES)
def test_a_difference_turned_round_is_its_negative(
    one: list[dict[str, float]], two: list[dict[str, float]]
) -> None:
    forth, back = difference(sample(*one), sample(*two)), difference(sample(*two), sample(*one))
    assert forth is not None and back is not None and back.interval is not None
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert {judge(forth), judge(back)} in ({"tie"}, {"better", "worse"})
