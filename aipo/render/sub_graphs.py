"""The drawing of a graph with the sub-graphs that its nodes call.

LangGraph's own (`xray`) finds a sub-graph that a node holds by a name of its own: in its closure, as a global, as an
attribute of one. This one also looks into dicts, lists, partials, objects with methods, default values, and functions
of the same module that the node calls, and draws all of a node's sub-graphs.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.runnables.graph import Edge, Graph
from langgraph.pregel import Pregel

AnyGraph = Pregel[Any, Any, Any, Any]
_DATA = (str, bytes, bytearray, int, float, complex, type(None))


def draw(graph: AnyGraph, inside: tuple[AnyGraph, ...] = ()) -> Graph:
    """Nodes and edges, with those of a sub-graph in place of the node that calls it, as `node:inner`.

    Args:
        inside: the graphs around it, which are not drawn again.
    """
    picture = graph.get_graph()
    for name, found in sub_graphs(graph).items():
        inner = [draw(one, (*inside, graph)) for one in found if one not in (*inside, graph)]
        inner = [one for one in inner if len(one.nodes) > 1 and one.first_node() and one.last_node()]
        if inner and name in picture.nodes:
            _replace(picture, name, inner)
    return picture


def sub_graphs(graph: AnyGraph) -> dict[str, list[AnyGraph]]:
    """The graphs that each node can call, by its name; more than it calls, where it holds some for nothing."""
    found = {name: list(_graphs_in(node.bound)) for name, node in graph.nodes.items()}
    return {name: graphs for name, graphs in found.items() if graphs}


def _replace(picture: Graph, name: str, inner: Iterable[Graph]) -> None:
    picture.nodes.pop(name)
    firsts, lasts = list[str](), list[str]()
    for one in inner:
        one.trim_first_node()
        one.trim_last_node()
        first, last = picture.extend(one, prefix=name)
        assert first is not None and last is not None, "it has more than one node"
        firsts.append(first.id)
        lasts.append(last.id)
    edges = list[Edge]()
    for edge in picture.edges:
        sources = lasts if edge.source == name else [edge.source]
        targets = firsts if edge.target == name else [edge.target]
        edges += [edge.copy(source=source, target=target) for source in sources for target in targets]
    picture.edges[:] = edges


def _graphs_in(node: object) -> Iterator[AnyGraph]:
    """Graphs that are within reach of a node's code, each once."""
    waiting: list[tuple[object, frozenset[str], Any]] = [(node, frozenset(), None)]
    seen: dict[
        tuple[int, frozenset[str]], object
    ] = {}  # keeps the values: an id is free again after its value
    found: set[int] = set()
    for value, names, module in waiting:
        if (id(value), names) in seen:
            continue
        seen[id(value), names] = value
        if isinstance(value, Pregel):
            if id(value) not in found:
                found.add(id(value))
                yield value
        elif isinstance(value, FunctionType):
            if module is None or value.__globals__ is module:  # else it is a library's
                within = frozenset(_names(value.__code__))
                waiting += [(one, within, value.__globals__) for one in _scope(value, within)]
        elif isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            within = frozenset(_names(value.__func__.__code__))
            waiting += [(value.__func__, names, module), (value.__self__, within, module)]
        else:
            parts = _parts(value, names)
            waiting += [(one, names, module) for one in parts if not isinstance(one, _DATA)]


def _parts(value: Any, names: frozenset[str]) -> Iterator[object]:
    """What a value consists of, as far as code that uses these names can get at it."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Runnable):
        yield from (getattr(value, name, None) for name in ("func", "afunc", "steps", "bound"))
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        own = names & {*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())}
        code = {
            name
            for name in {*names, "__call__"}
            if isinstance(getattr(type(value), name, None), FunctionType)
        }
        yield from (getattr(value, name, None) for name in sorted(own | code))


def _scope(function: FunctionType, names: frozenset[str]) -> Iterator[object]:
    """What a function can reach: its closure, its defaults, what it wraps, and globals by these names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # of a function that is still being defined
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield getattr(function, "__wrapped__", None)
    yield from (function.__globals__[name] for name in sorted(names) if name in function.__globals__)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
