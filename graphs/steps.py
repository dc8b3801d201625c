"""What the agents' graphs share: (shorten the request) → ask → (shorten the reply)."""

from collections.abc import Mapping
from typing import Any, Protocol

from langgraph.cache.memory import InMemoryCache
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import AgentSpec, RolloutContext


class Node(Protocol):
    """A node of an agent's graph."""

    async def __call__(self, state: Any, runtime: Runtime[RolloutContext]) -> dict[str, Any]: ...


def is_short(request: str, characters: int) -> bool:
    """Is it one line of at most so many characters?"""
    request = request.strip()
    return len(request) <= characters and "\n" not in request


def ask_node(spec: AgentSpec, step: str, into: str) -> Node:
    """A node that asks the agent's chat model with the prompt's section `step`, and keeps the reply as `into`. An
    empty reply leaves the request, or the reply so far, as it was."""
    unchanged = "reply" if into == "reply" else "request"
    message = spec.step(step, *(["reply"] if into == "reply" else []))

    async def node(state: Mapping[str, Any], runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        reply = await runtime.context.chat(spec.name, message(**state))
        return {into: reply.strip() or state[unchanged]}

    return node


def compiled(
    graph: StateGraph[Any, RolloutContext, Any, Any], spec: AgentSpec
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph with a cache, if the configuration wants one."""
    return graph.compile(cache=InMemoryCache() if "cache_policy" in spec.node else None)
