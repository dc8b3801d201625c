"""A trace for people: HTML for pages and notebooks, text for the terminal, pictures of graphs, charts."""

from aipo.render.display import headline, show, trace_html, trace_text

__all__ = ["headline", "show", "trace_html", "trace_text"]
