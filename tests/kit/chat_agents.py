"""LangGraph agents that know nothing of rollouts, and a tokenizer whose chat template has tools.

`calculator` is also loaded from this file by name, as a user's graph is.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from trl.chat_template_utils import qwen3_chat_template

from aipo.policies import Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout import RolloutEngine, policy_chat
from aipo.rollout.chat.graph import rollout_graph
from aipo.rollout.chat.settings import ChatGraphSettings
from aipo.trace import Segment, Trace
from kit import tiny
from kit.engines import engine, specs

TAGS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>", "</tool_response>")
Script = Sequence[str] | Callable[[str], str]


@cache
def tool_tokenizer(template: str = qwen3_chat_template) -> HFTokenizer:
    """Bytes, and Qwen3's template and tags: TRL knows how its tool calls are read."""
    return tiny.chat_tokenizer(template=template, tags=TAGS)


def calling(name: str, arguments: str, *, thinking: str = "") -> str:
    """What a policy writes that calls a tool."""
    think = f"<think>\n{thinking}\n</think>\n\n" if thinking else ""
    return f'{think}<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def calculator(
    tools: Sequence[Callable[..., Any]] = (add,),
    *,
    system: str = "Be short.",
    change: Callable[[list[BaseMessage]], list[BaseMessage]] = list,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """An agent with tools. `change` is what its node makes of the messages before it calls the model."""
    model = policy_chat().bind_tools(tools)

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([SystemMessage(system), *change(state["messages"])])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


def messages_graph(**nodes: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Nodes one after the other, over messages."""
    graph = StateGraph(MessagesState)
    for last, (name, node) in zip([START, *nodes], nodes.items(), strict=False):
        graph.add_node(name, node)
        graph.add_edge(last, name)
    graph.add_edge([*nodes][-1], END)
    return graph.compile()


def chat_engine(
    graph: object,
    script: Script,
    *,
    tokenizer: HFTokenizer | None = None,
    chat: Mapping[str, Any] = {},
    **changes: Any,
) -> RolloutEngine:
    """An engine whose policy writes a script in a graph of messages."""
    policy = ScriptedPolicy(tokenizer or tool_tokenizer(), script)
    around = rollout_graph(graph, "mine", ChatGraphSettings(**chat))
    return engine(
        around, **({"policies": {"policy": policy}, "sampling": Sampling(max_tokens=2000)} | changes)
    )


def chat_run(graph: object, script: Script, count: int = 1, **changes: Any) -> list[Trace]:
    """Rollouts of a graph of messages, and no trace twice."""
    return chat_engine(graph, script, **changes).run_sync(specs(count), lambda trace: None)


def written(
    segments: Sequence[Segment], tokenizer: HFTokenizer | None = None
) -> list[tuple[str, str, int, str]]:
    """Role, source, history and text of segments."""
    decode = (tokenizer or tool_tokenizer()).decode
    return [(str(s.role), s.source, s.history, decode(s.token_ids)) for s in segments]
