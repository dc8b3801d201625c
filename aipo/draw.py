"""A graph's drawing as inline SVG, sub-graphs nested; from data, so that nobody's graph is imported.

The input is what a run keeps in `graph.json`: names of nodes, `verify:check` being a node of `verify`, and
edges. Columns follow the longest path from the start; an edge and its return are one line with two heads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

_START, _END = "__start__", "__end__"
_GAP_X, _GAP_Y, _PAD, _TITLE, _NODE = 38.0, 12.0, 14.0, 20.0, 28.0


@dataclass(frozen=True)
class Box:
    """A node, or a graph with its nodes in it. `name` is the last part of its path."""

    name: str
    nodes: tuple["Box", ...] = ()
    edges: tuple[tuple[int, int, bool], ...] = ()

    @cached_property
    def columns(self) -> list[list[int]]:
        """Numbers of the inner nodes, column by column."""
        ranks = _ranks(len(self.nodes), self.edges)
        return [[i for i, r in enumerate(ranks) if r == rank] for rank in sorted(set(ranks))]

    @cached_property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        if self.name in (_START, _END):
            return 14.0, 14.0
        if not self.nodes:
            return 7.4 * len(self.name) + 24, _NODE
        wide = sum(max(self.nodes[i].size[0] for i in column) for column in self.columns)
        high = max(_stack([self.nodes[i] for i in column]) for column in self.columns)
        arcs = 26.0 if _skipping(self) else 0.0
        return wide + _GAP_X * (len(self.columns) - 1) + 2 * _PAD, high + 2 * _PAD + _TITLE + arcs


def graph_svg(drawing: Mapping[str, Any]) -> str:
    """The drawing (`nodes`, `edges` with `from`, `to`, `conditional`) as one `<svg>` that brings its style."""
    edges = [(edge["from"], edge["to"], bool(edge["conditional"])) for edge in drawing["edges"]]
    root = _box("", list(drawing["nodes"]), edges)
    wide, high = root.size
    body = "".join(_inside(root, 0.0, -_TITLE))
    return (
        f'<svg class="aipo-graph" viewBox="0 0 {wide:.0f} {high - _TITLE:.0f}" width="{wide:.0f}" '
        f'role="img" aria-label="the graph"><style>{STYLE}</style>{body}</svg>'
    )


def _box(name: str, paths: Sequence[str], edges: Sequence[tuple[str, str, bool]]) -> Box:
    """The graph `name` of the nodes `paths`, which are relative to it."""
    children: dict[str, list[str]] = {}
    for path in paths:
        head, _, rest = path.partition(":")
        children.setdefault(head, []).extend([rest] if rest else [])
    number = {head: i for i, head in enumerate(children)}
    between: dict[tuple[int, int], bool] = {}
    inner: dict[str, list[tuple[str, str, bool]]] = {head: [] for head in children}
    for start, end, conditional in edges:
        (here, _, start_rest), (there, _, end_rest) = start.partition(":"), end.partition(":")
        if here == there and start_rest:
            inner[here].append((start_rest, end_rest, conditional))
        elif here != there:
            key = number[here], number[there]
            between[key] = conditional and between.get(key, True)
    nodes = tuple(_box(head, rest, inner[head]) if rest else Box(head) for head, rest in children.items())
    return Box(name, nodes, tuple((a, b, c) for (a, b), c in between.items()))


def _ranks(count: int, edges: Iterable[tuple[int, int, bool]]) -> list[int]:
    """Length of the longest path to each node; edges that close a circle do not count."""
    after: list[list[int]] = [[] for _ in range(count)]
    for start, end, _ in edges:
        after[start].append(end)
    ranks, open_nodes, done, order = [0] * count, set[int](), set[int](), list[tuple[int, list[int]]]()

    def visit(node: int) -> None:
        open_nodes.add(node)
        onward = [n for n in after[node] if n not in open_nodes]
        for following in onward:
            if following not in done:
                visit(following)
        open_nodes.discard(node)
        done.add(node)
        order.append((node, onward))

    for node in range(count):
        if node not in done:
            visit(node)
    for node, onward in reversed(order):
        for following in onward:
            ranks[following] = max(ranks[following], ranks[node] + 1)
    return ranks


def _stack(boxes: Sequence[Box]) -> float:
    return sum(b.size[1] for b in boxes) + _GAP_Y * (len(boxes) - 1)


def _skipping(box: Box) -> list[tuple[int, int, bool]]:
    """Edges that pass a column by and have to go over it."""
    rank = {i: place for place, column in enumerate(box.columns) for i in column}
    return [e for e in box.edges if rank[e[1]] - rank[e[0]] > 1]


def _inside(box: Box, left: float, top: float) -> Iterable[str]:
    """What is in a graph whose corner is at (left, top): lines first, so that nodes lie over them."""
    places = _places(box, left, top)
    skipping = _skipping(box)
    returns = {(a, b) for a, b, _ in box.edges} & {(b, a) for a, b, _ in box.edges}
    for start, end, conditional in box.edges:
        if (start, end) in returns and places[start].x > places[end].x:
            continue  # drawn with its forward edge
        kind = "maybe" if conditional else "always"
        if (start, end, conditional) in skipping:
            yield from _arc(places[start], places[end], kind)
        else:
            yield from _line(places[start], places[end], kind, both=(start, end) in returns)
    for node, place in zip(box.nodes, places, strict=True):
        yield from _node(node, place)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a box stands, and how far its column reaches: no line turns before it has left the column."""

    x: float
    y: float
    wide: float
    high: float
    left: float
    right: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.wide / 2, self.y + self.high / 2


