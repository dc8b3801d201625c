"""A graph as inline SVG with nested sub-graphs, drawn from data: no graph is imported.

The input is what a run keeps in `graph.json`: names of nodes, `verify:check` being a node of `verify`, and
edges. Columns follow the longest path from the start. An edge and its return are two lines side by side; any other
edge that leads back passes under the boxes.
A `LitPath` path stands out from the rest and says at its nodes how often they were visited.

The page brings `STYLE`: inside of an `<svg>` a strict content-security policy would not let it act.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from aipo.render.colours import THEME, by_theme
from aipo.render.graph_layout import END, NOTE, PAD, START, TITLE, Box, LitPath, Place, boxes_of
from aipo.render.templating import static_text
from aipo.util.text import visible

APART = 5.0
"""How far the line of an edge and that of its return are from the middle between them."""


def graph_svg(drawing: Mapping[str, Any], lit: LitPath | None = None) -> str:
    """The drawing (`nodes`, `edges` with `from`, `to`, `conditional`) as one `<svg>`; needs `STYLE`."""
    root = boxes_of(drawing, lit)
    wide, high = root.size
    body = "".join(_inside(root, 0.0, -TITLE))
    # An image has no parts: links in it would be lost to a screen reader.
    kind = ('aipo-graph path" role="group', "the graph and the path through it")
    css, label = kind if lit else ('aipo-graph" role="img', "the graph")
    return (
        f'<svg class="{css}" viewBox="0 0 {wide:.0f} {high - TITLE:.0f}" width="{wide:.0f}" '
        f'aria-label="{label}">{body}</svg>'
    )


def _inside(box: Box, left: float, top: float) -> Iterable[str]:
    """The content of a graph whose corner is at (left, top): lines first, those of the path on top of the others."""
    places = box.places(left, top)
    twins = {(edge.end, edge.start) for edge in box.returns}
    for edge in sorted(box.edges, key=lambda e: e.lit):
        a, b, span = places[edge.start], places[edge.end], box.spans[edge]
        if edge in box.returns:
            line, head = _beside(a, b, APART, -1)
        elif span == 1:
            line, head = _beside(a, b, -APART if (edge.start, edge.end) in twins else 0.0, 1)
        else:
            line, head = _around(a, b, -1 if span > 1 else 1)
        kind, lit = "maybe" if edge.conditional else "always", " lit" * edge.lit
        yield f'<path class="{kind}{lit}" d="{line}"/><path class="head{lit}" d="{head}"/>'
    for node, place in zip(box.nodes, places, strict=True):
        yield from _node(node, place)


def _node(box: Box, at: Place) -> Iterable[str]:
    x, y = at.middle
    css = " lit" if box.mark else ""
    if box.name in (START, END):
        kind = "start" if box.name == START else "end"
        yield f'<circle class="{kind}{css}" cx="{x:.1f}" cy="{y:.1f}" r="{at.wide / 2 - 1:.1f}"/>'
        return
    css = ("graph" if box.nodes else "node") + css + (" failed" if box.mark and box.mark.failed else "")
    size = f'width="{at.wide:.1f}" height="{at.high:.1f}"'
    shape = f'<rect class="{css}" x="{at.x:.1f}" y="{at.y:.1f}" {size} rx="8"/>'
    name, note = escape(visible(box.name)), escape(visible(box.note))
    if box.nodes:
        note = note and f'<tspan class="note" dx="10">{note}</tspan>'
        yield _linked(
            box, f'{shape}<text class="title" x="{at.x + PAD:.1f}" y="{at.y + 19:.1f}">{name}{note}</text>'
        )
        yield from _inside(box, at.x, at.y)
    else:
        y -= NOTE / 2 if note else 0
        note = note and f'<text class="note" x="{x:.1f}" y="{y + 4.5 + NOTE:.1f}">{note}</text>'
        yield _linked(box, f'{shape}<text x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>{note}')


def _linked(box: Box, shape: str) -> str:
    """The shape of a visited node with its title, and with a link where there is something to go to."""
    if box.mark is None:
        return shape
    tag, link = ("a", f' href="{escape(box.mark.href)}"') if box.mark.href else ("g", "")
    title = escape(visible(box.mark.title))
    return f'<{tag}{link} data-node="{escape(visible(box.path))}"><title>{title}</title>{shape}</{tag}>'


def _beside(a: Place, b: Place, shift: float, way: int) -> tuple[str, str]:
    """A line and its head: from the side of one box to the facing side of the other, `shift` below their middles.

    Args:
        way: 1 to the right, -1 back to the left.
    """
    left, right = (a, b) if way > 0 else (b, a)
    x, turn, last_turn, to_x = (left.x + left.wide, left.right, right.left, right.x)[::way]
    y, to_y = a.middle[1] + shift, b.middle[1] + shift
    bend = (left.right + right.left) / 2
    if shift:  # a steep line bends to one side, so that its twin stays beside it
        bend += math.copysign(2 * shift, -shift * (right.middle[1] - left.middle[1]))
    curve = f"C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {last_turn - 5 * way:.1f} {to_y:.1f}"
    line = f"M{x:.1f} {y:.1f}H{turn:.1f}{curve}H{to_x - 5 * way:.1f}"
    return line, f"M{to_x:.1f} {to_y:.1f}l{-7 * way} -3.5v7z"


def _around(a: Place, b: Place, way: int) -> tuple[str, str]:
    """A line and its head: between the tops of two boxes over what lies between them, or between their bottoms under it.

    Args:
        way: -1 over the boxes, 1 under them.
    """
    under = way > 0
    x, to_x = a.middle[0] + 8 * under, b.middle[0] - 8 * under  # the two may be one box
    y, to_y = (a.y + a.high, b.y + b.high) if under else (a.y, b.y)
    far = (max if under else min)(y, to_y) + 24 * way
    line = f"M{x:.1f} {y:.1f}C{x:.1f} {far:.1f} {to_x:.1f} {far:.1f} {to_x:.1f} {to_y + 5 * way:.1f}"
    return line, f"M{to_x:.1f} {to_y:.1f}l-3.5 {7 * way}h7z"


_COLOURS = {name: THEME[name] for name in ("ink", "soft", "card", "bad")} | {
    "lit": THEME["c1"],
    "line": ("#d5dae1", "#333b46"),
    "fill": ("#fff", "#22272f"),
}
STYLE = by_theme(".aipo-graph", _COLOURS) + static_text("graph.css")
