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
from aipo.render.graph_layout import END, NOTE, PAD, START, TITLE, Box, Edge, LitPath, Place, boxes_of
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
            yield from _return(a, b, edge)
        elif span == 1:
            yield from _line(a, b, edge, -APART if (edge.start, edge.end) in twins else 0.0)
        else:
            yield from _over(a, b, edge) if span > 1 else _under(a, b, edge)
    for node, place in zip(box.nodes, places, strict=True):
        yield from _node(node, place)


def _lit(is_lit: bool) -> str:
    return " lit" if is_lit else ""


def _kind(edge: Edge) -> str:
    return ("maybe" if edge.conditional else "always") + _lit(edge.lit)


def _node(box: Box, at: Place) -> Iterable[str]:
    x, y = at.middle
    css = _lit(box.mark is not None)
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


def _line(a: Place, b: Place, edge: Edge, shift: float) -> Iterable[str]:
    """From the right side of one box to the left side of the other, `shift` below their middles."""
    x, y, to_x, to_y = a.x + a.wide, a.middle[1] + shift, b.x, b.middle[1] + shift
    bend = (a.right + b.left) / 2 + _aside(a, b, -shift)
    curve = f"C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {b.left - 5:.1f} {to_y:.1f}"
    yield f'<path class="{_kind(edge)}" d="M{x:.1f} {y:.1f}H{a.right:.1f}{curve}H{to_x - 5:.1f}"/>'
    yield f'<path class="head{_lit(edge.lit)}" d="M{to_x:.1f} {to_y:.1f}l-7 -3.5v7z"/>'


def _aside(left: Place, right: Place, by: float) -> float:
    """How far to the right a steep line bends, so that its twin stays beside it."""
    return math.copysign(2 * by, by * (right.middle[1] - left.middle[1])) if by else 0.0


def _return(a: Place, b: Place, edge: Edge) -> Iterable[str]:
    """From the left side of one box back to the right side of the other, below the line that came from there."""
    x, y, to_x, to_y = a.x, a.middle[1] + APART, b.x + b.wide, b.middle[1] + APART
    bend = (b.right + a.left) / 2 + _aside(b, a, -APART)
    curve = f"C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {b.right + 5:.1f} {to_y:.1f}"
    yield f'<path class="{_kind(edge)}" d="M{x:.1f} {y:.1f}H{a.left:.1f}{curve}H{to_x + 5:.1f}"/>'
    yield f'<path class="head{_lit(edge.lit)}" d="M{to_x:.1f} {to_y:.1f}l7 -3.5v7z"/>'


def _over(a: Place, b: Place, edge: Edge) -> Iterable[str]:
    """From the top of one box over what lies between to the top of the other."""
    x, to_x, to_y = a.middle[0], b.middle[0], b.y
    peak = min(a.y, b.y) - 24
    curve = f"C{x:.1f} {peak:.1f} {to_x:.1f} {peak:.1f} {to_x:.1f} {to_y - 5:.1f}"
    yield f'<path class="{_kind(edge)}" d="M{x:.1f} {a.y:.1f}{curve}"/>'
    yield f'<path class="head{_lit(edge.lit)}" d="M{to_x:.1f} {to_y:.1f}l-3.5 -7h7z"/>'


def _under(a: Place, b: Place, edge: Edge) -> Iterable[str]:
    """From the bottom of one box back to the bottom of another, or of itself."""
    x, y, to_x, to_y = a.middle[0] + 8, a.y + a.high, b.middle[0] - 8, b.y + b.high
    low = max(y, to_y) + 24
    curve = f"C{x:.1f} {low:.1f} {to_x:.1f} {low:.1f} {to_x:.1f} {to_y + 5:.1f}"
    yield f'<path class="{_kind(edge)}" d="M{x:.1f} {y:.1f}{curve}"/>'
    yield f'<path class="head{_lit(edge.lit)}" d="M{to_x:.1f} {to_y:.1f}l-3.5 7h7z"/>'


_COLOURS = {name: THEME[name] for name in ("ink", "soft", "card", "bad")} | {
    "lit": THEME["c1"],
    "line": ("#d5dae1", "#333b46"),
    "fill": ("#fff", "#22272f"),
}
STYLE = by_theme(".aipo-graph", _COLOURS) + static_text("graph.css")
