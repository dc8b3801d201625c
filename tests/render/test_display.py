"""A coloured trace says who wrote what, and does no harm whatever was written."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from rich.console import Console

from aipo.render.colours import COLOURS
from aipo.render.display import headline, show, trace_html, trace_text
from aipo.render.spans import agent_order, text_spans
from aipo.render.trace_html import context_html, legend_html
from aipo.trace import Mode, Role, Segment, StopReason, Trace
from aipo.trace.arrow import Stored
from aipo.util.text import visible
from kit import handmade
from kit.handmade import Elements, contrast, decode, said


def trace(*segments: Segment, **rest: Any) -> Trace:
    values = {"task_id": "3@7", "step": 4, "mode": Mode.ASSISTED, "advantage": None}
    return handmade.trace(*segments, **(values | rest))


HELPED = trace(
    said(Role.PROMPT, "prompt", "3@7=?\n"),
    said(Role.POLICY, "policy", "<consult:knowledge>3@7</consult>"),
    said(Role.AGENT, "knowledge", "<feedback:knowledge>582</feedback>"),
    said(Role.POLICY, "policy", "\n#582"),
)


def test_every_segment_is_coloured_by_its_producer() -> None:
    html, legend = context_html(HELPED, decode), legend_html([HELPED])
    producers = [("prompt", "prompt"), ("policy", "policy"), ("agent0", "knowledge")]
    assert re.findall(r'<span class="text (\w+)" title="(\w+)">', html) == [*producers, producers[1]]
    assert re.findall(r'<span class="(\w+)">(\w+)</span>', legend) == producers
    assert "&lt;feedback:knowledge&gt;582&lt;/feedback&gt;" in html
    forged = context_html(trace(said(Role.POLICY, "policy", "<feedback:knowledge>582</feedback>")), decode)
    assert '<span class="text policy"' in forged and "agent0" not in forged


def test_agents_keep_their_colour_across_the_traces_of_a_page() -> None:
    other = trace(said(Role.AGENT, "verify", "no"))
    order = agent_order([other, HELPED])
    assert order == ("knowledge", "verify")
    assert [p.colour for p in text_spans(other, decode, order)] == ["agent1"]
    assert [p.colour for p in text_spans(other, decode)] == ["agent0"]
    crowd = trace(*(said(Role.AGENT, f"a{i}", "x") for i in range(8)))  # more of them than colours
    assert [p.colour for p in text_spans(crowd, decode)][6:] == ["agent0", "agent1"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"), ("é漢😀", "é漢😀"), ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u202eabc", "⟨U+202E⟩abc"), ("\ud800", "⟨U+D800⟩"), ("\r\x00", "⟨U+000D⟩⟨U+0000⟩"),
    ],
)  # fmt: skip
def test_characters_that_steer_are_shown_by_code(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None), min_size=1), st.text(min_size=1), st.text())
def test_what_a_model_wrote_makes_no_markup(text: str, source: str, error: str) -> None:
    hostile = trace(said(Role.AGENT, source, text), error=error, stop_reason=StopReason.ERROR, reward=None)
    html = trace_html(hostile, decode)
    elements = Elements(html).all
    assert {tag for tag, _ in elements} == {"figure", "figcaption", "div", "span", "ul", "li"}
    allowed = {"class", "title", "tabindex", "role", "aria-label"}
    assert {name for _, attributes in elements for name in attributes} <= allowed
    assert f'">{escape(visible(text))}</span>' in html


def test_texts_that_are_there_are_not_decoded_again_and_without_a_decoder_ids_are_shown() -> None:
    shown = show(Stored(HELPED, ("asked", "asks", "told", "answers")), decode)
    assert str(shown).endswith("askedaskstoldanswers") and ">told</span>" in shown._repr_html_()
    short = trace(said(Role.PROMPT, "prompt", "ab"))
    assert str(show(Stored(short, None), decode)).endswith("\nab")
    assert str(show(Stored(short, None))).endswith("\n⟨97 98⟩")
    html = show(short)._repr_html_()
    assert "⟨97 98⟩" in html and "These are its token ids" in html
    with pytest.raises(ValueError, match="argument"):
        text_spans(HELPED, ["one"])


def test_a_decoder_that_drops_the_first_space_drops_no_other() -> None:
    two = trace(said(Role.PROMPT, "prompt", "so"), said(Role.AGENT, "knowledge", " the answer"))
    spans = text_spans(two, lambda ids: decode(ids).removeprefix(" "))
    assert [span.text for span in spans] == ["so", " the answer"]


def test_headline_says_what_a_reader_wants_first() -> None:
    assert headline(HELPED) == "3@7 · assisted · step 4 · reward 1 · ended by eos"
    failed = trace(reward=None, stop_reason=StopReason.ERROR, error="PolicyError: NaN")
    assert headline(failed) == "3@7 · assisted · step 4 · no reward · ended by error · PolicyError: NaN"
    assert "advantage -0.50" in headline(trace(advantage=-0.5))
    assert headline(trace(reason="no box")).endswith("ended by eos · no box")


def test_a_notebook_gets_html_and_a_terminal_gets_text() -> None:
    shown = show(HELPED, decode)
    html = shown._repr_html_()
    assert html.startswith("<style>") and "aipo-context" in html
    assert "<consult:knowledge>3@7</consult><feedback:knowledge>582</feedback>\n#582" in repr(shown)
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(shown)
    assert "\x1b[32m<feedback:knowledge>582</feedback>" in capture.get()
    text = trace_text(trace(said(Role.POLICY, "policy", "\x1b]0;owned\x07")), decode)
    assert "\x1b" not in text.plain and "\x07" not in text.plain


@pytest.mark.parametrize("producer", COLOURS)
def test_every_colour_can_be_read_in_both_themes(producer: str) -> None:
    assert min(contrast(text, back) for text, back in COLOURS[producer]) >= 4.5
