"""The drawing of a graph: every node once, sub-graphs around theirs, lines with the right heads."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aipo.draw import graph_svg


def drawing(*edges: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Edges as 'a > b' or, conditional, 'a ? b'."""
    parsed = [(*re.split(r" [>?] ", edge), "?" in edge) for edge in edges]
    nodes = dict.fromkeys([*(n for a, b, _ in parsed for n in (a, b)), *extra])
    return {
        "nodes": list(nodes),
        "edges": [{"from": a, "to": b, "conditional": c} for a, b, c in parsed],
    }


CONSULT = drawing(
    "__start__ > policy",
    "policy ? verify:__start__",
    "verify:__start__ ? verify:check",
    "verify:__start__ > verify:find",
    "verify:find > verify:check",
    "verify:check > verify:__end__",
    "verify:__end__ > policy",
    "policy ? score",
    "score > __end__",
)


def column(svg: str, name: str) -> float:
    match = re.search(rf'<text x="([\d.]+)" y="[\d.]+">{name}<', svg)
    assert match is not None
    return float(match[1])


def test_every_node_is_drawn_once() -> None:
    svg = graph_svg(CONSULT)
    ElementTree.fromstring(svg)
    assert sorted(re.findall(r"<text[^>]*>(\w+)<", svg)) == ["check", "find", "policy", "score", "verify"]
    assert svg.count('<rect class="graph"') == 1 and svg.count('<rect class="node"') == 4
    assert svg.count('class="start"') == svg.count('class="end"') == 2


def test_columns_follow_the_longest_path() -> None:
    svg = graph_svg(CONSULT)
    assert column(svg, "policy") < column(svg, "find") < column(svg, "check")


def test_an_edge_and_its_return_are_one_line_with_two_heads() -> None:
    svg = graph_svg(drawing("a > b", "b ? a"))
    assert svg.count('class="always"') == 1 and svg.count('class="maybe"') == 0
    assert svg.count('class="head"') == 2


def test_an_edge_that_passes_a_column_by_goes_over_it() -> None:
    svg = graph_svg(drawing("a > b", "b > c", "a ? c"))
    over = re.search(r'class="maybe" d="M[\d.]+ ([\d.]+)C[\d.]+ ([-\d.]+)', svg)
    assert over is not None and float(over[2]) < float(over[1])


def test_names_are_text() -> None:
    assert "&lt;script&gt;" in graph_svg(drawing(extra=["<script>"]))


names = st.sampled_from(["__start__", "__end__", "a", "b", "c:d", "c:e", "c:f:g", "c:f:h"])


@given(st.lists(st.tuples(names, names, st.booleans()), max_size=12))
def test_any_graph_can_be_drawn(edges: list[tuple[str, str, bool]]) -> None:
    nodes = ["a", *dict.fromkeys(n for a, b, _ in edges for n in (a, b))]
    plain = [{"from": a, "to": b, "conditional": c} for a, b, c in edges]
    svg = graph_svg({"nodes": list(dict.fromkeys(nodes)), "edges": plain})
    ElementTree.fromstring(svg)
    assert "nan" not in svg
