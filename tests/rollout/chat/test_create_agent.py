"""Agents of the package `langchain`, unedited but for the model."""

from typing import Any

import pytest

from aipo.rollout import policy_chat
from aipo.trace import Role, histories
from kit.chat_agents import add, calling, chat_run, written
from kit.parts import lacking

try:
    from langchain.agents import create_agent
except ImportError:
    create_agent: Any = None


@pytest.fixture(autouse=True)
def langchain_is_here() -> None:
    if create_agent is None:
        lacking("langchain", "the package langchain is not installed")


def script(context: str) -> str:
    return "42" if "<tool_response>" in context else calling("add", '{"a": 1, "b": 41}')


def test_an_agent_with_tools():
    agent = create_agent(policy_chat(), tools=[add], system_prompt="Be short.")
    [trace] = chat_run(agent, script)
    assert (trace.error, trace.reward_parts["correct"]) == (None, 1.0)
    assert [(s.role, s.source) for s in trace.segments] == [
        (Role.PROMPT, "chat"),
        (Role.POLICY, "model"),
        (Role.ENV, "add"),
        (Role.POLICY, "model"),
    ]
    assert trace.sampling["notes"]["chat_clean"] == 1.0


def test_an_agent_that_calls_another_one_as_a_tool():
    """A supervisor: each of its agents has a history of its own, and what it says is an agent's."""
    expert = create_agent(policy_chat(), tools=[add], system_prompt="You add.", name="expert")

    async def ask_expert(question: str) -> str:
        """Asks the expert."""
        return str((await expert.ainvoke({"messages": [("user", question)]}))["messages"][-1].text)

    def words(context: str) -> str:
        return "42" if "<tool_response>" in context else calling("ask_expert", '{"question": "1+41?"}')

    def both(context: str) -> str:
        return script(context) if "You add." in context else words(context)

    supervisor = create_agent(policy_chat(), tools=[ask_expert], system_prompt="Ask.")
    [trace] = chat_run(supervisor, both, chat={"agent_tools": ["ask_expert"]})
    assert (trace.error, trace.reward_parts["correct"]) == (None, 1.0)
    first, second = histories(trace.segments)
    assert [(s.role, s.source) for s in first] == [
        (Role.PROMPT, "chat"),
        (Role.POLICY, "model"),
        (Role.AGENT, "ask_expert"),
        (Role.POLICY, "model"),
    ]
    assert [(s.role, s.source) for s in second] == [
        (Role.PROMPT, "chat"),
        (Role.POLICY, "tools/model"),
        (Role.ENV, "add"),
        (Role.POLICY, "tools/model"),
    ]


def test_a_tool_call_that_cannot_be_read_ends_the_agent_with_its_text():
    agent = create_agent(policy_chat(), tools=[add])
    [trace] = chat_run(agent, ['<tool_call>\n{"name": 42\n</tool_call>'])
    assert trace.error is None and trace.sampling["notes"]["chat_faults"] == 1.0


def test_a_tool_that_is_not_there_is_told_to_the_policy():
    agent = create_agent(policy_chat(), tools=[add])

    def words(context: str) -> str:
        return "42" if "not a valid tool" in context else calling("subtract", '{"a": 1}')

    [trace] = chat_run(agent, words)
    assert trace.error is None
    assert "subtract is not a valid tool" in written(trace.segments)[2][3]


def test_structured_output_by_a_tool():
    from pydantic import BaseModel

    class Verdict(BaseModel):
        """A verdict."""

        number: int

    agent = create_agent(policy_chat(), tools=[add], response_format=Verdict)

    def words(context: str) -> str:
        return calling("Verdict", '{"number": 42}') if "<tool_response>" in context else script(context)

    [trace] = chat_run(agent, words, chat={"answer": "structured_response"})
    assert not trace.failed, trace.error
    assert (trace.error, trace.reward_parts["correct"]) == (None, 1.0)
