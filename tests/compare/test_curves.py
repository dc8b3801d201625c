"""Bands: several seeds as one line, and the charts of a matrix."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.compare.curves import band, cost_charts, learning_charts, pass_at_charts
from aipo.compare.matrix import read_matrix
from aipo.compare.results import read_outcomes
from aipo.compare.standings import stand
from kit.matrices import finish_all, matrix_file


def test_a_line_is_the_median_between_the_least_and_the_most() -> None:
    line = band([[(1, 0.0), (2, 0.4)], [(1, 0.2), (2, 0.5)], [(1, 1.0), (2, 0.6)]], name="a", colour="c1")
    assert (line.x, line.y) == ([1, 2], [0.2, 0.5])
    assert line.band == [(0.0, 1.0), (0.4, 0.6)]


def test_one_seed_has_no_band_and_none_no_line() -> None:
    assert band([[(1, 0.5)]], name="a", colour="c1").band == ()
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
def charts(tmp_path: Path) -> dict[str, str]:
    matrix = read_matrix(matrix_file(tmp_path, TEXT))
    finish_all(matrix, {"grpo": 0.1, "aipo_with_a_long_name": 0.8}, facts=4)
    outcomes = read_outcomes(matrix)
    colours = {"before": "c0", "grpo": "c1", "aipo_with_a_long_name": "c2"}
    drawn = [
        *learning_charts(matrix, outcomes, colours),
        *cost_charts(matrix, outcomes, colours),
        *pass_at_charts(matrix, stand(matrix, outcomes), colours),
    ]
    return {ElementTree.fromstring(svg).attrib["aria-label"]: svg for svg in drawn}


def names(svg: str) -> list[str]:
    return re.findall(r'<text class="name [^>]*>([^<]*)<', svg)


def test_each_question_has_its_chart(charts: dict[str, str]) -> None:
    assert list(charts) == [
        "Alone, while training",
        "Alone, against what was generated",
        "With agents, while training",
        "easy_train, alone, while training",
        "hard, alone, while training",
        "Alone, against agents' calls",
        "After training, against what was generated",
        "After training, against agents' calls",
        "heldout, alone",
        "heldout, alone, consult tags forbidden",
        "easy, alone",
        "easy, alone, consult tags forbidden",
    ]


def test_axes_count_in_words(charts: dict[str, str]) -> None:
    assert "tokens that the policy generated, thousands" in charts["Alone, against what was generated"]
    assert "calls of agents' models<" in charts["Alone, against agents' calls"].replace("&#x27;", "'")


def test_an_arm_that_asks_nobody_has_no_line_over_calls(charts: dict[str, str]) -> None:
    assert names(charts["Alone, while training"]) == ["aipo_with_a_long_…", "grpo"]
    assert names(charts["Alone, against agents' calls"]) == ["aipo_with_a_long_…"]
    assert names(charts["With agents, while training"]) == ["aipo_with_a_long_…"]


def test_every_seed_is_a_dot_and_every_curve_has_a_band(charts: dict[str, str]) -> None:
    dots = charts["After training, against what was generated"]
    assert dots.count("<circle") == 4 and 'class="line' not in dots
    assert charts["Alone, while training"].count('class="band') == 2
    assert charts["heldout, alone"].count('class="band') == 3
