"""Several seeds as one line, and the charts of a matrix."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.compare.curves import band, cost_charts, learning_charts, method_charts, pass_at_charts
from aipo.compare.matrix import read_matrix
from aipo.compare.results import ArmResult, MatrixResults, read_results
from aipo.compare.standings import compute_standings
from aipo.render.charts import Chart
from kit.matrices import finish_all, matrix_file


def test_a_line_is_the_median_between_the_least_and_the_most() -> None:
    line = band([[(1, 0.0), (2, 0.4)], [(1, 0.2), (2, 0.5)], [(1, 1.0), (2, 0.6)]], name="a", colour="c1")
    assert (line.x, line.y) == ([1, 2], [0.2, 0.5])
    assert line.band == [(0.0, 1.0), (0.4, 0.6)]


def test_one_seed_has_its_single_values_for_a_band_and_none_no_line() -> None:
    values = [0.0, 1.0] * 30
    line = band([list(enumerate(values))], name="a", colour="c1")
    assert line.band == () and line.raw == values and line.y != values
    assert band([], name="a", colour="c1").x == band([[]], name="a", colour="c1").x == ()


def test_seeds_that_counted_differently_meet_on_one_axis() -> None:
    slow, fast = [(0.0, 0.0), (10.0, 1.0)], [(0.0, 0.0), (20.0, 1.0)]
    line = band([slow, fast], name="a", colour="c1")
    assert (line.x[0], line.x[-1]) == (0.0, 10.0)  # what the shorter one has not seen is not said
    assert line.band[-1] == (0.5, 1.0) and line.y[-1] == 0.75


@given(st.lists(st.lists(st.floats(0, 1), min_size=45, max_size=45), min_size=1, max_size=4))
def test_a_smooth_line_stays_within_its_points(seeds: list[list[float]]) -> None:
    line = band([list(enumerate(values)) for values in seeds], name="a", colour="c1")
    everything = [value for values in seeds for value in values]
    assert all(y is not None and min(everything) - 1e-9 <= y <= max(everything) + 1e-9 for y in line.y)
    if len(seeds) == 1:
        assert line.band == ()
    else:
        assert all(low <= y <= high for (low, high), y in zip(line.band, line.y, strict=True))


TEXT = """
seeds: [10, 11]
set: [evaluate.samples=4, "evaluate.ks=[1, 4]"]
arms:
  grpo: {config: grpo}
  aipo_with_a_long_name: {config: aipo}
"""


@pytest.fixture
def charts(tmp_path: Path) -> dict[str, Chart]:
    matrix = read_matrix(matrix_file(tmp_path, TEXT))
    finish_all(matrix, {"grpo": 0.1, "aipo_with_a_long_name": 0.8}, facts=4)
    results = read_results(matrix)
    made = [
        *learning_charts(matrix, results),
        *cost_charts(matrix, results, {}),
        *pass_at_charts(matrix, compute_standings(matrix, results), {"easy": "Easy ones"}),
    ]
    return {chart.title: chart for chart in made}


def names(chart: Chart) -> list[str]:
    return [line.name for line in chart.lines if not line.empty]


def test_each_question_has_its_chart(charts: dict[str, Chart]) -> None:
    assert list(charts) == [
        "Solo, while training",
        "Solo, against generated tokens",
        "With agents, while training",
        "easy_train, solo, while training",
        "hard, solo, while training",
        "Solo, against agents' calls",
        "After training, against generated tokens",
        "After training, against agents' calls",
        "heldout, solo",
        "heldout, solo, consult tags suppressed",
        "Easy ones, solo",
        "Easy ones, solo, consult tags suppressed",
    ]


def test_axes_count_in_words(charts: dict[str, Chart]) -> None:
    generated = charts["Solo, against generated tokens"]
    assert generated.x_label == "tokens that the policy generated, thousands"
    assert generated.lines[0].x[-1] == pytest.approx(20 * 64 * 21 / 1000)  # the shorter of both seeds
    assert charts["Solo, against agents' calls"].x_label == "calls of agents' models"


def test_an_arm_that_asks_nobody_has_no_line_over_calls(charts: dict[str, Chart]) -> None:
    assert names(charts["Solo, while training"]) == ["grpo", "aipo_with_a_long_name"]
    assert names(charts["Solo, against agents' calls"]) == ["aipo_with_a_long_name"]
    assert names(charts["With agents, while training"]) == ["aipo_with_a_long_name"]


def test_every_seed_is_a_dot_and_every_curve_has_a_band(charts: dict[str, Chart]) -> None:
    dots = [line for line in charts["After training, against generated tokens"].lines if not line.empty]
    assert [(line.colour, line.joined, len(line.x)) for line in dots] == [("c1", False, 2), ("c2", False, 2)]
    assert all(line.band for line in charts["Solo, while training"].lines)
    passed = charts["heldout, solo"]
    assert names(passed) == ["before", "grpo", "aipo_with_a_long_name"] and passed.log
    assert [line.colour for line in passed.lines] == ["c0", "c1", "c2"]
    assert all(len(line.band) == len(line.x) == 2 for line in passed.lines)


def test_an_agent_has_the_colour_of_its_place_and_gaps_are_left_out() -> None:
    rows = [{"step": i, "consults/verify": 1.0, "consults/zeno": None if i else 0.5} for i in range(3)]
    results = MatrixResults(
        finished=(ArmResult(arm="aipo", seed=0, evaluation={}, metrics=rows),), missing=()
    )
    asked, loss = method_charts(results, "aipo", ["knowledge", "verify", "zeno"])
    assert [(line.name, line.colour, list(line.x)) for line in asked.lines] == [
        ("verify", "k1", [1.0, 2.0, 3.0]),
        ("zeno", "k2", [1.0]),
    ]
    assert loss.lines == []
