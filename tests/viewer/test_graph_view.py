"""The graph panel: what a trace's path was, which segments a node leads to, and drawings that do not fit."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.graph_layout import paths_of
from aipo.trace import Role, StopReason, Trace, Visit, segment
from aipo.util.text import duration
from aipo.viewer.pages.trace import graph_panel
from aipo.viewer.pages.visits import path_through, stations
from kit.handmade import CONSULT, agent, asking, consult, env, policy, prompt, trace, visit


def links(html: str) -> dict[str, str]:
    """Where each node of the drawing leads."""
    graph = html.partition('class="panel-times"')[0]
    return {node: href for href, node in re.findall(r'<a href="([^"]*)" data-node="([^"]*)"', graph)}


FAILING = consult(1, 0, 2, reply=None, error="TimeoutError")


@pytest.mark.parametrize(
    ("shown", "made_by"),
    [
        pytest.param(
            asking(),
            [("prompt", (0,)), ("policy", (1,)), ("knowledge", (2,)), ("knowledge/check", (2,)), ("policy", (3,)),
             ("score", ())],
            id="the next segment that its node can have made",
        ),
        pytest.param(
            asking(segments=(prompt(), policy("1+1?"), env("no reply"), policy("#2")), consults=(FAILING,)),
            [("prompt", (0,)), ("policy", (1,)), ("knowledge", (2,)), ("knowledge/check", (2,)), ("policy", (3,)),
             ("score", ())],
            id="an agent that fails made the notice that speaks for it",
        ),
        pytest.param(
            trace(prompt(), policy("a"), env("no more"), policy("b"), consults=(FAILING,),
                  visits=tuple(visit(n, i) for i, n in enumerate(["prompt", "policy", "notice", "policy", "score"]))),
            [("prompt", (0,)), ("policy", (1,)), ("notice", (2,)), ("policy", (3,)), ("score", ())],
            id="a request that nobody answers is the notice node's",
        ),
        pytest.param(
            trace(segment(Role.PROMPT, "task", [1]), segment(Role.POLICY, "writer", [2], logprobs=[-1.0]),
                  segment(Role.AGENT, "critic", [3]), segment(Role.AGENT, "critic", [4]),
                  visits=tuple(visit(n, i) for i, n in enumerate(["setup", "writer", "critic", "other"]))),
            [("setup", ()), ("writer", (1,)), ("critic", (2, 3)), ("other", ())],
            id="a node of anybody's graph made the segments that bear its name",
        ),
    ],
)  # fmt: skip
def test_which_visit_made_which_segments(shown: Trace, made_by: list[tuple[str, tuple[int, ...]]]) -> None:
    assert [(station.visit.path, station.segments) for station in stations(shown)] == made_by


def test_the_path_has_the_nodes_that_were_visited_and_the_edges_between() -> None:
    lit, strangers = path_through(stations(asking()), CONSULT)
    assert strangers == []
    steps = ["__start__", "prompt", "policy", "knowledge", "policy", "score", "__end__"]
    inside = [f"knowledge:{node}" for node in ("__start__", "check", "__end__")]
    assert lit.edges == {*pairwise(steps), *pairwise(inside)}
    notes = {path: mark.note for path, mark in lit.marks.items() if mark.note}
    assert (notes.pop("policy"), notes.pop("knowledge")) == ("2× 6.00 s", "2.00 s")
    assert notes == dict.fromkeys(["prompt", "knowledge:check", "score"], "1.00 s")
    html = graph_panel(asking(), CONSULT)  # a node leads to its first segment
    assert links(html) == {"prompt": "#s0", "policy": "#s1", "knowledge": "#s2", "knowledge:check": "#s2"}
    assert "<title>policy: visited 2 times, 6.00 s</title>" in html


def test_nodes_that_ran_side_by_side_all_come_from_the_one_before() -> None:
    nodes = ["__start__", "fan", "a", "b", "join", "__end__"]
    pairs = [("__start__", "fan"), ("fan", "a"), ("fan", "b"), ("a", "b"), ("a", "join"), ("b", "join")]
    drawing = {"nodes": nodes, "edges": [{"from": a, "to": b, "conditional": False} for a, b in pairs]}
    shown = trace(visits=(visit("fan", 0), visit("a", 1, 2), visit("b", 1.1, 1), visit("join", 3)))
    lit, _ = path_through(stations(shown), drawing)
    assert lit.edges == {*pairs} - {("a", "b")}


def test_what_failed_is_marked_and_leads_to_no_end() -> None:
    visits = (visit("prompt", 0), visit("policy", 1), visit("policy", 2, None, "cancelled"))
    shown = asking(visits=visits, stop_reason=StopReason.DEADLINE, reward=None)
    lit, _ = path_through(stations(shown), CONSULT)
    mark = lit.marks["policy"]
    assert (mark.note, mark.failed, mark.href) == ("✗ 2× 1.00 s", True, "#s1")
    assert mark.title == "policy: visited 2 times, 1.00 s; 1 failed: cancelled"
    assert "score" not in lit.marks and "__end__" not in lit.marks
    assert 'class="node lit failed"' in graph_panel(shown, CONSULT)


def test_a_visit_that_is_not_in_the_drawing_is_listed() -> None:
    visits = (visit("prompt", 0), visit("<b>", 1), visit("knowledge/<b>", 2), visit("?", 3, None, "unknown"))
    html = graph_panel(asking(visits=visits), CONSULT)
    listed = re.findall(r"<li>(.*?)</li>", html)
    assert listed == ["&lt;b&gt;", "knowledge/&lt;b&gt;", "calls outside of every node"]


@pytest.mark.parametrize(
    "drawing",
    [
        None, {}, {"nodes": [], "edges": []}, {"nodes": [1], "edges": []}, {"nodes": ["a"], "edges": ["a"]},
        {"nodes": ["a"], "edges": [{"from": "a", "conditional": False}]},
    ],
)  # fmt: skip
def test_without_a_drawing_that_makes_sense_there_is_only_the_timeline(drawing: Any) -> None:
    html = graph_panel(asking(), drawing)
    assert "aipo-graph" not in html and 'class="timeline"' in html and 'class="panel alone"' in html


def test_no_visit_is_no_crash_and_agents_keep_the_colours_that_they_are_given() -> None:
    assert "No node was visited." in graph_panel(trace(prompt()), CONSULT)
    html = graph_panel(asking(), None, ["verify", "knowledge"])
    assert 'class="bar agent1"' in html and "agent0" not in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0042, "4.2 ms"), (0.288, "288 ms"), (1.236, "1.24 s"), (200.4, "3 min 20 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PATHS = ["prompt", "policy", "notice", "knowledge", "knowledge/check", "x", "x/y", "?", "\u202e<"]
visits = st.builds(
    Visit,
    path=st.sampled_from(PATHS),
    started=st.floats(0, 10),
    seconds=st.none() | st.floats(0, 10),
    outcome=st.sampled_from(["ok", "ValueError: <i>"]),
)
PIECES = [policy("a"), agent("b"), agent("c", source="verify"), env("d")]


@given(st.lists(visits, max_size=8), st.lists(st.sampled_from(PIECES), max_size=6))
def test_any_visits_give_a_panel(happened: list[Visit], segments: list[Any]) -> None:
    shown = trace(prompt(), *segments, visits=tuple(happened))
    found = stations(shown)
    claimed = [n for s in found if s.parent is None for n in s.segments]
    assert claimed == sorted(set(claimed))
    lit, strangers = path_through(found, CONSULT)
    assert {s.visit.path.replace("/", ":") for s in found if s not in strangers} <= lit.marks.keys()
    assert lit.marks.keys() <= paths_of(CONSULT)
    html = graph_panel(shown, CONSULT)
    ElementTree.fromstring(html.replace("data-panel", ""))
    assert "<i>" not in html and "\u202e" not in html
