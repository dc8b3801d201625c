"""`aipo serve`: from a configuration and options to a server that runs, or to the command that starts it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from aipo.config.build import Experiment
from aipo.errors import ConfigError, LoadError
from aipo.policies.vllm.launch import (
    VERSIONS,
    Device,
    Launch,
    bracketed,
    find_python,
    folder_or_name,
    installed,
    is_supported,
)
from aipo.util.console import bars, stage


def serve(
    experiment: Experiment | None, options: Mapping[str, Any], *, print_only: bool, console: Console
) -> None:
    """Becomes the server, or prints its command.

    Args:
        experiment: gives every setting that `options` leaves out.
        options: of `Launch`; None is one that was not given. Python and device are found out then.
        console: where to say what is to be known, besides the command.

    Raises:
        LoadError: no vLLM, or no model.
        ConfigError: settings that do not go together.
    """
    warn = partial(console.print, style="yellow", highlight=False, soft_wrap=True)
    given = {name: value for name, value in options.items() if value is not None}
    given["python"] = python = find_python(given.get("python"))
    if "device" not in given:
        given["device"] = _device(python, experiment, print_only=print_only, warn=warn)
    settings = settings_of(experiment, given, lambda: _model(experiment, console))
    if given["device"] == "cpu" and given.get("dev", True):
        asked, settings["model"] = settings["model"], _reloadable(settings["model"], warn=warn)
        if settings["model"] != asked:  # clients ask for the model by the name that it has without the copy
            settings["name"] = settings.get("name") or folder_or_name(asked)
    settings["model"] = folder_or_name(settings["model"])
    launch = Launch(**settings)
    if launch.remote_dev:
        warn(
            f"warning: development routes on {bracketed(launch.host)}:{launch.port}. Who reaches this address can "
            "call any method of the server's workers and load other weights; no key is asked for."
        )
    if print_only:
        print(launch.shell())
        return
    console.print(launch.shell(), highlight=False, soft_wrap=True, markup=False)
    launch.run()


def _device(
    python: str, experiment: Experiment | None, *, print_only: bool, warn: Callable[[str], None]
) -> Device:
    """What vLLM was built for; where a command is only printed and there is no vLLM, what the policy is for, or GPUs."""
    try:
        has = installed(python)
    except LoadError as error:
        if not print_only:
            raise
        device = (experiment and experiment.policy.device) or "cuda"
        warn(f"warning: the command is for a build of vLLM for {device} (--device says otherwise). {error}")
        return device
    if not is_supported(has.version):
        warn(f"warning: vLLM {has.version} is outside of {VERSIONS}, which is what is supported")
    return has.device


def _reloadable(model: Path | str, *, warn: Callable[[str], None]) -> Path | str:
    """The model as a CPU build of vLLM can reload it: with an output layer of its own, where embeddings are tied. vLLM may
    serve what cannot be loaded here (a model with code of its own, or one that is on another machine)."""
    from aipo.policies.weights import untied

    try:
        return untied(model)
    except LoadError as error:
        warn(
            f"warning: {model} cannot be loaded here. If its embeddings are tied, a CPU build of vLLM reloads them wrongly: run "
            "`aipo serve` where it can be loaded, which then serves a copy with an output layer of its own, or use --no-dev if "
            f"its weights stay. {error}"
        )
        return model


def settings_of(
    experiment: Experiment | None, given: dict[str, Any], model: Callable[[], Path | str]
) -> dict[str, Any]:
    """Settings of `Launch`: those given, then the configuration's.

    Args:
        model: the configured model; asked for only if none is given.

    Raises:
        ConfigError: no model, or several servers and no port that says which.
    """
    if experiment is None:
        if "model" not in given:
            raise ConfigError("aipo serve: got no model, allowed --model, or --config with policy.model")
        return given
    vllm = experiment.policy.vllm
    settings = vllm.serve.model_dump() | {
        "name": vllm.model,
        "dtype": vllm.serve.dtype or experiment.policy.dtype,
        "requests": vllm.requests,
        "nccl": vllm.sync == "nccl",
        "secret": vllm.secret,
        **given,
    }
    if "port" not in given:
        ports = [urlsplit(url).port for url in vllm.servers]
        if len(ports) != 1 or ports[0] is None:
            raise ConfigError(
                f"aipo serve: got policy.vllm.servers={list(vllm.servers)}, allowed one with a port, or --port for which"
            )
        settings["port"] = ports[0]
    if "model" not in given:
        settings["model"] = model()
    return settings


def _model(experiment: Experiment | None, console: Console) -> Path | str:
    assert experiment is not None
    with bars(console) as progress:
        return experiment.build_model(stage(progress, experiment.policy.making))
