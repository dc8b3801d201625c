"""A consult is a card in place: closed it says request and reply, open it says everything."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.spans import text_spans
from aipo.render.trace_html import ConsultCard, TextBlock, bare, blocks, context_html, cut
from aipo.trace import Call, Consult, Mode, Role, Trace
from kit import handmade
from kit.handmade import call, consult, decode, env, policy, prompt, said, text_of, visit

CALL = call(
    0.3, 0.25, agent="verify", visit="verify/check", model="qwen", settings={"temperature": 0.7},
    messages=({"role": "human", "content": "Is <b>7*8</b> 56?"},), reply="yes & no",
    tokens_in=437, tokens_out=5, attempts=3, error="late once",
)  # fmt: skip
ASKED = consult(1, 4, 2, agent="verify", request="7*8=56", reply="right")


def trace(**changes: Any) -> Trace:
    values: dict[str, Any] = {
        "mode": Mode.ASSISTED,
        "segments": (
            said(Role.PROMPT, "prompt", "7*8=?\n"),
            said(Role.POLICY, "policy", "I think<consult:verify>7*8=56</consult>"),
            said(Role.AGENT, "verify", "<feedback:verify>right</feedback>"),
            said(Role.POLICY, "policy", "\n#56"),
        ),
        "consults": (ASKED,),
        "visits": (visit("verify", 0.2, 0.5), visit("verify/check", 0.3, 0.31, "ValueError: <no>", CALL)),
    }
    return handmade.trace(**({"task_id": "7*8", "step": 4} | values | changes))


def summary_of(html: str) -> str:
    return text_of(html.partition("<summary>")[2].partition("</summary>")[0])


def test_a_closed_card_reads_request_and_reply_at_one_glance() -> None:
    html = context_html(trace(), decode)
    assert summary_of(html) == "verify 7*8=56 → right 500 ms · 1 call · 437 → 5 tokens · 2 retries"
    assert '<details class="aipo-consult of-agent0">' in html
    assert "open>" not in html


@pytest.mark.parametrize(
    ("calls", "cost"),
    [
        ((), "500 ms"),
        ((CALL, replace(CALL, tokens_out=None)), "500 ms · 2 calls · 874 → 5 tokens · 4 retries"),
        ((replace(CALL, attempts=1, finish="length"),), "500 ms · 1 call · 437 → 5 tokens · 1 cut"),
        ((replace(CALL, tokens_in=None, attempts=2),), "500 ms · 1 call · ? → 5 tokens · 1 retry"),
        ((replace(CALL, tokens_in=None, tokens_out=None, attempts=1),), "500 ms · 1 call"),
        ((replace(CALL, attempts=1, cached=True),), "500 ms · 1 call · 437 → 5 tokens · cached"),
    ],
)
def test_calls_add_up_and_what_is_unknown_stays_so(calls: tuple[Call, ...], cost: str) -> None:
    html = context_html(trace(visits=(visit("verify", 0.2, 0.5, "ok", *calls),)), decode)
    assert summary_of(html).endswith(f"→ right {cost}")


def test_an_open_card_has_what_ran_in_between() -> None:
    words = text_of(context_html(trace(), decode))
    assert "Request <consult:verify>7*8=56</consult> What ran check 310 ms ValueError: <no>" in words
    assert "qwen temperature 0.7 437 → 5 tokens 3 attempts 250 ms" in words
    assert "human Is <b>7*8</b> 56? reply yes & no late once" in words
    assert words.endswith("Reply <feedback:verify>right</feedback> #56")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thinking": "7*8 is <i>56"}, "thinking, 12 characters 7*8 is <i>56 reply yes & no late"),
        ({"finish": "length"}, "reply yes & no cut by its server (finish_reason length) late"),
        ({"finish": "stop"}, "reply yes & no late"),
        (
            {"reply": "", "thinking": "7*8", "finish": "length"},
            "reply qwen wrote only thinking (3 characters), cut by its server (finish_reason length)",
        ),
        ({"reply": ""}, "reply qwen wrote no text"),
    ],
)
def test_a_call_says_what_was_thought_and_whether_its_reply_was_cut(
    changes: dict[str, Any], words: str
) -> None:
    one = visit("verify/check", 0.3, 0.31, "ok", replace(CALL, **changes))
    assert words in text_of(context_html(trace(visits=(visit("verify", 0.2, 0.5), one)), decode))


def test_anchors_are_given_to_one_trace_of_a_page_only() -> None:
    ids = re.findall(r' id="([^"]+)"', context_html(trace(), decode, anchors=True))
    assert ids == ["s0", "s1", "consult-0", "s2", "s3"]
    assert " id=" not in context_html(trace(), decode)


def noticed(asking: str, notice: str, consult: Consult) -> str:
    segments = prompt("?"), policy(asking), env(notice)
    return context_html(trace(segments=segments, consults=(consult,), visits=()), decode)


def test_a_consult_that_got_a_notice_says_why_once() -> None:
    refused = consult(1, 0, 2, agent="magic", request="now", reply=None, error="unknown: No agent magic.")
    html = noticed("<consult:magic>now</consult>", "<notice>No agent magic.</notice>", refused)
    assert summary_of(html) == "magic now → No agent magic. unknown"
    assert "of-env" in html and "No visit of the graph was recorded for it." in html


def test_a_request_that_was_never_closed_stays_in_the_text() -> None:
    unclosed = consult(1, 3, 2, agent="verify", request=None, reply=None, error="unclosed: Unclosed.")
    html = noticed("hm <consult:verify>7*8", "<notice>Unclosed.</notice>", unclosed)
    assert "hm &lt;consult:verify&gt;7*8</span>" in html
    assert summary_of(html).startswith("verify a request that was never closed → Unclosed.")


def test_calls_of_no_consult_are_shown_at_the_end() -> None:
    cancelled = visit("verify/check", 0.3, None, "cancelled", CALL)
    html = context_html(trace(consults=(), visits=(cancelled,)), decode, anchors=True)
    assert 'id="unasked"' in html
    assert summary_of(html) == "Ran without an answer verify/check cancelled"
    assert "never ended" in html


def test_several_consults_may_share_a_segment_or_have_none() -> None:
    consults = (ASKED, ASKED, replace(ASKED, reply_segment=99))
    html = context_html(trace(consults=consults), decode, anchors=True)
    assert re.findall(r'id="(consult-\d)"', html) == ["consult-0", "consult-1", "consult-2"]
    assert html.count('id="s2"') == 1
    assert "&lt;consult:verify&gt;7*8=56&lt;/consult&gt;</span>" in html  # whose request, nobody can say


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("so <consult:verify>7*8=56</consult>", "so "),
        ("<ask verify>\n 7*8=56 \n</ask>\n", ""),
        ("a<b <consult:verify>7*8=56</consult>", "a<b "),
        ("<consult:verify>7*8=56</consult> and on", None),
        ("<consult:knowledge>7*8=56</consult>", None),
        ("<consult:verify>something else</consult>", None),
        ("verify 7*8=56</consult>", None), ("7*8=56", None), ("", None),
    ],
)  # fmt: skip
def test_a_request_is_cut_only_where_it_is_certain(text: str, before: str | None) -> None:
    head, tail = cut(text, ASKED)
    assert head + tail == text
    assert head == (text if before is None else before)
    assert bool(tail) == (before is not None)


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("<notice>No.</notice>", "No."), (" <a>x<b>y</a> ", "x<b>y"),
        ("plain", "plain"), ("<a>", "<a>"), ("", ""),
    ],
)  # fmt: skip
def test_the_words_of_the_machinery_without_their_tag(text: str, inner: str) -> None:
    assert bare(text) == inner


TEXT, PLACE = st.text("ab<>/: \n", max_size=12), st.integers(-2, 8)
CONSULTS = st.tuples(st.sampled_from(["a", "", "notice"]), st.none() | TEXT, PLACE, PLACE)


@given(st.lists(st.tuples(st.sampled_from(list(Role)), TEXT), max_size=6), st.lists(CONSULTS))
def test_the_blocks_hold_every_segment_once_and_in_order(
    segments: list[tuple[Role, str]], consults: list[tuple[str, str | None, int, int]]
) -> None:
    parts = tuple(said(role, "a", text or "b") for role, text in segments)
    asked = tuple(consult(i, None, j, agent=a, request=r, reply=r) for a, r, i, j in consults)
    one = trace(segments=parts, consults=asked)
    found = list(blocks(one, text_spans(one, decode)))
    texts = [
        b.text if isinstance(b, TextBlock) else b.request + (b.piece.text if b.piece else "") for b in found
    ]
    assert "".join(texts) == decode(one.token_ids)
    cards = [block.of.number for block in found if isinstance(block, ConsultCard)]
    assert sorted(cards) == list(range(len(asked)))
    context_html(one, decode, anchors=True)


def test_a_tag_soup_costs_no_time() -> None:
    soup = "<verify" * 20_000 + ">" * 20_000
    assert cut(soup, ASKED) == (soup, "")