def _places(box: Box, left: float, top: float) -> list[_Place]:
    """A place for each inner node; columns are centred."""
    places: dict[int, _Place] = {}
    floor = top + box.size[1] - _PAD
    high = max(_stack([box.nodes[i] for i in column]) for column in box.columns)
    x = left + _PAD
    for column in box.columns:
        width = max(box.nodes[i].size[0] for i in column)
        y = floor - high / 2 - _stack([box.nodes[i] for i in column]) / 2
        for i in column:
            wide, tall = box.nodes[i].size
            places[i] = _Place(x + (width - wide) / 2, y, wide, tall, x, x + width)
            y += tall + _GAP_Y
        x += width + _GAP_X
    return [places[i] for i in range(len(box.nodes))]


def _node(box: Box, at: _Place) -> Iterable[str]:
    x, y = at.middle
    if box.name in (_START, _END):
        kind = "start" if box.name == _START else "end"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{at.wide / 2 - 1:.1f}"/>'
        return
    kind = "graph" if box.nodes else "node"
    size = f'width="{at.wide:.1f}" height="{at.high:.1f}"'
    yield f'<rect class="{kind}" x="{at.x:.1f}" y="{at.y:.1f}" {size} rx="8"/>'
    if box.nodes:
        yield f'<text class="title" x="{at.x + _PAD:.1f}" y="{at.y + 19:.1f}">{escape(box.name)}</text>'
        yield from _inside(box, at.x, at.y)
    else:
        yield f'<text x="{x:.1f}" y="{y + 4.5:.1f}">{escape(box.name)}</text>'


def _line(a: _Place, b: _Place, kind: str, *, both: bool) -> Iterable[str]:
    """From the right side of one box to the left side of the other."""
    x, y, to_x, to_y = a.x + a.wide, a.middle[1], b.x, b.middle[1]
    bend = (a.right + b.left) / 2
    curve = (
        f"H{a.right:.1f}C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {b.left - 5:.1f} {to_y:.1f}H{to_x - 5:.1f}"
    )
    yield f'<path class="{kind}" d="M{x + 5 * both:.1f} {y:.1f}{curve}"/>'
    yield f'<path class="head" d="M{to_x:.1f} {to_y:.1f}l-7 -3.5v7z"/>'
    if both:
        yield f'<path class="head" d="M{x:.1f} {y:.1f}l7 -3.5v7z"/>'


def _arc(a: _Place, b: _Place, kind: str) -> Iterable[str]:
    """From the top of one box over what lies between to the top of the other."""
    x, to_x, to_y = a.middle[0], b.middle[0], b.y
    peak = min(a.y, b.y) - 24
    curve = f"C{x:.1f} {peak:.1f} {to_x:.1f} {peak:.1f} {to_x:.1f} {to_y - 5:.1f}"
    yield f'<path class="{kind}" d="M{x:.1f} {a.y:.1f}{curve}"/>'
    yield f'<path class="head" d="M{to_x:.1f} {to_y:.1f}l-3.5 -7h7z"/>'


_LIGHT = "--ink:#1b2027;--soft:#5b6470;--card:#f6f7f9;--line:#d5dae1;--fill:#fff"
_DARK = "--ink:#e4e8ee;--soft:#98a2b0;--card:#161a20;--line:#333b46;--fill:#22272f"
STYLE = (
    f".aipo-graph{{{_LIGHT};max-width:100%;height:auto}}"
    f"@media (prefers-color-scheme:dark){{.aipo-graph{{{_DARK}}}}}"
    f"[data-jp-theme-light=true] .aipo-graph{{{_LIGHT}}}"
    f":is([data-jp-theme-light=false],.vscode-dark) .aipo-graph{{{_DARK}}}"
    ".aipo-graph text{font:12px system-ui,sans-serif;fill:var(--ink);text-anchor:middle}"
    ".aipo-graph .title{text-anchor:start;font-weight:600;fill:var(--soft)}"
    ".aipo-graph .node{fill:var(--fill);stroke:var(--soft)}.aipo-graph .graph{fill:var(--card);stroke:var(--line)}"
    ".aipo-graph .start{fill:var(--ink)}.aipo-graph .end{fill:none;stroke:var(--ink);stroke-width:2}"
    ".aipo-graph .always,.aipo-graph .maybe{fill:none;stroke:var(--soft);stroke-width:1.2}"
    ".aipo-graph .maybe{stroke-dasharray:4 3}.aipo-graph .head{fill:var(--soft)}"
)
