"""The verifier: is what the policy claims right, and if not, what is?

    (find) → check → (verdict)

`find` picks the claim out of a long request, `verdict` reads a finding that is not in the form asked
for; both are skipped where there is nothing to do.
"""

import re
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import AgentSpec, AgentState, RolloutContext
from graphs.steps import ask_node, compiled, is_short

_RIGHT = re.compile(r"\W*right\W*", re.IGNORECASE)
_WRONG = re.compile(r"\W*wrong\W*: *(?P<correction>\S.*)", re.IGNORECASE)


class VerifyState(AgentState, total=False):
    """`claim` is one line; `finding` is what the check came to."""

    claim: str
    finding: str


def verify(spec: AgentSpec, *, short_request: int = 120) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The sub-graph of an agent that replies `right` or a corrected claim.

    Args:
        short_request: a request of one line and so many characters is the claim itself.
    """

    check_message = spec.step("check", "claim")
    verdict_message = spec.step("verdict", "claim", "finding")

    async def check(state: VerifyState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        claim = state.get("claim", state["request"].strip())
        finding = await runtime.context.chat(spec.name, check_message(**{**state, "claim": claim}))
        return {"claim": claim, "finding": finding, "reply": read_verdict(finding)}

    async def verdict(state: VerifyState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        reply = await runtime.context.chat(spec.name, verdict_message(**state))
        return {"reply": read_verdict(reply) or reply.strip()}

    async def first(state: VerifyState) -> str:
        return "check" if is_short(state["request"], short_request) else "find"

    async def then(state: VerifyState) -> str:
        # Of a finding that is empty there is nothing to sum up: the model would make one up.
        return END if state["reply"] or not state["finding"].strip() else "verdict"

    graph = StateGraph(VerifyState, context_schema=RolloutContext)
    graph.add_node("find", ask_node(spec, "find", into="claim"), **spec.node)
    graph.add_node("check", check, **spec.node)
    graph.add_node("verdict", verdict, **spec.node)
    graph.add_conditional_edges(START, first, ["find", "check"])
    graph.add_edge("find", "check")
    graph.add_conditional_edges("check", then, ["verdict", END])
    graph.add_edge("verdict", END)
    return compiled(graph, spec)


def read_verdict(finding: str) -> str:
    """`right`, or the correction, from the last line of `finding`; empty when it says neither."""
    last = finding.strip().rpartition("\n")[2].strip()
    if _RIGHT.fullmatch(last):
        return "right"
    wrong = _WRONG.fullmatch(last)
    return wrong["correction"].strip() if wrong else ""
