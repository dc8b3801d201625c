"""What a reader of Markdown makes of a card."""

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt  # comes with rich

WILD = "1.0 \\| | <img src=x>\n\n# forged\n`<b>` [link](http-x)"
"""What would be markup if a card printed it as it is."""
SHOWN = "1.0 \\ | | <img src=x> # forged '<b>' [link](http-x)"
"""`WILD` as the code span in a cell of a table."""


class Markup(NamedTuple):
    """Parts of a card.

    Args:
        code: how often each text is a code span.
        html: raw HTML.
    """

    headings: list[str]
    links: list[str]
    code: Counter[str]
    html: list[str]


def markup(text: str) -> Markup:
    """The parts of a card in GitHub's Markdown."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    tokens = [*blocks, *(child for block in blocks for child in block.children or [])]
    return Markup(
        headings=[b.content for a, b in pairwise(blocks) if a.type == "heading_open"],
        links=[str(token.attrs["href"]) for token in tokens if token.type == "link_open"],
        code=Counter(token.content for token in tokens if token.type == "code_inline"),
        html=[token.content for token in tokens if token.type.startswith("html")],
    )
