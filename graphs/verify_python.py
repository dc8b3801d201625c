"""The verifier with a tool: it may run a Python program, isolated, before it judges a claim.

    program → run → judge (which is `verify`)

Needs Linux and bubblewrap (envs/README.md, "Untrusted programs"). Off by default:

    agents.verify.graph=graphs.verify_python:verify_python agents.verify.prompt=graphs/prompts/verify_python.md
"""

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.rollout import AgentSpec, AgentState, RolloutContext
from envs.code.env import final_program
from envs.isolation import DEFAULT_LIMITS, Isolation, Limits
from graphs.steps import ask_node, compiled
from graphs.verify import verify

_SHOWN = 2000
"""Characters of a program's output that the verifier reads."""


class VerifyPythonState(AgentState, total=False):
    """`program` is the model's reply with a program; `evidence` the program and what it printed, or empty."""

    program: str
    evidence: str


def verify_python(
    spec: AgentSpec, *, limits: Limits = DEFAULT_LIMITS
) -> CompiledStateGraph[Any, RolloutContext, Any, Any]:
    """The sub-graph of an agent that replies `right` or a corrected claim, as `verify`, and may run a program first.

    Args:
        limits: of the program.

    Raises:
        ConfigError: programs cannot be isolated here.
    """
    isolation, verifier = Isolation(), verify(spec)

    async def run(state: VerifyPythonState) -> dict[str, Any]:
        program = final_program(state["program"])
        if program is None:
            return {"evidence": ""}
        outcome = await isolation.run(isolation.python("main.py"), files={"main.py": program}, limits=limits)
        printed = outcome.stdout.decode(errors="replace")[:_SHOWN].strip()
        ended = "" if outcome.code == 0 else f"\nIt ended early: {outcome.says}"
        return {"evidence": f"\n\nA program was run:\n{program}\n\nIt printed:\n{printed}{ended}"}

    async def judge_claim(state: VerifyPythonState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        given = {
            "question": state["question"],
            "context": state["context"] + state["evidence"],
            "request": state["request"],
        }
        return {"reply": (await verifier.ainvoke(given, context=runtime.context))["reply"]}

    graph = StateGraph(VerifyPythonState, context_schema=RolloutContext)
    graph.add_node("program", ask_node(spec, "program", into="program"), **spec.node)
    graph.add_node("run", run)
    graph.add_node("judge", judge_claim)
    graph.add_edge(START, "program")
    graph.add_edge("program", "run")
    graph.add_edge("run", "judge")
    graph.add_edge("judge", END)
    return compiled(graph, spec)
