"""The commands `aipo graph` and `aipo serve`: what a configuration names, printed or started."""

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aipo.errors import ConfigError

if TYPE_CHECKING:
    from aipo.config.build import Experiment

ConfigName = Annotated[
    str, typer.Option("--config", help="a preset of aipo/presets (aipo, grpo, ...) or a YAML file")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)]


def graph(
    name: Annotated[
        str | None,
        typer.Argument(
            help="consult, solo, module:function or file.py:function; default: the graph of the configuration",
            show_default=False,
        ),
    ] = None,
    config: ConfigName = "aipo",
    overrides: Overrides = None,
) -> None:
    """Prints a graph as a mermaid diagram, with its sub-graphs, and the files that define it."""
    words = [word for word in (name, *(overrides or ())) if word is not None]
    chosen = words.pop(0) if words and "=" not in words[0] else None
    experiment = _with_graph(config, chosen, words)
    print(experiment.drawing()["mermaid"])
    graphs = experiment.graphs
    width = max(len(part) for part in graphs.files)
    for part, file in graphs.files.items():  # the path comes last and whole: it is there to be copied
        print(f"{part:<{width}}  {graphs.fingerprints[part]}  {file}")


def _with_graph(config: str, name: str | None, overrides: list[str]) -> "Experiment":
    """The configuration, with another graph if one is named. Another graph does not get the options of the first."""
    from aipo.config.build import load_experiment

    experiment = load_experiment(config, overrides)
    if name is None:
        return experiment
    name = name if ":" in name else f"graphs.{name}:{name}"
    if name == experiment.graph_name:
        return experiment
    return load_experiment(config, [f"graph={json.dumps({'name': name})}", *overrides])


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="settings, section.key=value; arguments after -- go to vLLM unchanged",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="a preset or a YAML file; the options here override it")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="folder or hub name of the model; default: policy.model", show_default=False),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help="Python of the environment with vLLM; default: the variable AIPO_VLLM_PYTHON, else this Python",
            show_default=False,
        ),
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="only print the shell command")] = False,
    host: Annotated[str, typer.Option(help="address to bind")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="port to listen on; default: the port in policy.vllm.servers, else 8000"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the model on the server", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="data type of the weights; default: that of the configuration, else of the model"),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="maximum context length in tokens; default: that of the model")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="number of GPUs to split the model over (tensor parallel)")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="share of the memory of each GPU that vLLM may use; default: 0.9"),
    ] = None,
    cache: Annotated[
        float | None, typer.Option(min=0.01, help="size of the KV cache in GiB; default on a CPU: 2")
    ] = None,
    nccl: Annotated[
        bool | None, typer.Option("--nccl", help="receive new weights over NCCL (policy.vllm.sync=nccl)")
    ] = None,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev/--no-dev",
            help="open the HTTP routes for weight updates; a server for agents does not need them",
        ),
    ] = True,
    allow_remote_dev: Annotated[
        bool,
        typer.Option(
            "--allow-remote-dev", help="allow these routes on an address that other machines can reach"
        ),
    ] = False,
    secret: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds the API key for requests")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda; default: the device that vLLM was built for", show_default=False),
    ] = None,
) -> None:
    """Starts a vLLM server for a policy, or for agents (--no-dev)."""
    from aipo.config.build import load_experiment
    from aipo.config.build_server import serve as start
    from aipo.policies.vllm import launch

    words = arguments or []
    overrides = list(takewhile(lambda word: not word.startswith("-"), words))
    if overrides and config is None:
        raise ConfigError(
            f"aipo serve: got {overrides} without --config, allowed with one; vLLM's arguments come after --"
        )
    options = {
        "model": model and launch.folder_or_name(model),
        "host": host,
        "port": port,
        "name": name,
        "dtype": dtype,
        "context": context,
        "gpus": gpus,
        "memory": memory,
        "cache": cache,
        "nccl": nccl,
        "dev": dev,
        "allow_remote_dev": allow_remote_dev,
        "secret": secret,
        "rest": tuple(words[len(overrides) :]),
    }
    start(
        load_experiment(config, overrides) if config is not None else None,
        python=python,
        device=launch.device_of(device) if device is not None else None,
        print_only=print_only,
        options=options,
        console=Console(stderr=True),
    )
