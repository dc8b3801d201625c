"""The reference: a fact that the policy does not know.

    (formulate) → answer → (condense)

`formulate` turns a long request into one question, `condense` shortens a long reply; both are skipped
where there is nothing to do.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import AgentSpec, AgentState, RolloutContext
from graphs.steps import ask_node, compiled, is_short


class KnowledgeState(AgentState, total=False):
    """`query` is the request as one line."""

    query: str


def knowledge(
    spec: AgentSpec,
    *,
    lookup: Callable[[str], Awaitable[str | None]] | None = None,
    short_request: int = 120,
    short_reply: int = 400,
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The sub-graph of an agent that supplies facts.

    Args:
        lookup: where to look before the chat model is asked: a search engine, a table. None, or an
            empty answer, means ask the model.
        short_request: a request of one line and so many characters is the query itself.
        short_reply: a reply of so many characters is not condensed.
    """

    message = spec.step("answer")

    async def answer(state: KnowledgeState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        query = state.get("query", state["request"].strip())
        reply = await lookup(query) if lookup else None
        if not reply:
            reply = await runtime.context.chat(spec.name, message(**{**state, "request": query}))
        return {"reply": reply.strip()}

    async def first(state: KnowledgeState) -> str:
        return "answer" if is_short(state["request"], short_request) else "formulate"

    async def then(state: KnowledgeState) -> str:
        return END if len(state["reply"]) <= short_reply else "condense"

    graph = StateGraph(KnowledgeState, context_schema=RolloutContext)
    graph.add_node("formulate", ask_node(spec, "formulate", into="query"), **spec.node)
    graph.add_node("answer", answer, **spec.node)
    graph.add_node("condense", ask_node(spec, "condense", into="reply"), **spec.node)
    graph.add_conditional_edges(START, first, ["formulate", "answer"])
    graph.add_edge("formulate", "answer")
    graph.add_conditional_edges("answer", then, ["condense", END])
    graph.add_edge("condense", END)
    return compiled(graph, spec)
