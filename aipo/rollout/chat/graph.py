"""A LangGraph agent that knows nothing of rollouts, as one node of a graph that keeps the contract of rollouts.

    graph (the user's, whatever its state) → score

Its segments are in the ledger of the rollout; its answer is scored when it has ended.
"""

from copy import copy, deepcopy
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import ParentCommand
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel

from aipo.errors import ConfigError, GraphError, one_of
from aipo.render.sub_graphs import sub_graphs
from aipo.rollout.agent import check_no_pause
from aipo.rollout.chat.call import GRAPH_NODE
from aipo.rollout.chat.settings import DEFAULTS, ChatGraphSettings
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState, check_graph
from aipo.util.imports import load
from aipo.util.text import to_json

AnyGraph = CompiledStateGraph[Any, Any, Any, Any]


class ChatState(RolloutState):
    """`answer` is the text that is scored."""

    answer: str


def rollout_graph(graph: object, name: str, settings: ChatGraphSettings) -> AnyGraph:
    """A graph that keeps the contract of rollouts: `graph` itself, if it means to, or one around it.

    Raises:
        GraphError: it breaks the contract, or cannot be run from a question to an answer.
        ConfigError: `settings` do not fit it.
    """
    if not isinstance(graph, CompiledStateGraph):
        return check_graph(graph, name)
    if set(RolloutState.__annotations__) & set(graph.channels):
        if settings != DEFAULTS:
            raise ConfigError(
                f"graph.chat: got settings with graph {name!r}, whose state is a RolloutState, allowed none"
            )
        return check_graph(graph, name)
    _check(graph, name, settings)
    around = StateGraph(ChatState, context_schema=RolloutContext)
    around.add_node(GRAPH_NODE, _graph_node(graph, settings))
    around.add_node("score", _score)
    around.add_edge(START, GRAPH_NODE)
    around.add_edge(GRAPH_NODE, "score")
    around.add_edge("score", END)
    return check_graph(around.compile(), name)


def _check(graph: AnyGraph, name: str, settings: ChatGraphSettings) -> None:
    keys = sorted(key for key in graph.channels if not key.startswith(("__", "branch:")))
    for field in ("question", "answer"):
        key = getattr(settings, field)
        if key not in keys and ":" not in key:
            raise GraphError(
                f"state of graph {name!r}: got the keys {keys}, allowed `messages`, a key that graph.chat.{field} names, or the "
                "keys of aipo.rollout.RolloutState"
            )
    if ":" in settings.answer:
        load(settings.answer)
    check_no_pause(graph, f"graph {name!r}")
    for where, one in {name: graph, **{f"{name}, node {n}": g for n, g in _inner(graph).items()}}.items():
        rules = [
            (one.cache is None, "cache", one.cache, "none: a rollout would get what another one sampled"),
            (
                (one is graph and isinstance(one.checkpointer, InMemorySaver)) or not one.checkpointer,
                "checkpointer",
                one.checkpointer,
                "none or, of the outermost graph, InMemorySaver, which is a new one in each rollout",
            ),
            (
                (one is graph and isinstance(one.store, InMemoryStore)) or one.store is None,
                "store",
                one.store,
                "none or, of the outermost graph, InMemoryStore, of which each rollout has a copy",
            ),
        ]
        for holds, what, got, allowed in rules:
            if not holds:
                raise GraphError(one_of(what, type(got).__name__, allowed, f"graph {where!r}"))
    _context(graph, settings)


def _inner(graph: AnyGraph) -> dict[str, AnyGraph]:
    return {
        name: one
        for name, graphs in sub_graphs(graph).items()
        for one in graphs
        if isinstance(one, CompiledStateGraph)
    }


def _context(graph: AnyGraph, settings: ChatGraphSettings) -> Any:
    """The graph's own context.

    Raises:
        ConfigError: it has none, or takes other fields.
    """
    schema: Any = graph.context_schema
    if schema is None:
        if settings.context:
            raise ConfigError(
                f"graph.chat.context: got {settings.context}, allowed none: the graph has no context_schema"
            )
        return None
    try:
        return schema(**settings.context)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"graph.chat.context: got {settings.context}, allowed fields of {schema.__name__}: {error}"
        ) from error


def _graph_node(graph: AnyGraph, settings: ChatGraphSettings) -> Any:
    async def run(state: ChatState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        rollout = runtime.context
        rollout.ledger.settings = settings
        asked: Any = rollout.task.prompt
        if settings.question == "messages":
            asked = [HumanMessage(asked)]
        config: Any = {"configurable": {"thread_id": "rollout"}} if graph.checkpointer else None
        try:
            end = await _fresh(graph).ainvoke(
                {settings.question: asked}, config, context=_context(graph, settings)
            )
        except ParentCommand as error:
            raise GraphError(
                "graph: got Command(graph=Command.PARENT) of the outermost graph, allowed a node of its own"
            ) from error
        policies = rollout.ledger.policies()
        if not policies:
            raise GraphError(
                "calls of policy_chat: got none in the whole graph, allowed 1 or more: the graph's model has to be "
                "policy_chat(...); one that a node makes by itself (init_chat_model, ChatOpenAI) is not the policy"
            )
        stops = {name: rollout.ledger.stop(name) for name in policies}
        return {"answer": _answer(end, settings), "stops": stops}

    return run


async def _score(state: ChatState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    score, text = runtime.context.score, state["answer"]
    return {"reward_parts": {policy: await score(text, policy=policy) for policy in state["stops"]}}


def _answer(end: Any, settings: ChatGraphSettings) -> str:
    """The text that is scored.

    Raises:
        GraphError: there is none.
    """
    if ":" in settings.answer:
        value: Any = load(settings.answer).function(end)
    else:
        value = end.get(settings.answer)
    if isinstance(value, list) and value and isinstance(value[-1], BaseMessage):
        value = value[-1]
    if isinstance(value, BaseMessage):
        return str(value.text)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None:
        raise GraphError(
            one_of("answer", None, "a text, a message or data", f"the last state ({settings.answer})")
        )
    return value if isinstance(value, str) else to_json(value).decode()


def _fresh(graph: AnyGraph) -> AnyGraph:
    """The graph with a checkpointer and a store of its own."""
    if not graph.checkpointer and graph.store is None:
        return graph
    fresh = copy(graph)
    fresh.checkpointer = InMemorySaver() if graph.checkpointer else None
    fresh.store = deepcopy(graph.store)
    return fresh


def is_chat_graph(graph: AnyGraph) -> bool:
    """Is it one that `rollout_graph` has put around a user's?"""
    return graph.builder.state_schema is ChatState
