"""The drawing of a graph: every node once, sub-graphs around theirs, lines with the right heads."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aipo.render.graph_layout import LitPath, NodeMark, lines_of, paths_of
from aipo.render.graph_svg import graph_svg
from kit.handmade import CONSULT


def drawing(*edges: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Edges as 'a > b' or, conditional, 'a ? b'."""
    parsed = [(*re.split(r" [>?] ", edge), "?" in edge) for edge in edges]
    nodes = dict.fromkeys([*(n for a, b, _ in parsed for n in (a, b)), *extra])
    return {"nodes": list(nodes), "edges": [{"from": a, "to": b, "conditional": c} for a, b, c in parsed]}


def column(svg: str, name: str) -> float:
    match = re.search(rf'<text x="([\d.]+)" y="[\d.]+">{name}<', svg)
    assert match is not None
    return float(match[1])


def test_every_node_is_drawn_once() -> None:
    svg = graph_svg(CONSULT)
    ElementTree.fromstring(svg)
    nodes = ["check", "check", "knowledge", "notice", "policy", "prompt", "score", "verify"]
    assert sorted(re.findall(r"<text[^>]*>(\w+)<", svg)) == nodes
    assert svg.count('<rect class="graph"') == 2 and svg.count('<rect class="node"') == 6
    assert svg.count('class="start"') == svg.count('class="end"') == 3
    assert 'class="aipo-graph" role="img"' in svg and "<style" not in svg and "style=" not in svg
    # Columns follow the longest path.
    assert column(svg, "prompt") < column(svg, "policy") < column(svg, "check")


def lines(svg: str) -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """Kind, start and point of the head of each line."""
    starts = re.findall(r'class="((?:always|maybe)[ a-z]*)" d="M([\d.]+) ([\d.]+)', svg)
    heads = re.findall(r'class="head[ a-z]*" d="M([\d.]+) ([\d.]+)l', svg)
    return [
        (kind, (float(x), float(y)), (float(to_x), float(to_y)))
        for (kind, x, y), (to_x, to_y) in zip(starts, heads, strict=True)
    ]


def test_an_edge_and_its_return_are_two_lines_with_a_head_each() -> None:
    (there, left, right), (back, from_right, to_left) = lines(graph_svg(drawing("a > b", "b ? a")))
    assert (there, back) == ("always", "maybe")
    assert left[0] == to_left[0] < right[0] == from_right[0]  # one gap, both ways
    assert to_left[1] - left[1] == from_right[1] - right[1] == 10  # the return is 10 px below


def test_an_edge_that_leads_back_without_a_twin_passes_under_the_boxes() -> None:
    svg = graph_svg(drawing("a > b", "b > c", "c ? a"))
    last = next(line for line in lines(svg) if line[0] == "maybe")
    assert column(svg, "c") == last[1][0] - 8 and column(svg, "a") == last[2][0] + 8
    boxes = [float(y) + 28 for y in re.findall(r'<rect class="node" x="[\d.]+" y="([\d.]+)"', svg)]
    assert last[1][1] == last[2][1] == boxes[0]
    height = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)
    assert height is not None and float(height[1]) > boxes[0] + 24


def test_a_node_that_leads_to_itself_has_a_loop() -> None:
    svg = graph_svg(drawing("a ? a", "a > b"), LitPath(marks={}, edges={("a", "a")}))
    ((kind, start, end),) = [line for line in lines(svg) if "maybe" in line[0]]
    assert kind == "maybe lit" and round(start[0] - end[0], 1) == 16 and start[1] == end[1]


def test_an_edge_that_passes_a_column_by_goes_over_it_and_its_return_under_it() -> None:
    svg = graph_svg(drawing("a > b", "b > c", "a ? c", "c ? a"))
    assert sorted(line[0] for line in lines(svg)) == ["always", "always", "maybe", "maybe"]
    over = re.search(r'class="maybe" d="M[\d.]+ ([\d.]+)C[\d.]+ ([-\d.]+)', svg)
    assert over is not None and float(over[2]) < float(over[1])


def test_a_path_stands_out_and_its_nodes_lead_somewhere() -> None:
    marks = {
        "policy": NodeMark(note="2× 6 s", title="visited 2 times", href="#s1"),
        "verify": NodeMark(note="1 s"),
        "verify:check": NodeMark(failed=True),
        "verify:__start__": NodeMark(),
    }
    edges = {("policy", "verify"), ("verify:__start__", "verify:check")}
    svg = graph_svg(CONSULT, LitPath(marks=marks, edges=edges))
    ElementTree.fromstring(svg)
    assert 'class="aipo-graph path" role="group"' in svg
    assert '<a href="#s1" data-node="policy"><title>visited 2 times</title><rect class="node lit"' in svg
    assert '<g data-node="verify"><title></title><rect class="graph lit"' in svg
    assert 'class="node lit failed"' in svg and 'class="start lit"' in svg and 'class="end lit"' not in svg
    assert ">2× 6 s</text>" in svg and '<tspan class="note" dx="10">1 s</tspan>' in svg
    assert svg.count('class="maybe lit"') == svg.count('class="always lit"') == 1
    assert svg.count('class="head lit"') == 2


def test_of_an_edge_and_its_return_each_is_lit_by_itself() -> None:
    svg = graph_svg(drawing("a > b", "b ? a"), LitPath(marks={}, edges={("b", "a")}))
    assert [line[0] for line in lines(svg)] == ["always", "maybe lit"]
    assert svg.count('class="head lit"') == svg.count('class="head"') == 1


def test_names_and_marks_are_text() -> None:
    mark = NodeMark(note="<i>", title='"\u202e', href='#"><script>')
    svg = graph_svg(drawing(extra=["a", "<b>"]), LitPath(marks={"a": mark}))
    assert "<i>" not in svg and "<script>" not in svg and "\u202e" not in svg and "&lt;b&gt;" in svg
    ElementTree.fromstring(svg)


def test_a_line_to_nowhere_is_left_out() -> None:
    svg = graph_svg(drawing("a > gone") | {"nodes": ["a"]})
    assert "<path" not in svg and ">a</text>" in svg


def test_paths_and_lines_of_a_drawing() -> None:
    assert paths_of({"nodes": ["a", "b:c", "b:d:e"]}) == {"a", "b", "b:c", "b:d", "b:d:e"}
    lines = lines_of(drawing("a > b:c", "b:c > b:d:e", "b:d:e > b:d:f"))
    assert lines == {("a", "b"), ("b:c", "b:d"), ("b:d:e", "b:d:f")}


names = st.sampled_from(["__start__", "__end__", "a", "b", "c:d", "c:e", "c:f:g", "c:f:h"])


@given(st.lists(st.tuples(names, names, st.booleans()), max_size=12), st.lists(names), st.data())
def test_any_graph_can_be_drawn(
    edges: list[tuple[str, str, bool]], visited: list[str], data: st.DataObject
) -> None:
    nodes = ["a", *dict.fromkeys(n for a, b, _ in edges for n in (a, b))]
    plain = [{"from": a, "to": b, "conditional": c} for a, b, c in edges]
    whole = {"nodes": list(dict.fromkeys(nodes)), "edges": plain}
    taken = data.draw(st.sets(st.sampled_from(sorted(lines_of(whole))))) if edges else set[tuple[str, str]]()
    lit = LitPath(marks={name: NodeMark(note="1 s") for name in visited}, edges=taken)
    for svg in (graph_svg(whole), graph_svg(whole, lit)):
        ElementTree.fromstring(svg)
        assert "nan" not in svg
