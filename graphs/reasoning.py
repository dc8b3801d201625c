"""The guide: the next step, when the policy does not know how to go on.

    (restate) → next → (condense)

`restate` turns a long request into one line, `condense` shortens a long reply; both are skipped where
there is nothing to do.
"""

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import AgentSpec, AgentState, RolloutContext
from graphs.steps import ask_node, compiled, is_short


class ReasoningState(AgentState, total=False):
    """`problem` is the request as one line."""

    problem: str


def reasoning(
    spec: AgentSpec, *, short_request: int = 120, short_reply: int = 400
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The sub-graph of an agent that gives one next step, never the whole solution.

    Args:
        short_request: a request of one line and so many characters is the problem itself.
        short_reply: a reply of so many characters is not condensed.
    """

    message = spec.step("next")

    async def next_step(state: ReasoningState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        problem = state.get("problem", state["request"].strip())
        reply = await runtime.context.chat(spec.name, message(**{**state, "request": problem}))
        return {"reply": reply.strip()}

    async def first(state: ReasoningState) -> str:
        return "next" if is_short(state["request"], short_request) else "restate"

    async def then(state: ReasoningState) -> str:
        return END if len(state["reply"]) <= short_reply else "condense"

    graph = StateGraph(ReasoningState, context_schema=RolloutContext)
    graph.add_node("restate", ask_node(spec, "restate", into="problem"), **spec.node)
    graph.add_node("next", next_step, **spec.node)
    graph.add_node("condense", ask_node(spec, "condense", into="reply"), **spec.node)
    graph.add_conditional_edges(START, first, ["restate", "next"])
    graph.add_edge("restate", "next")
    graph.add_conditional_edges("next", then, ["condense", END])
    graph.add_edge("condense", END)
    return compiled(graph, spec)
