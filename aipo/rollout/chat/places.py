"""The place in a graph that code runs at: a node execution, and those around it."""

from collections.abc import Sequence

from langgraph.config import get_config


def current_place() -> tuple[str, ...]:
    """The node execution that is running, behind those around it, each as 'node:id'; empty outside a graph."""
    try:
        place = str(get_config()["metadata"]["langgraph_checkpoint_ns"])
    except (RuntimeError, KeyError):
        return ()
    return tuple(place.split("|")) if place else ()


def current_visit() -> str:
    """Id of the node execution that is running, unique within the rollout; empty outside a graph."""
    return visit_of(current_place())


def visit_of(place: Sequence[str]) -> str:
    """Id of the innermost node execution of a place."""
    return place[-1].rpartition(":")[2] if place else ""


def nodes_of(place: Sequence[str]) -> list[str]:
    """Names of the nodes of a place."""
    # It is made of 'node:id', and of a number where a node calls a graph once more.
    return [part.partition(":")[0] for part in place if ":" in part]
