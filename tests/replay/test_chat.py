"""A recorded chat model answers what it was asked then, and raises what it raised."""

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage

from aipo.errors import ReplayError
from aipo.replay.chat import AgentModel, question_of, replay_chat
from aipo.replay.reuse import Reuse, recorded_error
from aipo.rollout.agent import transient
from aipo.trace import Call
from aipo.util.http.reply import THINKING_TAGS, Reply, read_reply
from kit import handmade
from kit.agents import FunctionChat

SETTINGS = {"class": "m:f", "temperature": 0}


def call(text: str, reply: str | None = "right", **changes: Any) -> Call:
    given = {"agent": "verify", "visit": "verify/check", "model": "m", "settings": SETTINGS}
    given |= {"messages": ({"role": "human", "content": text},), "reply": reply}
    return Call(**{**given, "started": 0.0, "seconds": 1.0, **changes})


def chat(*calls: Call, live: BaseChatModel | None = None, reuse: Reuse | None = None, **rest: Any) -> Any:
    trace = handmade.trace(visits=(handmade.visit("verify/check", 0, 1, "ok", *calls),))
    agent_model = AgentModel("m", rest.pop("settings", SETTINGS), live)
    return replay_chat("verify", trace, agent_model, reuse=reuse or Reuse(), **rest).model


def ask(model: BaseChatModel, text: str) -> AIMessage:
    return asyncio.run(model.ainvoke([HumanMessage(text)]))


def test_each_call_answers_once_in_any_order() -> None:
    reuse = Reuse()
    model = chat(call("a", "1", tokens_in=5, tokens_out=2), call("b", "2"), call("a", "3"), reuse=reuse)
    replies = [ask(model, text) for text in ("b", "a", "a")]
    assert [reply.text for reply in replies] == ["2", "1", "3"]
    assert replies[1].usage_metadata == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    assert replies[0].usage_metadata is None
    assert (reuse.calls, reuse.live_calls, reuse.fork) == (3, 0, None)
    with pytest.raises(ReplayError, match="no call is left in the recording"):
        ask(model, "a")


def test_a_recorded_reply_has_its_thinking_and_its_end_again() -> None:
    recorded = call("a", "582", thinking="3@7?", finish="length")
    assert read_reply(ask(chat(recorded), "a"), THINKING_TAGS) == Reply("582", "3@7?", "length")
    as_before = call("a", "<think>3@7?</think>582")
    assert read_reply(ask(chat(as_before), "a"), {}) == Reply("<think>3@7?</think>582", None, None)


def test_another_question_needs_a_live_call_and_says_where_it_begins_to_differ() -> None:
    reuse = Reuse()
    with pytest.raises(ReplayError) as caught:
        ask(chat(call("Claim: 2+2=5"), reuse=reuse), "Claim: 2+2=4")
    assert "a call of 'verify' in 't': messages: got" in str(caught.value)
    assert "2+2=4" in str(caught.value) and "2+2=5" in str(caught.value)
    assert reuse.missing is caught.value
    with pytest.raises(ReplayError, match="settings: got"):
        ask(chat(call("a"), settings={**SETTINGS, "temperature": 1}), "a")


def test_what_was_not_recorded_goes_to_the_live_model() -> None:
    reuse = Reuse()
    model = chat(call("a"), live=FunctionChat(function=lambda _: "live"), reuse=reuse)
    assert [ask(model, text).text for text in ("other", "a")] == ["live", "right"]
    assert (reuse.calls, reuse.live_calls) == (1, 1)
    assert reuse.fork.at == "call of verify"


def test_a_reply_from_a_cache_is_found_in_the_other_rollouts() -> None:
    there = call("a", "shared")
    assert ask(chat(shared={question_of(there): there}), "a").text == "shared"


def test_a_recorded_error_is_raised_again_and_retried_if_it_was() -> None:
    model = chat(*[call("a", None, error="HTTPError: status 503")] * 2)
    for is_retried in (True, False):
        with pytest.raises(Exception, match="status 503") as caught:
            ask(model, "a")
        assert (type(caught.value).__name__, transient(caught.value)) == ("HTTPError", is_retried)


def test_a_call_that_was_cancelled_waits_to_be_cancelled_again() -> None:
    model = chat(call("a", None, error="CancelledError: "))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(model.ainvoke([HumanMessage("a")]), 0.01))


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ("ConnectionError: reset", ConnectionError, "reset"),
        ("KeyError: 'x'", KeyError, "'x'"),
        ("UnicodeDecodeError: bad byte", UnicodeDecodeError, "bad byte"),
        ("ExceptionGroup: two (2 sub-exceptions)", Exception, "two (2 sub-exceptions)"),
        ("AgentError: a: b", RuntimeError, "a: b"),
        ("APIStatusError: 500", Exception, "500"),
        ("SystemExit: 1", Exception, "1"),
        ("no name at all", Exception, "no name at all"),
    ],
)
def test_recorded_errors_keep_their_class_and_text(said: str, kind: type[Exception], text: str) -> None:
    error = recorded_error(said, retried=False)
    assert isinstance(error, kind)
    assert str(error) == text
    assert type(error).__name__ == (said.partition(": ")[0] if ": " in said else "Exception")


def test_calls_that_do_not_wait_are_refused() -> None:
    with pytest.raises(ReplayError, match="allowed `await`"):
        chat(call("a")).invoke("a")
