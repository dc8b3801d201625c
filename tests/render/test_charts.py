"""The line chart: what is drawn is where the numbers say."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    chart,
    nice_ticks,
    smooth,
    spread,
)

FLOOR = HEIGHT - BOTTOM


def draw(*lines: Line, **rest: object) -> str:
    return chart(lines, title="a < b", x_label="step", y_label="reward", **rest)  # type: ignore[arg-type]


def paths(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind} \w+" d="([^"]*)"', svg)


def test_a_line_runs_from_corner_to_corner() -> None:
    svg = draw(Line(name="up", colour="c1", x=[0, 10], y=[0, 1]), y_range=(0, 1))
    assert paths(svg, "line") == [f"M{LEFT:.1f} {FLOOR:.1f}L{WIDTH - RIGHT:.1f} {TOP:.1f}"]
    ElementTree.fromstring(svg)
    assert "a &lt; b" in svg and ">step<" in svg and ">reward<" in svg and ">up<" in svg


def test_between_steps_there_is_no_tick() -> None:
    few, many = (draw(Line(name="a", colour="c1", x=[0, last], y=[0, 1])) for last in (2, 200))
    assert re.findall(r'<text class="tick mid"[^>]*>([^<]*)<', few) == ["0", "1", "2"]
    assert re.findall(r'<text class="tick mid"[^>]*>([^<]*)<', many) == ["0", "50", "100", "150", "200"]


def test_small_multiples_share_an_axis_and_a_size() -> None:
    late = Line(name="late", colour="c1", x=[5, 10], y=[0, 1])
    svg = draw(late, x_range=(0, 10), y_range=(0, 1), size=(200, 150))
    middle, right = LEFT + (200 - LEFT - RIGHT) / 2, 200 - RIGHT
    assert paths(svg, "line") == [f"M{middle:.1f} {150 - BOTTOM:.1f}L{right:.1f} {TOP:.1f}"]
    assert 'viewBox="0 0 200 150"' in svg


def test_a_gap_lifts_the_pen() -> None:
    svg = draw(Line(name="gap", colour="c1", x=[0, 1, 2, 3], y=[1, 1, None, 1]), y_range=(0, 1))
    assert paths(svg, "line")[0].count("M") == 2 and paths(svg, "line")[0].count("L") == 1


def test_doublings_are_equally_far_apart() -> None:
    svg = draw(Line(name="k", colour="c1", x=[1, 2, 4, 8], y=[0, 0, 0, 0]), y_range=(0, 1), log=True)
    at = [float(x) for x in re.findall(r"[ML]([\d.]+) ", paths(svg, "line")[0])]
    assert [b - a for a, b in pairwise(at)] == pytest.approx([(WIDTH - LEFT - RIGHT) / 3] * 3, abs=0.1)
    assert re.findall(r'<text class="tick mid"[^>]*>([^<]*)<', svg) == ["1", "2", "4", "8"]


def test_a_band_is_closed_and_a_raw_line_lies_behind() -> None:
    svg = draw(
        Line(name="b", colour="c1", x=[1, 2], y=[0.5, 0.5], band=[(0.4, 0.6), (0.3, 0.7)]), y_range=(0, 1)
    )
    assert paths(svg, "band")[0].endswith("Z") and paths(svg, "band")[0].count("L") == 3
    svg = draw(Line(name="r", colour="c1", x=[1, 2], y=[0.5, 0.5], raw=[0, 1]))
    assert svg.index('class="raw') < svg.index('class="line')


def test_nothing_recorded_says_so() -> None:
    assert "nothing recorded" in draw()
    assert "nothing recorded" in draw(Line(name="a", colour="c1", x=[1], y=[None]))


def test_a_single_point_is_drawn() -> None:
    svg = draw(Line(name="a", colour="c1", x=[3], y=[0.0]))
    assert '<circle class="dot c1"' in svg and "nan" not in svg


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 240, [0, 50, 100, 150, 200, 250]),
        (1, 7, [0, 2, 4, 6, 8]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_the_range(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low) + span)
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack


def test_smoothing_is_a_centred_mean() -> None:
    assert smooth([0, 3, 6, 9], 3) == [1.5, 3, 6, 7.5]
    assert smooth([0, None, 6], 3) == [0, None, 6]
    assert smooth([1, 2], 1) == [1, 2]


@given(st.lists(st.floats(50, 230), max_size=6).map(sorted))
def test_names_do_not_overlap_and_keep_their_order(spots: list[float]) -> None:
    moved = spread(spots, 14.0, 50.0, 230.0)
    assert len(moved) == len(spots)
    assert all(b - a >= 14.0 - 1e-9 for a, b in pairwise(moved))
    assert not moved or moved[-1] <= 230.0
