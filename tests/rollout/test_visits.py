"""Visits: which nodes ran, what they asked and how they ended."""

import asyncio
import contextlib
import contextvars
from typing import Any

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from aipo.rollout.agent import AgentState
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Role, Trace, segment
from kit.agents import sub_graph
from kit.engines import TOKENIZER, ask, boom, chain, failure, mark, policies, run, texts, think
from kit.handmade import consult


def consulting(check: Any, **settings: Any) -> Any:
    """ask, think, a node `verify` that runs a sub-graph of the node `check` twice, think, mark."""
    inner = sub_graph(check, **settings)

    async def verify(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        first = await inner.ainvoke({"request": "6x7?"})
        second = await inner.ainvoke({"request": first["reply"]})
        await runtime.context.chat("closing", [HumanMessage("bye")])
        reply = segment(Role.AGENT, "verify", TOKENIZER.encode(second["reply"]))
        asked = consult(1, 0, 2, agent="verify", request="6x7?", reply=second["reply"])
        return {"segments": [reply], "consults": [asked]}

    return chain(ask=ask, think=think, verify=verify, again=think, mark=mark)


async def check(state: AgentState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    return {"reply": await runtime.context.chat("verify", [HumanMessage(state["request"])])}


def chats(*replies: str) -> dict[str, ChatModel]:
    settings = {"temperature": 0}
    return {
        name: ChatModel(model=FakeListChatModel(responses=list(said)), name="fake", settings=settings)
        for name, said in {"verify": replies, "closing": ("bye",)}.items()
    }


CONSULT = "<consult:verify>6x7?</consult>"


def test_nested_visits_carry_their_calls():
    [trace] = run(consulting(check), policies=policies(CONSULT, "42"), chats=chats("43", "no, 42"))
    assert texts(trace) == ["prompt: 6x7=", f"policy: {CONSULT}", "agent: no, 42", "policy: 42<eos>"]
    paths = ["ask", "think", "verify", "verify/check", "verify/check", "again", "mark"]
    assert [(v.path, v.outcome) for v in trace.visits] == [(path, "ok") for path in paths]
    said = [(v.path, c.visit, c.messages[0]["content"], c.reply) for v in trace.visits for c in v.calls]
    assert said == [
        ("verify", "verify", "bye", "bye"),
        ("verify/check", "verify/check", "6x7?", "43"),
        ("verify/check", "verify/check", "43", "no, 42"),
    ]
    assert trace.consults[0].reply == "no, 42"
    assert trace.count(Role.AGENT) == 6
    assert Trace.from_json(trace.to_json()) == trace


def test_every_attempt_of_a_retried_node_is_a_call_of_its_visit():
    attempts = 0

    async def flaky(state: AgentState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        nonlocal attempts
        reply = await runtime.context.chat("verify", [HumanMessage("?")])
        attempts += 1
        if attempts == 1:
            raise ConnectionError("lost")
        return {"reply": reply}

    graph = consulting(
        flaky, retry_policy=RetryPolicy(retry_on=ConnectionError, initial_interval=0, jitter=False)
    )
    [trace] = run(graph, policies=policies(CONSULT, "42"), chats=chats("a", "b", "c"))
    inner = [v for v in trace.visits if v.path == "verify/flaky"]
    assert [[c.reply for c in v.calls] for v in inner] == [["a", "b"], ["c"]]


def test_a_call_outside_of_every_node_that_was_seen_is_kept():
    # A sub-graph that is run under another configuration streams nothing to the engine.
    async def aside(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        await loop.create_task(
            runtime.context.chat("verify", [HumanMessage("psst")]), context=contextvars.Context()
        )
        return {}

    [trace] = run(chain(ask=ask, aside=aside, think=think, mark=mark), chats=chats("42"))
    last = trace.visits[-1]
    assert (last.path, last.outcome, [c.reply for c in last.calls]) == ("?", "unknown", ["42"])


def test_an_error_names_the_innermost_node():
    trace = failure(consulting(boom), policies=policies(CONSULT, "42"), chats=chats("a"))
    assert trace.error == "RuntimeError: boom (in node verify/boom)"
    assert texts(trace) == ["prompt: 6x7=", f"policy: {CONSULT}"]
    assert {v.path: v.outcome for v in trace.visits}["verify"] == "RuntimeError: boom"


def test_an_error_that_was_dealt_with_is_not_blamed_for_a_later_one():
    inner = sub_graph(boom)

    async def careful(state: RolloutState) -> dict[str, Any]:
        with contextlib.suppress(RuntimeError):
            await inner.ainvoke({"request": "?"})
        return {}

    async def later(state: RolloutState) -> dict[str, Any]:
        raise RuntimeError("later")

    trace = failure(chain(ask=ask, careful=careful, later=later))
    assert trace.error == "RuntimeError: later (in node later)"
    assert [(v.path, v.outcome) for v in trace.visits] == [
        ("ask", "ok"),
        ("careful", "ok"),
        ("careful/boom", "RuntimeError: boom"),
        ("later", "RuntimeError: later"),
    ]
