"""What a run is made of, as its folder records it."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from aipo.config.build_graphs import Graphs, files_beside
from aipo.config.schema import Config
from aipo.method.agent_weights import is_file_name
from aipo.util.imports import fingerprint, load


def manifest(config: Config, graphs: Graphs, model: Path | str) -> dict[str, Any]:
    """What a run is made of: versions, and file and fingerprint of each graph, prompt, coefficient and file of the
    environment."""
    env = load(config.env.name).file
    files = {"env": env} | files_beside(env, "env", known={env})
    if is_file_name(config.method.coefficient):
        files["coefficient"] = load(config.method.coefficient).file
    packages = ("aipo", "torch", "transformers", "trl", "langgraph", "langchain-core")
    return {
        "model": str(model),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "files": {
            name: {"file": str(file), "fingerprint": graphs.fingerprints[name]}
            for name, file in graphs.files.items()
        }
        | {name: {"file": str(file), "fingerprint": fingerprint(file)} for name, file in files.items()},
    }


def drawing(graph: CompiledStateGraph[Any, Any, Any, Any]) -> dict[str, Any]:
    """Nodes (nested ones as `verify:check`), edges and the mermaid picture of a graph."""
    picture = graph.get_graph(xray=True)
    return {
        "nodes": list(picture.nodes),
        "edges": [
            {"from": edge.source, "to": edge.target, "conditional": edge.conditional}
            for edge in picture.edges
        ],
        "mermaid": picture.draw_mermaid(),
    }
