"""Several seeds as one line, and the charts of a matrix."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.compare.curves import band, cost_charts, learning_charts, method_charts, pass_at_charts
from aipo.compare.results import ArmResult, MatrixResults, read_results
from aipo.compare.standings import compute_standings
from aipo.render.charts import Chart, Line
from kit.matrices import make_matrix


def line(*curves: list[tuple[float, float]]) -> Line:
    return band(curves, name="a", colour="c1")


def test_a_line_is_the_median_between_the_least_and_the_most() -> None:
    one = line([(1, 0.0), (2, 0.4)], [(1, 0.2), (2, 0.5)], [(1, 1.0), (2, 0.6)])
    assert (one.x, one.y) == ([1, 2], [0.2, 0.5])
    assert one.band == [(0.0, 1.0), (0.4, 0.6)]


def test_one_seed_has_its_single_values_for_a_band_and_none_no_line() -> None:
    values = [0.0, 1.0] * 30
    one = line(list(enumerate(values)))
    assert one.band == () and one.raw == values and one.y != values
    assert line().x == line([]).x == ()


def test_seeds_that_counted_differently_meet_on_one_axis() -> None:
    one = line([(0.0, 0.0), (10.0, 1.0)], [(0.0, 0.0), (20.0, 1.0)])
    assert (one.x[0], one.x[-1]) == (0.0, 10.0)  # what the shorter one has not seen is not said
    assert one.band[-1] == (0.5, 1.0) and one.y[-1] == 0.75


@given(st.lists(st.lists(st.floats(0, 1), min_size=45, max_size=45), min_size=2, max_size=4))
def test_a_smooth_line_stays_within_its_points(seeds: list[list[float]]) -> None:
    one = line(*(list(enumerate(values)) for values in seeds))
    everything = [value for values in seeds for value in values]
    assert all(y is not None and min(everything) - 1e-9 <= y <= max(everything) + 1e-9 for y in one.y)
    assert all(low <= y <= high for (low, high), y in zip(one.band, one.y, strict=True))


TEXT = """
seeds: [10, 11]
set: [evaluate.samples=4, "evaluate.ks=[1, 4]"]
arms:
  grpo: {config: grpo}
  aipo_with_a_long_name: {config: aipo}
"""


@pytest.fixture
def charts(tmp_path: Path) -> dict[str, Chart]:
    matrix = make_matrix(tmp_path, TEXT, {"grpo": 0.1, "aipo_with_a_long_name": 0.8}, facts=4)
    results = read_results(matrix)
    passed = pass_at_charts(matrix, compute_standings(matrix, results), {"easy": "Easy ones"})
    several = (*learning_charts(matrix, results), *cost_charts(matrix, results, {}), *passed)
    return {chart.title: chart for chart in several}


def test_each_question_has_its_chart(charts: dict[str, Chart]) -> None:
    assert list(charts) == [
        "Solo, while training", "Solo, against generated tokens", "With agents, while training",
        "With agents, against generated tokens", "With agents, against consults",
        "easy_train, solo, while training", "hard, solo, while training", "Solo, against consults",
        "After training, solo, against generated tokens", "After training, solo, against consults",
        "After training, with agents, against generated tokens", "After training, with agents, against consults",
        "heldout, solo", "heldout, solo, consult tags suppressed",
        "Easy ones, solo", "Easy ones, solo, consult tags suppressed",
    ]  # fmt: skip
    generated = charts["Solo, against generated tokens"]
    assert generated.x_label == "tokens that the policy generated, thousands"
    assert generated.lines[0].x[-1] == pytest.approx(20 * 64 * 21 / 1000)  # the shorter of both seeds
    assert charts["Solo, against consults"].x_label == "requests to agents"


def test_accuracy_with_agents_stands_against_consults_where_it_is_evaluated(tmp_path: Path) -> None:
    def charts(settings: str) -> dict[str, Chart]:
        text = TEXT.replace("set: [", f'set: ["evaluate.settings={settings}", ')
        matrix = make_matrix(tmp_path, text, {"grpo": 0.1, "aipo_with_a_long_name": 0.8}, facts=4)
        return {chart.title: chart for chart in cost_charts(matrix, read_results(matrix), {})}

    name = "After training, with agents, against consults"
    arm = charts("[solo, assisted]")[name].lines[1]
    assert list(arm.x) == [160.0, 160.0]  # 20 rollout steps of 32 assisted rollouts that ask 0.25 times
    assert all(y is not None and y > 0.7 for y in arm.y)
    assert name not in charts("[solo]")


def test_every_arm_has_its_line_with_a_band_and_every_seed_its_dot(charts: dict[str, Chart]) -> None:
    def lines(title: str) -> dict[str, Line]:
        return {line.name: line for line in charts[title].lines if not line.empty}

    both = ["grpo", "aipo_with_a_long_name"]
    learning = lines("Solo, while training")
    assert list(learning) == both and all(line.band for line in learning.values())
    assert list(lines("Solo, against consults")) == both[1:]  # grpo asks nobody
    assert list(lines("With agents, while training")) == both[1:]
    dots = lines("After training, solo, against generated tokens")
    looks = [(name, line.colour, line.joined, len(line.x)) for name, line in dots.items()]
    assert looks == [(both[0], "c1", False, 2), (both[1], "c2", False, 2)]
    passed = lines("heldout, solo")
    colours = {name: line.colour for name, line in passed.items()}
    assert colours == {"before": "c0", both[0]: "c1", both[1]: "c2"}
    assert all(len(line.band) == len(line.x) == 2 for line in passed.values()) and charts["heldout, solo"].log


def test_an_agent_has_the_colour_of_its_place_and_gaps_are_left_out() -> None:
    rows = [{"step": i, "consults/verify": 1.0, "consults/zeno": None if i else 0.5} for i in range(3)]
    one = ArmResult(arm="aipo", seed=0, evaluation={}, metrics=rows)
    results = MatrixResults(finished=(one,), missing=())
    asked, loss = method_charts(results, "aipo", ["knowledge", "verify", "zeno"])
    agents = [(line.name, line.colour, list(line.x)) for line in asked.lines]
    assert agents == [("verify", "k1", [1.0, 2.0, 3.0]), ("zeno", "k2", [1.0])]
    assert loss.lines == []
