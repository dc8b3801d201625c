"""A coloured trace says who wrote what, and does no harm whatever was written."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aipo.render.colours import COLOURS
from aipo.render.display import headline, show, trace_html, trace_text
from aipo.render.spans import agent_order, text_spans
from aipo.render.trace_html import context_html, legend_html
from aipo.trace import Mode, Role, Segment, StopReason, Trace
from aipo.trace.arrow import Stored
from aipo.util.text import visible
from kit import handmade
from kit.handmade import contrast, decode, said

ALPHABET = [chr(i) for i in range(0x3000)]


def trace(*segments: Segment, **rest: Any) -> Trace:
    return handmade.trace(
        *segments, **({"task_id": "3@7", "step": 4, "mode": Mode.ASSISTED, "advantage": None} | rest)
    )


HELPED = trace(
    said(Role.PROMPT, "prompt", "3@7=?\n"),
    said(Role.POLICY, "policy", "<consult:knowledge>3@7</consult>"),
    said(Role.AGENT, "knowledge", "<feedback:knowledge>582</feedback>"),
    said(Role.POLICY, "policy", "\n#582"),
)


def test_every_segment_is_coloured_by_its_producer() -> None:
    html = context_html(HELPED, decode)
    assert re.findall(r'<span class="text (\w+)" title="(\w+)">', html) == [
        ("prompt", "prompt"),
        ("policy", "policy"),
        ("agent0", "knowledge"),
        ("policy", "policy"),
    ]
    assert "&lt;feedback:knowledge&gt;582&lt;/feedback&gt;" in html


def test_a_policy_that_writes_feedback_itself_keeps_its_own_colour() -> None:
    forged = trace(said(Role.POLICY, "policy", "<feedback:knowledge>582</feedback>"))
    assert '<span class="text policy"' in context_html(forged, decode)
    assert "agent0" not in context_html(forged, decode)


def test_agents_keep_their_colour_across_the_traces_of_a_page() -> None:
    other = trace(said(Role.AGENT, "verify", "no"))
    order = agent_order([other, HELPED])
    assert order == ("knowledge", "verify")
    assert [p.colour for p in text_spans(other, decode, order)] == ["agent1"]
    assert [p.colour for p in text_spans(other, decode)] == ["agent0"]


def test_more_agents_than_colours_start_over() -> None:
    crowd = trace(*(said(Role.AGENT, f"a{i}", "x") for i in range(8)))
    assert [p.colour for p in text_spans(crowd, decode)][6:] == ["agent0", "agent1"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\ud800", "⟨U+D800⟩"),
        ("\r\x00", "⟨U+000D⟩⟨U+0000⟩"),
        ("é漢😀", "é漢😀"),
    ],
)
def test_characters_that_steer_are_shown_by_code(text: str, shown: str) -> None:
    assert visible(text) == shown


class _Page(HTMLParser):
    """Tags, and the text of the context."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._inside = ("class", "text agent0") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.text += data if self._inside else ""


def read(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    page.close()
    return page


@given(st.text(st.characters(codec=None), min_size=1), st.text(min_size=1), st.text())
def test_what_a_model_wrote_makes_no_markup(text: str, source: str, error: str) -> None:
    hostile = trace(said(Role.AGENT, source, text), error=error, stop_reason=StopReason.ERROR, reward=None)
    page = read(trace_html(hostile, decode))
    assert page.tags == {"figure", "figcaption", "div", "span", "ul", "li"}
    assert page.attributes <= {"class", "title", "tabindex", "role", "aria-label"}
    assert page.text == visible(text)


def test_script_and_style_are_text() -> None:
    html = context_html(trace(said(Role.ENV, "e", "<script>x</script></style></div>")), decode)
    assert "<script" not in html and "</style" not in html and html.count("</div>") == 1


def test_texts_that_are_there_are_not_decoded_again() -> None:
    texts = ("asked", "asks", "told", "answers")

    def never(_: object) -> str:
        raise AssertionError("decoded")

    shown = show(Stored(HELPED, texts), never)
    assert str(shown).endswith("askedaskstoldanswers")
    assert ">told</span>" in shown._repr_html_()


def test_without_texts_the_decoder_helps_and_without_one_ids_are_shown() -> None:
    short = trace(said(Role.PROMPT, "prompt", "ab"))
    assert str(show(Stored(short, None), decode)).endswith("\nab")
    assert str(show(Stored(short, None))).endswith("\n⟨97 98⟩")
    html = show(short)._repr_html_()
    assert "⟨97 98⟩" in html and "These are its token ids" in html


def test_a_decoder_that_drops_the_first_space_drops_no_other() -> None:
    two = trace(said(Role.PROMPT, "prompt", "so"), said(Role.AGENT, "knowledge", " the answer"))
    found = text_spans(two, lambda ids: decode(ids).removeprefix(" "))
    assert [piece.text for piece in found] == ["so", " the answer"]


def test_texts_have_to_fit_the_segments() -> None:
    with pytest.raises(ValueError, match="argument"):
        text_spans(HELPED, ["one"])


def test_headline_says_what_a_reader_wants_first() -> None:
    assert headline(HELPED) == "3@7 · assisted · step 4 · reward 1 · ended by eos"
    failed = trace(reward=None, stop_reason=StopReason.ERROR, error="PolicyError: NaN")
    assert headline(failed) == "3@7 · assisted · step 4 · no reward · ended by error · PolicyError: NaN"
    assert "advantage -0.50" in headline(trace(advantage=-0.5))


def test_legend_has_what_occurs() -> None:
    legend = legend_html([HELPED])
    assert re.findall(r'<span class="(\w+)">(\w+)</span>', legend) == [
        ("prompt", "prompt"),
        ("policy", "policy"),
        ("agent0", "knowledge"),
    ]


def test_a_notebook_gets_html_and_a_terminal_gets_text() -> None:
    shown = show(HELPED, decode)
    bundle = shown._repr_mimebundle_()
    assert bundle["text/html"].startswith("<style>") and "aipo-context" in bundle["text/html"]
    assert "<consult:knowledge>3@7</consult><feedback:knowledge>582</feedback>\n#582" in bundle["text/plain"]
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(shown)
    assert "\x1b[32m<feedback:knowledge>582</feedback>" in capture.get()


def test_the_terminal_gets_no_codes_of_a_model() -> None:
    text = trace_text(trace(said(Role.POLICY, "policy", "\x1b]0;owned\x07")), decode)
    assert "\x1b" not in text.plain and "\x07" not in text.plain


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("producer", COLOURS)
@pytest.mark.parametrize("theme", [0, 1])
def test_every_colour_can_be_read(producer: str, theme: int) -> None:
    text, back = COLOURS[producer][theme]
    assert contrast(text, back) >= 4.5
