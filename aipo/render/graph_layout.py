"""The layout of a graph: boxes in boxes, column by column from the start.

Made from what a run keeps in `graph.json`: names of nodes, `verify:check` being a node of `verify`, and
edges. Columns follow the longest path from the start.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

from aipo.util.text import visible

START, END = "__start__", "__end__"
GAP_X, GAP_Y, PAD, TITLE, NODE, NOTE, ARC = 38.0, 12.0, 14.0, 20.0, 28.0, 14.0, 26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMark:
    """The label of one visited node.

    Args:
        note: a few characters under its name.
        title: a sentence, for a pointer that rests on it and for who cannot see it.
        href: where a click leads, or nowhere.
        failed: something went wrong in it.
    """

    note: str = ""
    title: str = ""
    href: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LitPath:
    """A path through the drawing.

    Args:
        marks: visited nodes and graphs, by their path in the drawing.
        edges: those taken, as paths of two nodes of the same graph.
    """

    marks: Mapping[str, NodeMark]
    edges: Collection[tuple[str, str]] = ()


class Edge(NamedTuple):
    """An edge between two inner nodes of a graph, by number."""

    start: int
    end: int
    conditional: bool
    lit: bool


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a box, and the width of its column: lines turn only outside of the column."""

    x: float
    y: float
    wide: float
    high: float
    left: float
    right: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.wide / 2, self.y + self.high / 2


@dataclass(frozen=True)
class Box:
    """A node, or a graph with its nodes in it."""

    path: str
    nodes: tuple["Box", ...] = ()
    edges: tuple[Edge, ...] = ()
    mark: NodeMark | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition(":")[2]

    @property
    def note(self) -> str:
        return self.mark.note if self.mark else ""

    @cached_property
    def columns(self) -> list[list[int]]:
        """Numbers of the inner nodes, column by column."""
        ranks = _ranks(len(self.nodes), self.edges)
        return [[i for i, r in enumerate(ranks) if r == rank] for rank in sorted(set(ranks))]

    @cached_property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        if self.name in (START, END):
            return 14.0, 14.0
        name, note = 7.4 * len(visible(self.name)), 6.4 * len(self.note)
        if not self.nodes:
            return max(name, note) + 24, NODE + (NOTE if self.note else 0)
        wide = sum(max(self.nodes[i].size[0] for i in column) for column in self.columns)
        over = ARC if any(span > 1 for span in self.spans.values()) else 0.0
        inner = max(wide + GAP_X * (len(self.columns) - 1), name + 10 + note)
        return inner + 2 * PAD, self._height + 2 * PAD + TITLE + over + self._under

    @cached_property
    def spans(self) -> dict[Edge, int]:
        """How many columns each edge goes to the right; over the boxes if several, under them if none or back."""
        rank = {i: place for place, column in enumerate(self.columns) for i in column}
        return {edge: rank[edge.end] - rank[edge.start] for edge in self.edges}

    @cached_property
    def returns(self) -> set[Edge]:
        """Edges that go back one column, along an edge that comes from there."""
        ends = {(edge.start, edge.end) for edge in self.edges}
        return {e for e, span in self.spans.items() if span == -1 and (e.end, e.start) in ends}

    @property
    def _under(self) -> float:
        return ARC if any(span < 1 and edge not in self.returns for edge, span in self.spans.items()) else 0.0

    @property
    def _height(self) -> float:
        return max((self._stack(column) for column in self.columns), default=0.0)

    def _stack(self, column: Sequence[int]) -> float:
        return sum(self.nodes[i].size[1] for i in column) + GAP_Y * (len(column) - 1)

    def places(self, left: float, top: float) -> list[Place]:
        """A place for each inner node when the box's corner is at (left, top); columns are centred."""
        places: dict[int, Place] = {}
        middle = top + self.size[1] - self._under - PAD - self._height / 2
        x = left + PAD
        for column in self.columns:
            width = max(self.nodes[i].size[0] for i in column)
            y = middle - self._stack(column) / 2
            for i in column:
                wide, tall = self.nodes[i].size
                places[i] = Place(x + (width - wide) / 2, y, wide, tall, x, x + width)
                y += tall + GAP_Y
            x += width + GAP_X
        return [places[i] for i in range(len(self.nodes))]


def boxes_of(drawing: Mapping[str, Any], lit: LitPath | None = None) -> Box:
    """The whole drawing (`nodes`, `edges` with `from`, `to`, `conditional`) as one nameless box."""
    edges = [(edge["from"], edge["to"], bool(edge["conditional"])) for edge in drawing["edges"]]
    return _box("", list(drawing["nodes"]), edges, lit or LitPath(marks={}))


def lines_of(drawing: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Every line of the drawing, as paths of the two boxes of one graph that it joins."""
    return {_siblings(edge["from"].split(":"), edge["to"].split(":")) for edge in drawing["edges"]}


def _siblings(start: list[str], end: list[str]) -> tuple[str, str]:
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(start, end, strict=False)))
    return ":".join(start[: shared + 1]), ":".join(end[: shared + 1])


def paths_of(drawing: Mapping[str, Any]) -> set[str]:
    """Every node of the drawing, and every graph in it."""
    parts = [node.split(":") for node in drawing["nodes"]]
    return {":".join(path[:depth]) for path in parts for depth in range(1, len(path) + 1)}


def _box(path: str, paths: Sequence[str], edges: Sequence[tuple[str, str, bool]], lit: LitPath) -> Box:
    """The graph at `path` of the nodes `paths`, which are relative to it."""
    children: dict[str, list[str]] = {}
    for inner_path in paths:
        head, _, rest = inner_path.partition(":")
        children.setdefault(head, []).extend([rest] if rest else [])
    number = {head: i for i, head in enumerate(children)}
    between: dict[tuple[int, int], bool] = {}
    inner: dict[str, list[tuple[str, str, bool]]] = {head: [] for head in children}
    for start, end, conditional in edges:
        (here, _, start_rest), (there, _, end_rest) = start.partition(":"), end.partition(":")
        if not {here, there} <= set(number):
            continue  # a line to nowhere, in a file that somebody edited
        if here == there and start_rest:
            inner[here].append((start_rest, end_rest, conditional))
        elif here != there or not end_rest:
            key = number[here], number[there]
            between[key] = conditional and between.get(key, True)
    full = {head: f"{path}:{head}" if path else head for head in children}
    nodes = tuple(
        _box(full[head], rest, inner[head], lit) if rest else Box(full[head], mark=lit.marks.get(full[head]))
        for head, rest in children.items()
    )
    lines = (Edge(a, b, c, (nodes[a].path, nodes[b].path) in lit.edges) for (a, b), c in between.items())
    return Box(path, nodes, tuple(lines), lit.marks.get(path))


def _ranks(count: int, edges: Iterable[Edge]) -> list[int]:
    """Length of the longest path to each node; edges that close a circle do not count."""
    after: list[list[int]] = [[] for _ in range(count)]
    for edge in edges:
        after[edge.start].append(edge.end)
    entered, onward = set[int](), dict[int, list[int]]()  # a node is in `onward` once all behind it are

    def visit(node: int) -> None:
        entered.add(node)
        ends = [end for end in after[node] if end in onward or end not in entered]
        for end in ends:
            if end not in entered:
                visit(end)
        onward[node] = ends

    for node in range(count):
        if node not in entered:
            visit(node)
    ranks = [0] * count
    for node in reversed(onward):
        for end in onward[node]:
            ranks[end] = max(ranks[end], ranks[node] + 1)
    return ranks
