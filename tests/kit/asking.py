"""A graph in which every assisted rollout asks each agent once, whatever the policy writes."""

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Consult, Fault, Mode, Role, StopReason, segment


def asking(agents: Any) -> Any:
    """prompt → think → tell → end; an agent's error is its fault."""

    async def begin(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        ids = context.policies["policy"].tokenizer.encode_prompt(context.task.prompt)
        piece, _ = await context.sample([segment(Role.PROMPT, "prompt", ids)])
        return {"segments": [segment(Role.PROMPT, "prompt", ids), piece]}

    async def tell(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        told: dict[str, Any] = {"segments": [], "consults": []}
        for name, agent in agents.items() if context.mode is Mode.ASSISTED else ():
            place = len(state["segments"]) + len(told["segments"])
            asked = {"agent": name, "request": "1+1=2", "request_segment": 1, "request_start": None}
            try:
                given = {"question": "", "context": "", "request": "1+1=2"}
                reply = (await agent.graph.ainvoke(given))["reply"]
                error, fault, role = None, None, Role.AGENT
            except OSError as caught:
                reply, error, fault, role = None, f"OSError: {caught}", Fault.UNAVAILABLE, Role.ENV
            ids = context.policies["policy"].tokenizer.encode(reply or "no")
            said, _ = await context.score_logprobs(name, reply or "", ids) if reply else (None, None)
            told["segments"].append(segment(role, name, ids, logprobs=said))
            told["consults"].append(
                Consult(**asked, reply=reply, error=error, fault=fault, reply_segment=place)
            )
        return told

    async def end(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        length = sum(len(s) for s in state["segments"] if s.role is Role.POLICY)
        parts = {"correct": float(length % 2)}
        return {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}

    graph = StateGraph(RolloutState, context_schema=RolloutContext)
    for last, (name, node) in zip(
        [START, "begin", "tell"], [("begin", begin), ("tell", tell), ("end", end)], strict=True
    ):
        graph.add_node(name, node)
        graph.add_edge(last, name)
    graph.add_edge("end", END)
    return graph.compile()
