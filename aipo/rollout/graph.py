"""The contract between AIPO and a graph.

A graph is a compiled LangGraph `StateGraph` whose state has the keys of `RolloutState`, whose
context is `RolloutContext`, and which starts from empty lists. It appends segments; the engine reads
the last state, whatever happened to the graph. Nodes are async and reach everything that belongs to
one rollout through `runtime.context`; nothing heavy travels in the state.

    async def think(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict:
        piece, finish = await runtime.context.sample(state["segments"], stop=("</consult>",))
        return {"segments": [piece]}
"""

import operator
from typing import Annotated, Any, TypedDict, get_type_hints

from langgraph.graph.state import CompiledStateGraph

from aipo.errors import GraphError
from aipo.rollout.agent import check_no_pause
from aipo.rollout.context import RolloutContext
from aipo.trace import Consult, Segment, StopReason


class RolloutState(TypedDict):
    """The state of every graph; a graph may add keys of its own.

    `stops` and `reward_parts` are keyed by policy name: a graph with several policies yields one
    trace for each. `reward_parts[p] = None` says that the answer could not be scored.
    """

    segments: Annotated[list[Segment], operator.add]
    consults: Annotated[list[Consult], operator.add]
    stops: Annotated[dict[str, StopReason], operator.or_]
    reward_parts: Annotated[dict[str, dict[str, float] | None], operator.or_]


def check_graph(graph: object, name: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Refuses what does not meet the contract.

    Raises:
        GraphError: not a compiled graph, a state key is missing or has another reducer than
            `RolloutState`, another context, a checkpointer (it would cost more than the rollout), or a cache (one rollout
            would get the segments of another; an agent's graph may have one).
    """
    if not isinstance(graph, CompiledStateGraph):
        raise GraphError(
            f"graph {name!r}: got {type(graph).__name__}, allowed a compiled StateGraph (call .compile())"
        )
    wanted = get_type_hints(RolloutState, include_extras=True)
    for key, hint in wanted.items():
        channel, reducer = graph.channels.get(key), hint.__metadata__[0]
        if getattr(channel, "operator", None) is not reducer:
            raise GraphError(
                f"state key {key!r} of graph {name!r}: got {_reducer_of(channel)}, "
                f"allowed the reducer operator.{reducer.__name__}, as aipo.rollout.graph.RolloutState has it"
            )
    schema = graph.context_schema
    if not (isinstance(schema, type) and issubclass(schema, RolloutContext)):
        raise GraphError(f"context_schema of graph {name!r}: got {schema!r}, allowed RolloutContext")
    if graph.checkpointer:
        raise GraphError(f"graph {name!r}: got a checkpointer, allowed none while rolling out")
    if graph.cache:
        raise GraphError(
            f"graph {name!r}: got a cache, allowed none: a rollout would get what another one sampled (compile(cache=...) "
            "is for an agent's graph)"
        )
    check_no_pause(graph, f"graph {name!r}")
    return graph


def _reducer_of(channel: object) -> str:
    reducer = getattr(channel, "operator", None)
    if reducer is None:
        return "no such key" if channel is None else "a key without a reducer"
    return f"the reducer {getattr(reducer, '__name__', reducer)}"
