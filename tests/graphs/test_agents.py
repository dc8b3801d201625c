"""The three sub-graphs by themselves, their prompts, and what is cached."""

import asyncio
import re

import pytest

from aipo.rollout.prompt import Prompt
from graphs.knowledge import knowledge
from graphs.reasoning import reasoning
from graphs.verify import read_verdict, verify
from kit.agents import PROMPTS, FunctionChat, build_context, build_spec

LONG = "I have 3@7 and\n25 and I wonder"


def task_of(prompt: str) -> str:
    return re.search(r"^Task: (\w+)$", prompt, re.MULTILINE)[1]


def ask(graph, name: str, replies: dict[str, str], request: str) -> tuple[str, list[str]]:
    """The agent's reply and the steps that called the chat model; `replies` are by step."""
    chat = FunctionChat(function=lambda prompt: replies[task_of(prompt)])
    context = build_context([""], chats={name: chat})
    given = {"question": "3@7+25=?\n", "context": "so far", "request": request}
    answer = asyncio.run(graph.ainvoke(given, context=context))
    return answer["reply"], [task_of(prompt) for prompt in chat.seen]


@pytest.mark.parametrize(
    ("factory", "request_text", "replies", "reply"),
    [
        (verify, "582+25=607", {"check": "right"}, "right"),
        (verify, "582+25=606", {"check": "wrong: 582+25=607"}, "582+25=607"),
        (verify, "582+25=606", {"check": "2+5=7, so\n**Wrong**: 582+25=607 \n"}, "582+25=607"),
        (verify, LONG, {"find": " 582+25=607\n", "check": "right"}, "right"),
        (verify, "1+1=3", {"check": "No, it is 2.", "verdict": "wrong: 1+1=2"}, "1+1=2"),
        (verify, "1+1=3", {"check": "Hm.", "verdict": "I cannot tell"}, "I cannot tell"),
        (verify, "1+1=3", {"check": ""}, ""),
        (verify, "1+1=3", {"check": "<think>1+1=2, so"}, ""),
        (verify, "1+1=3", {"check": "<think>right?</think>wrong: 1+1=2"}, "1+1=2"),
        (verify, LONG, {"find": "<think>hm</think>582+25=607", "check": "right"}, "right"),
        (knowledge, "3@7", {"answer": f"<think>{'x' * 401}</think>3@7=582"}, "3@7=582"),
        (knowledge, "3@7", {"answer": "3@7=582\n"}, "3@7=582"),
        (knowledge, LONG, {"formulate": "3@7", "answer": "3@7=582"}, "3@7=582"),
        (knowledge, "3@7", {"answer": "x" * 401, "condense": "3@7=582"}, "3@7=582"),
        (knowledge, "3@7", {"answer": "x" * 401, "condense": " "}, "x" * 401),
        (knowledge, "3@7", {"answer": ""}, ""),
        (reasoning, "3#7", {"next": "3#7=3@7+7@3"}, "3#7=3@7+7@3"),
        (reasoning, LONG, {"restate": "3#7", "next": "3#7=3@7+7@3"}, "3#7=3@7+7@3"),
        (reasoning, "3#7", {"next": "x" * 401, "condense": "first 3@7"}, "first 3@7"),
    ],
)
def test_steps_and_reply(factory, request_text, replies, reply):
    name = factory.__name__
    assert ask(factory(build_spec(name)), name, replies, request_text) == (reply, [*replies])


def test_an_empty_reformulation_leaves_the_request_as_it_was():
    chat = FunctionChat(function=lambda prompt: "" if task_of(prompt) == "formulate" else "582")
    context = build_context([""], chats={"knowledge": chat})
    given = {"question": "q", "context": "", "request": LONG}
    asyncio.run(knowledge(build_spec("knowledge")).ainvoke(given, context=context))
    assert chat.seen[-1].endswith(f"Request: {LONG}")


def test_knowledge_looks_up_before_it_asks():
    async def table(query: str) -> str | None:
        return {"3@7": "3@7=582"}.get(query)

    graph = knowledge(build_spec("knowledge"), lookup=table)
    assert ask(graph, "knowledge", {}, " 3@7 ") == ("3@7=582", [])
    assert ask(graph, "knowledge", {"answer": "unknown"}, "4@4") == ("unknown", ["answer"])


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        ("right", "right"),
        ("`Right`.", "right"),
        ("2+2=4\n\nright\n", "right"),
        ("wrong: 2+2=4", "2+2=4"),
        ("Wrong : 2+2=4", "2+2=4"),
        ("wrong:", ""),
        ("wrong", ""),
        ("not right", ""),
        ("right\nbut", ""),
        ("", ""),
    ],
)
def test_verdicts(finding, verdict):
    assert read_verdict(finding) == verdict


@pytest.mark.parametrize("name", ["verify", "knowledge", "reasoning"])
def test_prompts_follow_the_convention(name):
    """A line `Task: <section>` first, the payload last: rule-based chat models read both."""
    prompt = Prompt.load(PROMPTS / f"{name}.md")
    values = {"question": "Q", "context": "C", "request": "R", "claim": "K", "finding": "F", "reply": "A"}
    payload = {
        "check": ["Claim: K"],
        "verdict": ["Claim: K", "Finding: F"],
        "condense": ["Request: R", "Reply: A"],
    }
    for section in prompt.sections:
        lines = prompt.render(section, **values).splitlines()
        assert lines[0] == f"Task: {section}"
        wanted = payload.get(section, ["Request: R"])
        assert lines[-len(wanted) :] == wanted


def test_a_cached_reply_is_given_to_the_same_request_only():
    graph = knowledge(build_spec("knowledge", cache=True, settings={"temperature": 0}))
    assert ask(graph, "knowledge", {"answer": "582"}, "3@7") == ("582", ["answer"])
    assert ask(graph, "knowledge", {"answer": "583"}, "3@7") == ("582", [])
    assert ask(graph, "knowledge", {"answer": "583"}, "7@3") == ("583", ["answer"])
    graph = knowledge(build_spec("knowledge"))  # without a cache
    assert ask(graph, "knowledge", {"answer": "582"}, "3@7") == ("582", ["answer"])
    assert ask(graph, "knowledge", {"answer": "583"}, "3@7") == ("583", ["answer"])
