"""The graph panel: what a trace's path was, which segments a node leads to, and drawings that do not fit."""

import re
import xml.etree.ElementTree as ElementTree
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

FAILED: dict[str, Any] = {"stop_reason": StopReason.DEADLINE, "reward": None}


def made_by(shown: Trace) -> list[tuple[str, tuple[int, ...]]]:
    return [(station.visit.path, station.segments) for station in stations(shown)]


def links(html: str) -> dict[str, str]:
    """Where each node of the drawing leads."""
    graph = html.partition('class="panel-times"')[0]
    return {node: href for href, node in re.findall(r'<a href="([^"]*)" data-node="([^"]*)"', graph)}


def test_a_visit_made_the_next_segment_that_its_node_can_have_made() -> None:
    assert made_by(asking()) == [
        ("prompt", (0,)),
        ("policy", (1,)),
        ("knowledge", (2,)),
        ("knowledge/check", (2,)),
        ("policy", (3,)),
        ("score", ()),
    ]


def test_an_agent_that_fails_made_the_notice_that_speaks_for_it() -> None:
    failed = asking(
        segments=(prompt(), policy("1+1?"), env("no reply"), policy("#2")),
        consults=(consult(1, 0, 2, reply=None, error="TimeoutError"),),
    )
    assert made_by(failed)[2:5] == [("knowledge", (2,)), ("knowledge/check", (2,)), ("policy", (3,))]


def test_a_request_that_nobody_answers_is_the_notice_nodes() -> None:
    spent = trace(
        prompt(),
        policy("a"),
        env("no more"),
        policy("b"),
        consults=(consult(1, 0, 2, reply=None, error="exhausted"),),
        visits=tuple(visit(n, i) for i, n in enumerate(["prompt", "policy", "notice", "policy", "score"])),
    )
    assert made_by(spent) == [
        ("prompt", (0,)),
        ("policy", (1,)),
        ("notice", (2,)),
        ("policy", (3,)),
        ("score", ()),
    ]


def test_a_node_of_anybodys_graph_made_the_segments_that_bear_its_name() -> None:
    theirs = trace(
        segment(Role.PROMPT, "task", [1]),
        segment(Role.POLICY, "writer", [2], logprobs=[-1.0]),
        segment(Role.AGENT, "critic", [3]),
        segment(Role.AGENT, "critic", [4]),
        visits=tuple(visit(n, i) for i, n in enumerate(["setup", "writer", "critic", "other"])),
    )
    assert made_by(theirs) == [("setup", ()), ("writer", (1,)), ("critic", (2, 3)), ("other", ())]


def test_the_path_has_the_nodes_that_were_visited_and_the_edges_between() -> None:
    lit, strangers = path_through(stations(asking()), CONSULT)
    assert strangers == []
    assert lit.edges == {
        ("__start__", "prompt"),
        ("prompt", "policy"),
        ("policy", "knowledge"),
        ("knowledge:__start__", "knowledge:check"),
        ("knowledge:check", "knowledge:__end__"),
        ("knowledge", "policy"),
        ("policy", "score"),
        ("score", "__end__"),
    }
    notes = {path: mark.note for path, mark in lit.marks.items() if mark.note}
    assert notes == {
        "prompt": "1.00 s",
        "policy": "2× 6.00 s",
        "knowledge": "2.00 s",
        "knowledge:check": "1.00 s",
        "score": "1.00 s",
    }


def test_nodes_that_ran_side_by_side_all_come_from_the_one_before() -> None:
    nodes = ["__start__", "fan", "a", "b", "join", "__end__"]
    pairs = [("__start__", "fan"), ("fan", "a"), ("fan", "b"), ("a", "b"), ("a", "join"), ("b", "join")]
    drawing = {"nodes": nodes, "edges": [{"from": a, "to": b, "conditional": False} for a, b in pairs]}
    shown = trace(visits=(visit("fan", 0), visit("a", 1, 2), visit("b", 1.1, 1), visit("join", 3)))
    lit, _ = path_through(stations(shown), drawing)
    assert lit.edges == {*pairs} - {("a", "b")}


def test_what_failed_is_marked_and_leads_to_no_end() -> None:
    shown = asking(
        visits=(visit("prompt", 0), visit("policy", 1), visit("policy", 2, None, "cancelled")), **FAILED
    )
    lit, _ = path_through(stations(shown), CONSULT)
    mark = lit.marks["policy"]
    assert (mark.note, mark.failed, mark.href) == ("✗ 2× 1.00 s", True, "#s1")
    assert mark.title == "policy: visited 2 times, 1.00 s; 1 failed: cancelled"
    assert "score" not in lit.marks and "__end__" not in lit.marks
    assert 'class="node lit failed"' in graph_panel(shown, CONSULT)


def test_a_node_leads_to_its_first_segment() -> None:
    html = graph_panel(asking(), CONSULT)
    assert links(html) == {
        "prompt": "#s0",
        "policy": "#s1",
        "knowledge": "#s2",
        "knowledge:check": "#s2",
    }
    assert "<title>policy: visited 2 times, 6.00 s</title>" in html


def test_a_visit_that_is_not_in_the_drawing_is_listed() -> None:
    visits = (visit("prompt", 0), visit("<b>", 1), visit("knowledge/<b>", 2), visit("?", 3, None, "unknown"))
    html = graph_panel(asking(visits=visits), CONSULT)
    listed = re.findall(r"<li>(.*?)</li>", html)
    assert listed == ["&lt;b&gt;", "knowledge/&lt;b&gt;", "calls outside of every node"]


@pytest.mark.parametrize(
    "drawing",
    [
        None,
        {},
        {"nodes": [], "edges": []},
        {"nodes": [1], "edges": []},
        {"nodes": ["a"], "edges": ["a"]},
        {"nodes": ["a"], "edges": [{"from": "a", "conditional": False}]},
    ],
)
def test_without_a_drawing_that_makes_sense_there_is_only_the_timeline(drawing: Any) -> None:
    html = graph_panel(asking(), drawing)
    assert "aipo-graph" not in html and 'class="timeline"' in html and 'class="panel alone"' in html


def test_no_visit_is_no_crash() -> None:
    assert "No node was visited." in graph_panel(trace(prompt()), CONSULT)


def test_agents_keep_the_colours_that_they_are_given() -> None:
    html = graph_panel(asking(), None, ["verify", "knowledge"])
    assert 'class="bar agent1"' in html and "agent0" not in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0042, "4.2 ms"), (0.288, "288 ms"), (1.236, "1.24 s"), (200.4, "3 min 20 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


paths = st.sampled_from(
    ["prompt", "policy", "notice", "knowledge", "knowledge/check", "x", "x/y", "?", "\u202e<"]
)
visits = st.builds(
    Visit,
    path=paths,
    started=st.floats(0, 10),
    seconds=st.none() | st.floats(0, 10),
    outcome=st.sampled_from(["ok", "ValueError: <i>"]),
)
pieces = st.lists(
    st.sampled_from([policy("a"), agent("b"), agent("c", source="verify"), env("d")]), max_size=6
)


@given(st.lists(visits, max_size=8), pieces)
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
