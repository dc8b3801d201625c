"""A consult is a card in place: closed it says request and reply, open it says everything."""

import re
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.render.spans import text_spans
from aipo.render.trace_html import ConsultCard, TextBlock, bare, blocks, context_html, cut
from aipo.trace import Call, Consult, Mode, Role, Trace, Visit
from kit import handmade
from kit.handmade import decode, said

CALL = Call(
    agent="verify",
    visit="verify/check",
    model="qwen",
    messages=({"role": "human", "content": "Is <b>7*8</b> 56?"},),
    reply="yes & no",
    settings={"temperature": 0.7},
    tokens_in=437,
    tokens_out=5,
    attempts=3,
    started=0.3,
    seconds=0.25,
    error="late once",
)
ASKED = Consult(
    agent="verify", request="7*8=56", reply="right", request_segment=1, request_start=4, reply_segment=2
)


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
        "visits": (
            Visit(path="verify", started=0.2, seconds=0.5, outcome="ok"),
            Visit(path="verify/check", started=0.3, seconds=0.31, outcome="ValueError: <no>", calls=(CALL,)),
        ),
    }
    return handmade.trace(**({"task_id": "7*8", "step": 4} | values | changes))


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html))).strip()


def summary_of(html: str) -> str:
    found = re.search(r"<summary>(.*?)</summary>", html, re.DOTALL)
    assert found is not None
    return words_of(found[1])


def test_a_closed_card_reads_request_and_reply_at_one_glance() -> None:
    html = context_html(trace(), decode)
    assert summary_of(html) == "verify 7*8=56 → right 500 ms · 1 call · 437 → 5 tokens · 2 retries"
    assert '<details class="aipo-consult of-agent0">' in html
    assert "open>" not in html


def test_an_open_card_has_what_ran_in_between() -> None:
    words = words_of(context_html(trace(), decode))
    assert "Request <consult:verify>7*8=56</consult> What ran check 310 ms ValueError: <no>" in words
    assert "qwen temperature 0.7 437 → 5 tokens 3 attempts 250 ms" in words
    assert "human Is <b>7*8</b> 56? reply yes & no late once" in words
    assert words.endswith("Reply <feedback:verify>right</feedback> #56")


def test_anchors_are_given_to_one_trace_of_a_page_only() -> None:
    assert re.findall(r' id="([^"]+)"', context_html(trace(), decode, anchors=True)) == [
        "s0",
        "s1",
        "consult-0",
        "s2",
        "s3",
    ]
    assert " id=" not in context_html(trace(), decode)


def test_a_consult_that_got_a_notice_says_why_once() -> None:
    refused = trace(
        segments=(
            said(Role.PROMPT, "prompt", "?"),
            said(Role.POLICY, "policy", "<consult:magic>now</consult>"),
            said(Role.ENV, "notice", "<notice>No agent magic.</notice>"),
        ),
        consults=(
            Consult(
                agent="magic",
                request="now",
                reply=None,
                error="unknown: No agent magic.",
                request_segment=1,
                request_start=0,
                reply_segment=2,
            ),
        ),
        visits=(),
    )
    html = context_html(refused, decode)
    assert summary_of(html) == "magic now → No agent magic. unknown"
    assert "of-env" in html and "No visit of the graph was recorded for it." in html


def test_a_request_that_was_never_closed_stays_in_the_text() -> None:
    open_ended = trace(
        segments=(
            said(Role.PROMPT, "prompt", "?"),
            said(Role.POLICY, "policy", "hm <consult:verify>7*8"),
            said(Role.ENV, "notice", "<notice>Unclosed.</notice>"),
        ),
        consults=(
            Consult(
                agent="verify",
                request=None,
                reply=None,
                error="unclosed: Unclosed.",
                request_segment=1,
                request_start=3,
                reply_segment=2,
            ),
        ),
    )
    html = context_html(open_ended, decode)
    assert "hm &lt;consult:verify&gt;7*8</span>" in html
    assert summary_of(html).startswith("verify a request that was never closed → Unclosed.")


def test_calls_of_no_consult_are_shown_at_the_end() -> None:
    cancelled = Visit(path="verify/check", started=0.3, seconds=None, outcome="cancelled", calls=(CALL,))
    html = context_html(trace(consults=(), visits=(cancelled,)), decode, anchors=True)
    assert 'id="unasked"' in html
    assert summary_of(html) == "Ran without an answer verify/check cancelled"
    assert "never ended" in html


def test_several_consults_may_share_a_segment_or_have_none() -> None:
    consults = (
        ASKED,
        ASKED,
        Consult(**{f: getattr(ASKED, f) for f in ASKED.__slots__} | {"reply_segment": 99}),
    )
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
        ("verify 7*8=56</consult>", None),
        ("7*8=56", None),
        ("", None),
    ],
)
def test_a_request_is_cut_only_where_it_is_certain(text: str, before: str | None) -> None:
    head, tail = cut(text, ASKED)
    assert head + tail == text
    assert head == (text if before is None else before)
    assert bool(tail) == (before is not None)


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("<notice>No.</notice>", "No."),
        (" <a>x<b>y</a> ", "x<b>y"),
        ("plain", "plain"),
        ("<a>", "<a>"),
        ("", ""),
    ],
)
def test_the_words_of_the_machinery_without_their_tag(text: str, inner: str) -> None:
    assert bare(text) == inner


TEXT = st.text("ab<>/: \n", max_size=12)


@given(
    st.lists(st.tuples(st.sampled_from(list(Role)), TEXT), max_size=6),
    st.lists(
        st.tuples(
            st.sampled_from(["a", "", "notice"]), st.none() | TEXT, st.integers(-2, 8), st.integers(-2, 8)
        )
    ),
)
def test_the_blocks_hold_every_segment_once_and_in_order(
    segments: list[tuple[Role, str]], consults: list[tuple[str, str | None, int, int]]
) -> None:
    parts = tuple(said(role, "a", text or "b") for role, text in segments)
    asked = tuple(
        Consult(agent=a, request=r, reply=r, request_segment=i, request_start=None, reply_segment=j)
        for a, r, i, j in consults
    )
    one = trace(segments=parts, consults=asked)
    found = list(blocks(one, text_spans(one, decode)))
    texts = [
        block.text
        if isinstance(block, TextBlock)
        else block.request + (block.piece.text if block.piece else "")
        for block in found
    ]
    assert "".join(texts) == decode(one.token_ids)
    cards = [block.of.number for block in found if isinstance(block, ConsultCard)]
    assert sorted(cards) == list(range(len(asked)))
    context_html(one, decode, anchors=True)


def test_a_tag_soup_costs_no_time() -> None:
    soup = "<verify" * 20_000 + ">" * 20_000
    assert cut(soup, ASKED) == (soup, "")
