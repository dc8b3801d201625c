"""`aipo serve` and `aipo doctor` on the real thing: a server that one starts, the other finds nothing wrong with."""

import subprocess
import sys
from pathlib import Path

import pytest

from aipo.config.build import load_experiment
from aipo.doctor.run import diagnose
from envs.miniature.model import cold_start
from kit.servers import HEAD_DIM, VLLMProcess, free_port


@pytest.fixture(scope="module")
def policy() -> Path:
    """The miniature's policy, hardly taught; far enough from uniform for temperature to show."""
    return cold_start(seed=0, steps=20, head_dim=HEAD_DIM)


def overrides(policy: Path, url: str, out: Path) -> list[str]:
    return [
        *(f"policy.model={policy}", "policy.engine=vllm", f"policy.vllm.servers=[{url}]"),
        *("policy.vllm.serve={context: 200, cache: 1}", "policy.vllm.model=policy"),
        *(f"run.out={out}", "run.threads=1"),
    ]


def test_what_serve_starts_doctor_finds_right(vllm_python: str, policy: Path, tmp_path: Path) -> None:
    """The command that is printed, pasted into a shell."""
    port = free_port()
    settings = overrides(policy, f"http://127.0.0.1:{port}", tmp_path / "run")
    command = (
        f"{sys.executable} -m aipo.cli serve --config aipo_distil --print --python {vllm_python}".split()
    )
    printed = subprocess.run([*command, *settings], capture_output=True, text=True, check=True).stdout
    server = VLLMProcess(vllm_python, policy, tmp_path / "log.txt", port=port, command=["sh", "-c", printed])
    with server.running():
        checks = list(diagnose(load_experiment("aipo_distil", settings), quick=False))
    assert [check for check in checks if check.status != "ok"] == []
    found = {check.what: check.found for check in checks}
    assert found["served model"] == "policy"
    assert found["context"].startswith("200 tokens")
    assert "exactness" in found


def test_raw_log_probs_and_closed_routes_are_found(vllm_python: str, policy: Path, tmp_path: Path) -> None:
    """A server as vLLM starts it by itself."""
    raw = ("--logprobs-mode", "raw_logprobs", "--served-model-name", "policy")
    server = VLLMProcess(vllm_python, policy, tmp_path / "log.txt", *raw)
    config = load_experiment("aipo_distil", overrides(policy, server.url, tmp_path / "run"))
    with server.running(VLLM_SERVER_DEV_MODE="0"):
        wrong = {check.what: check.status for check in diagnose(config, quick=True) if check.status != "ok"}
    assert wrong == {"weight routes": "fail", "log-probs": "fail"}
