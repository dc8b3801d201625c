"""The section `graph.chat`: how a LangGraph agent that knows nothing of rollouts becomes one."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from aipo.trace import Role
from aipo.util.section import Section


class ChatGraphSettings(Section):
    """The section `graph.chat`. A node is named by its path (`researcher/model`), or by a sub-graph it is in."""

    question: str = Field(
        "messages", description="state key that the question goes to; messages = as a human's message"
    )
    answer: str = Field(
        "messages",
        description="what is scored: a state key, messages = text of the last one, or 'module:function' of the last state",
    )
    context: dict[str, Any] = Field({}, description="the graph's own context, where it has a context_schema")
    policy_nodes: tuple[str, ...] | None = Field(
        None,
        description="nodes whose calls of the policy are the policy's, the others' being an agent's; null = all",
    )
    untrained_nodes: tuple[str, ...] = Field(
        (), description="nodes whose calls are recorded and never trained: titles, summaries"
    )
    agent_tools: tuple[str, ...] = Field(
        (), description="tools whose results are an agent's tokens; the others' are the environment's"
    )

    def role_of(self, node: str) -> Role | None:
        """The role of what the policy writes in a node; None = the policy's."""
        if _among(node, self.untrained_nodes):
            return Role.ENV
        if self.policy_nodes is not None and not _among(node, self.policy_nodes):
            return Role.AGENT
        return None


DEFAULTS = ChatGraphSettings()  # pyright: ignore[reportCallIssue]


def _among(node: str, names: Sequence[str]) -> bool:
    return any(f"/{name}/" in f"/{node}/" for name in names)
