"""The graph panel of a trace: the graph with the trace's path lit, and the timeline of its visits."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from aipo.render.graph_svg import graph_svg
from aipo.trace import Trace
from aipo.util.text import visible
from aipo.viewer.pages.timeline import timeline_svg
from aipo.viewer.pages.visits import Station, path_through, stations


def graph_panel(trace: Trace, drawing: Mapping[str, Any] | None, agents: Sequence[str] = ()) -> Markup:
    """The panel as HTML; needs panel.css, and panel.js to show which bars belong to which node.

    Args:
        drawing: as `graph.json` has it. Without one, or with one that makes no sense, there is only the
            timeline; visits of nodes that are not in it (somebody edited the graph) are listed.
        agents: fixes the agents' colours, as in `aipo.render.shown`.
    """
    found = stations(trace)
    picture = _picture(found, drawing) if drawing is not None and _sound(drawing) else ""
    times = timeline_svg(trace, found, agents) or '<p class="soft">No node was visited.</p>'
    return Markup(
        f'<div class="panel{"" if picture else " alone"}" data-panel>{picture}'
        f'<figure class="panel-times"><figcaption>Timeline</figcaption>{times}</figure></div>'
    )


def _picture(found: Sequence[Station], drawing: Mapping[str, Any]) -> str:
    lit, strangers = path_through(found, drawing)
    return (
        '<figure class="panel-graph"><figcaption>Graph</figcaption>'
        f'<div class="panel-scroll" tabindex="0" role="region" aria-label="graph, scrolls sideways">'
        f"{graph_svg(drawing, lit)}</div>{_strangers(strangers)}</figure>"
    )


def _strangers(strangers: Sequence[Station]) -> str:
    if not strangers:
        return ""
    paths = {s.visit.path: s.href for s in reversed(strangers)}
    items = "".join(
        f'<li><a href="{href}">{_shown(path)}</a></li>' if href else f"<li>{_shown(path)}</li>"
        for path, href in reversed(paths.items())
    )
    return f'<p class="soft">Visited, but not in this drawing:</p><ul class="panel-strangers">{items}</ul>'


def _shown(path: str) -> str:
    return escape(visible("calls outside of every node" if path == "?" else path))


def _sound(drawing: Mapping[str, Any]) -> bool:
    """Does a drawing, which is a file that anybody can edit, have the shape that it should?"""
    nodes, edges = drawing.get("nodes"), drawing.get("edges")
    if not isinstance(nodes, list) or not nodes or not isinstance(edges, list):
        return False
    named = all(isinstance(node, str) for node in nodes)
    return named and all(
        isinstance(edge, dict)
        and isinstance(edge.get("from"), str)
        and isinstance(edge.get("to"), str)
        and "conditional" in edge
        for edge in edges
    )
