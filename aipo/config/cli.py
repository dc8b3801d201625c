"""The commands `aipo config`, `graph`, `model` and `serve`: a configuration and what it names, printed or started."""

import json
import sys
from itertools import takewhile
from typing import Annotated, Literal

from typer import Argument, Context, Option

from aipo.config import presets
from aipo.errors import ConfigError
from aipo.util.output import EventsOption, PlainConsole, event_output, finite, write_event


def _presets(start: str) -> list[str]:
    """Completes the name of a preset."""
    return [name for name in presets() if name.startswith(start)]


ConfigName = Annotated[
    str,
    Option(
        "--config",
        help="a preset of aipo/presets (aipo, grpo, ...) or a YAML file",
        autocompletion=_presets,
    ),
]
ConfigOrDefault = Annotated[
    str | None,
    Option(
        "--config",
        help="a preset of aipo/presets (aipo, grpo, ...) or a YAML file; default: aipo_distil",
        autocompletion=_presets,
    ),
]
EnvName = Annotated[
    str | None,
    Option(
        "--env",
        help="environment in place of the configuration's: benchmarks (math500,aime24), a file of questions (mine.jsonl), "
        "module:Class or file.py:Class; without a configuration, with the preset small",
    ),
]
Overrides = Annotated[list[str] | None, Argument(help="section.key=value ...")]


def config(
    name: Annotated[
        str, Argument(help="a preset, a YAML file or a run folder", autocompletion=_presets)
    ] = "aipo_distil",
    overrides: Overrides = None,
    as_json: Annotated[bool, Option("--json", help="print JSON: settings, sources, dropped")] = False,
) -> None:
    """Prints all settings and their sources.

    A source is a preset or file with its line, the command line (override), or the default.
    """
    from aipo.config.show import show

    words = [*(overrides or ())]
    if "=" in name:
        name, words = "aipo_distil", [name, *words]
    print(show(name, words, as_json=as_json))


def graph(
    name: Annotated[
        str | None,
        Argument(
            help="consult, solo, module:function or file.py:function; default: the graph of the configuration"
        ),
    ] = None,
    config: ConfigName = "aipo_distil",
    overrides: Overrides = None,
) -> None:
    """Prints a graph as a mermaid diagram. With its sub-graphs, and the files that define it."""
    from aipo.config.build import load_experiment

    overrides = overrides or []
    if name is not None and "=" in name:
        name, overrides = None, [name, *overrides]
    experiment = load_experiment(config, overrides)
    function = name if name is None or ":" in name else f"graphs.{name}:{name}"
    if function not in (None, experiment.graph_name):  # another graph does not get the options of the first
        experiment = load_experiment(config, [f"graph={json.dumps({'name': function})}", *overrides])
    print(experiment.drawing()["mermaid"])
    graphs = experiment.graphs
    width = max(len(part) for part in graphs.files)
    for part, file in graphs.files.items():  # the path comes last and whole: it is there to be copied
        print(f"{part:<{width}}  {graphs.fingerprints[part]}  {file}")


def model(
    config: ConfigName = "aipo_distil", as_json: EventsOption = False, overrides: Overrides = None
) -> None:
    """Makes the model of a configuration and prints its folder.

    A function that makes a model keeps it in a cache, so the second time is quick. The name of a hub's model is printed as it is.
    """
    from aipo.config.build import load_experiment
    from aipo.policies.model_folder import check_folder
    from aipo.util.console import bars, stage

    with event_output(as_json) as console:
        experiment = load_experiment(config, overrides or ())
        with bars(console if as_json else PlainConsole(sys.stderr)) as progress:
            folder = experiment.build_model(stage(progress, experiment.policy.making))
        check_folder(folder, hashes=True)
        experiment.network_settings(folder)
        write_event(console, "finished", command="model", model=str(folder))
        if not as_json:
            print(folder)


def serve(
    command: Context,
    arguments: Annotated[
        list[str] | None,
        Argument(help="settings, section.key=value; arguments after -- go to vLLM unchanged"),
    ] = None,
    config: Annotated[
        str | None, Option(help="a preset or a YAML file; the options here override it")
    ] = None,
    model: Annotated[
        str | None, Option(help="folder or hub name of the model; default: policy.model")
    ] = None,
    python: Annotated[
        str | None,
        Option(
            help="Python of the environment with vLLM; default: the variable AIPO_VLLM_PYTHON, else this Python"
        ),
    ] = None,
    print_only: Annotated[bool, Option("--print", help="only print the shell command")] = False,
    host: Annotated[str, Option(help="address to bind")] = "127.0.0.1",
    port: Annotated[
        int | None,
        Option(
            min=1, max=65535, help="port to listen on; default: the port in policy.vllm.servers, else 8000"
        ),
    ] = None,
    name: Annotated[str | None, Option(help="name of the model on the server")] = None,
    dtype: Annotated[
        str | None,
        Option(help="data type of the weights; default: that of the configuration, else of the model"),
    ] = None,
    context: Annotated[
        int | None, Option(min=1, help="maximum context length in tokens; default: that of the model")
    ] = None,
    gpus: Annotated[
        int | None, Option(min=1, help="number of GPUs to split the model over (tensor parallel)")
    ] = None,
    memory: Annotated[
        float | None,
        Option(min=0.01, max=1, help="share of the memory of each GPU that vLLM may use; default: 0.9"),
    ] = None,
    cache: Annotated[
        float | None,
        Option(min=0.01, callback=finite, help="size of the KV cache in GiB; default on a CPU: 2"),
    ] = None,
    nccl: Annotated[
        bool | None, Option("--nccl", help="receive new weights over NCCL (policy.vllm.sync=nccl)")
    ] = None,
    dev: Annotated[
        bool,
        Option(
            "--dev/--no-dev",
            help="open the HTTP routes for weight updates; a server for agents does not need them",
        ),
    ] = True,
    allow_remote_dev: Annotated[
        bool,
        Option("--allow-remote-dev", help="allow these routes on an address that other machines can reach"),
    ] = False,
    secret: Annotated[
        str | None, Option(help="NAME of the environment variable that holds the API key for requests")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, Option(help="default: the device that vLLM was built for")
    ] = None,
) -> None:
    """Starts a vLLM server for a policy or agents.

    With --no-dev it is a server for agents: the routes for weight updates are left out.
    """
    from aipo.config.build import load_experiment
    from aipo.config.build_server import serve as start

    words = arguments or []
    overrides = list(takewhile(lambda word: not word.startswith("-"), words))
    if overrides and config is None:
        raise ConfigError(
            f"aipo serve: got {overrides} without --config, allowed with one; vLLM's arguments come after --"
        )
    of_command = ("arguments", "config", "print_only")
    options = {name: value for name, value in command.params.items() if name not in of_command}
    start(
        load_experiment(config, overrides) if config is not None else None,
        options | {"rest": tuple(words[len(overrides) :])},
        print_only=print_only,
        console=PlainConsole(sys.stderr),
    )
