"""The timeline: bars are where the seconds say."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from aipo.trace import StopReason, Trace
from aipo.viewer.pages.timeline import lanes_of, timeline_svg
from aipo.viewer.pages.visits import stations
from kit.handmade import asking, call, trace, visit


def draw(shown: Trace) -> str:
    svg = timeline_svg(shown, stations(shown))
    ElementTree.fromstring(svg)
    return svg


def bars(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Start and width of each node's bars."""
    found: dict[str, list[tuple[float, float]]] = {}
    pattern = r'data-node="([^"]*)"><title>[^<]*</title><path class="reach"[^>]*><path class="bar[^"]*" d="M([\d.]+) [\d.]+h([\d.]+)'
    for node, x, wide in re.findall(pattern, svg):
        found.setdefault(node, []).append((float(x), float(wide)))
    return found


def test_bars_begin_and_last_as_their_visits_did() -> None:
    found = bars(draw(asking()))
    ((start, second),) = found["prompt"]
    seen = [*found["score"][0], *(x for x, _ in found["policy"]), *found["knowledge:check"][0]]
    wanted = [start + 9 * second, second, start + second, start + 6 * second, start + 4.5 * second, second]
    assert seen == pytest.approx(wanted, abs=0.5)


def test_lanes_are_in_the_order_of_first_visits_with_sub_graphs_below_their_node() -> None:
    order = [(lane.label, lane.depth) for lane in lanes_of(stations(asking()))]
    assert order == [("prompt", 0), ("policy", 0), ("knowledge", 0), ("check", 1), ("score", 0)]
    fan = trace(visits=(visit("peer", 0, 2), visit("peer", 1, 2), visit("peer", 2, 1)))
    (lane,) = lanes_of(stations(fan))  # those that ran side by side have rows of their own
    assert [[s.visit.started for s in row] for row in lane.rows] == [[0, 2], [1]]


def test_each_bar_leads_to_its_own_segments() -> None:
    assert re.findall(r'href="(#s\d)" data-node="policy"', draw(asking())) == ["#s1", "#s3"]
    assert '<g data-node="score">' in draw(asking())


def test_what_never_ended_is_torn_off_at_the_end_of_the_rollout_and_what_failed_is_crossed() -> None:
    visits = (visit("prompt", 0, 1), visit("policy", 5, None, "cancelled <b>"))
    svg = draw(trace(visits=visits, stop_reason=StopReason.DEADLINE, reward=None))
    ((_, wide),) = bars(svg)["policy"]
    ((_, second),) = bars(svg)["prompt"]
    # Teeth stand out by 4 pixels.
    assert wide + 4 == pytest.approx(5 * second, abs=0.5)
    assert re.search(r'class="bar none failed" d="M[\d.]+ [\d.]+h[\d.]+l4 4.0l-4 4.0', svg)
    assert "policy: never ended, from 5.00 s; cancelled &lt;b&gt;" in svg
    assert svg.count('class="cross"') == 1


def test_calls_are_inside_of_their_bar() -> None:
    svg = draw(trace(visits=(visit("a", 2, 4, "ok", call(1.9, 1.1), call(4, 1, error="boom", attempts=3)),)))
    ((x, wide),) = bars(svg)["a"]
    calls = re.findall(r'class="call[^"]*" d="M([\d.]+) [\d.]+h([\d.]+)', svg)
    assert all(x <= float(at) and float(at) + float(size) <= x + wide for at, size in calls)
    assert "call of m: 1.00 s, 3 attempts, boom" in svg and svg.count('class="call failed"') == 1


def test_the_axis_counts_in_milliseconds_or_seconds() -> None:
    def ticks(seconds: float) -> list[str]:
        svg = draw(trace(visits=(visit("a", 0, seconds),), seconds=seconds))
        return re.findall(r'class="tick"[^>]*>([^<]*)<', svg)

    assert ticks(0.4) == ["0", "100", "200", "300", "400 ms"]
    assert ticks(4) == ["0", "1", "2", "3", "4 s"]


def test_without_visits_or_time_nothing_breaks() -> None:
    assert timeline_svg(trace(), []) == ""
    assert "nan" not in draw(trace(visits=(visit("a", 0, 0),), seconds=0.0))
