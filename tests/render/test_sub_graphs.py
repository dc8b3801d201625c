"""A graph's drawing has the sub-graphs that its nodes call, whatever the nodes hold them in."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from aipo.config.build import load_experiment
from aipo.errors import GraphError
from aipo.render.sub_graphs import draw, sub_graphs
from aipo.rollout.agent import check_no_pause


class State(TypedDict):
    text: str


def graph(*, compiled: dict[str, Any] | None = None, **nodes: Any) -> Any:
    """A chain of nodes."""
    built = StateGraph(State)
    for name, node in nodes.items():
        built.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        built.add_edge(before, after)
    return built.compile(**(compiled or {}))


async def nothing(state: State) -> State:
    return state


async def other(state: State) -> State:
    return state


INNER = graph(check=nothing)
AGENTS, LISTED, BUNDLE = {"verify": INNER}, [INNER], types.SimpleNamespace(graph=INNER)
ELSEWHERE = types.ModuleType("elsewhere")
ELSEWHERE.graph = INNER  # type: ignore[attr-defined]


async def by_dict(state: State) -> Any:
    return await AGENTS[state["text"]].ainvoke(state)


async def by_argument(sub: Any, state: State) -> Any:
    return await sub.ainvoke(state)


async def by_default(state: State, *, sub: Any = INNER) -> Any:
    return await sub.ainvoke(state)


class Holder:
    def __init__(self) -> None:
        self.graph = INNER
        self.agents = {"verify": BUNDLE}

    async def __call__(self, state: State) -> Any:
        return await self.graph.ainvoke(state)

    async def method(self, state: State) -> Any:
        return await self.graph.ainvoke(state)

    async def by_other_method(self, state: State) -> Any:
        return await self.from_dict(state)

    async def from_dict(self, state: State) -> Any:
        return await self.agents["verify"].graph.ainvoke(state)


def closure(held: Any) -> Callable[..., Any]:
    async def node(state: State) -> Any:
        return await held.ainvoke(state)

    return node


NODES: dict[str, Any] = {
    "itself": INNER,
    "global": lambda state: INNER.invoke(state),
    "dict": by_dict,
    "list": lambda state: LISTED[0].invoke(state),
    "attribute": lambda state: BUNDLE.graph.invoke(state),
    "module": lambda state: ELSEWHERE.graph.invoke(state),
    "partial": functools.partial(by_argument, INNER),
    "keyword of a partial": functools.partial(by_default, sub=INNER),
    "default": by_default,
    "helper": lambda state: by_dict(state),
    "dict and helper": lambda state: by_argument(AGENTS["verify"], state),
    "wrapper": functools.wraps(by_dict)(lambda *arguments: None),
    "object": Holder(),
    "method": Holder().method,
    "another method": Holder().by_other_method,
    "closure": closure(INNER),
    "dict in a closure": closure({"a": {"b": (INNER,)}}),
    "attribute in a closure": (lambda bundle: lambda state: bundle.graph.invoke(state))(BUNDLE),
}


@pytest.mark.parametrize("how", NODES)
def test_a_sub_graph_is_drawn_in_place_of_the_node_that_calls_it(how: str) -> None:
    picture = draw(graph(before=nothing, ask=NODES[how], after=nothing))
    assert list(picture.nodes) == ["__start__", "before", "after", "__end__", "ask:check"]
    edges = {(edge.source, edge.target) for edge in picture.edges}
    assert edges >= {("before", "ask:check"), ("ask:check", "after")}


def test_all_graphs_of_a_node_are_drawn() -> None:
    agents = {"verify": graph(check=nothing), "knowledge": graph(find=nothing, say=other)}
    picture = draw(graph(before=nothing, ask=closure(agents)))
    assert [name for name in picture.nodes if ":" in name] == ["ask:check", "ask:find", "ask:say"]
    edges = {(edge.source, edge.target) for edge in picture.edges}
    assert edges >= {
        *(("before", "ask:check"), ("before", "ask:find"), ("ask:find", "ask:say")),
        *(("ask:check", "__end__"), ("ask:say", "__end__")),
    }


def test_a_node_that_calls_no_graph_is_drawn_as_it_is() -> None:
    held = types.SimpleNamespace(graph=INNER, text="x")

    async def node(state: State) -> Any:
        return {"text": held.text, "path": sys.path}

    assert list(draw(graph(ask=node)).nodes) == ["__start__", "ask", "__end__"]


def test_a_graph_inside_itself_is_drawn_once() -> None:
    held: dict[str, Any] = {}
    held["me"] = graph(ask=closure(held), think=nothing)
    assert list(draw(held["me"]).nodes) == ["__start__", "ask", "think", "__end__"]


def test_what_langgraph_draws_is_drawn_as_before() -> None:
    main = load_experiment("aipo_distil").graphs.graph
    assert draw(main).draw_mermaid() == main.get_graph(xray=True).draw_mermaid()


def test_a_graph_inside_that_pauses_is_refused() -> None:
    pausing = graph(check=nothing, compiled={"interrupt_before": ["check"]})
    with pytest.raises(
        GraphError, match=r"interrupt_before of graph 'g', sub-graph 'outer\|ask': got \['check'\]"
    ):
        check_no_pause(graph(outer=graph(ask=closure(pausing))), "graph 'g'")


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("held", "calls"),
    [
        pytest.param(["text", b"bytes", 1, 2.5, None, True] * 33_334, 2, id="values that hold nothing"),
        pytest.param([Incomparable() for _ in range(20_000)], 10, id="objects"),
    ],
)
def test_what_a_node_holds_is_looked_through_once(held: list[object], calls: int) -> None:
    outer = graph(ask=closure({"data": held, "agent": INNER}))
    left = calls * len(held) + 2_000

    def count(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= event == "call"
        assert left, "more calls of Python functions than a search that looks at each value once makes"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = sub_graphs(outer)
    finally:
        sys.setprofile(before)
    assert found == {"ask": [INNER]}
