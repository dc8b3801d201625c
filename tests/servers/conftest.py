"""What the tests with real servers share: vLLM with the miniature's policy, and its agents behind HTTP."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aipo.config.build import Experiment, load_experiment
from envs.miniature.model import STEPS, cold_start
from kit.parts import lacking
from kit.servers import HEAD_DIM, Agents, Configure, Faults, VLLMProcess, agents_app, serving


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """Python of the environment with vLLM (tests/servers/install_vllm.sh makes one)."""
    python = os.environ.get("AIPO_VLLM_PYTHON")
    if python is None:
        lacking("vllm", "vLLM is not installed: AIPO_VLLM_PYTHON names no Python that has it")
    return python


@pytest.fixture(scope="session")
def cold() -> Path:
    """The miniature's policy after its cold start."""
    return cold_start(seed=0, steps=STEPS, head_dim=HEAD_DIM)


@pytest.fixture(scope="session")
def vllm(vllm_python: str, cold: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMProcess]:
    """A vLLM server with the miniature's policy; whoever needs certain weights pushes them."""
    server = VLLMProcess(vllm_python, cold, tmp_path_factory.mktemp("vllm") / "log.txt")
    with server.running():
        yield server


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agents]:
    """The miniature's agents behind HTTP."""
    monkeypatch.setenv("AGENTS_KEY", "none")
    faults = Faults()
    with serving(agents_app(faults)) as url:
        yield Agents(url, faults)


@pytest.fixture
def configure(vllm: VLLMProcess, tmp_path: Path) -> Configure:
    """The preset `aipo_distil` with its policy on the server, and with its agents there too if there are any."""

    def made(*overrides: str, agents: Agents | None = None) -> Experiment:
        served = [
            f"run.out={tmp_path / 'run'}",
            "run.threads=1",
            "method.assist_share_end=null",  # half of a group asks even in the last of few generations
            "policy.engine=vllm",
            f"policy.options.head_dim={HEAD_DIM}",
            f"policy.vllm.servers=[{vllm.url}]",
        ]
        names = ("knowledge", "verify", "reasoning") if agents else ()
        for name in names:
            served += [
                f"agents.{name}.model=langchain_openai:ChatOpenAI",
                f"agents.{name}.options={{model: {name}, base_url: '{agents.url}/v1', temperature: 0}}",
                f"agents.{name}.secrets={{api_key: AGENTS_KEY}}",
            ]
        return load_experiment("aipo_distil", [*served, *overrides])

    return made
