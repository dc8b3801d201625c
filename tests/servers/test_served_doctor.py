"""`aipo serve` and `aipo doctor` on the real thing: a server that one starts, the other finds nothing wrong with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asgi import free_port
from served import HEAD_DIM, Configure
from vllm_process import VLLMProcess

from aipo.checks import Check
from aipo.config import load_config
from aipo.doctor import diagnose

_PATIENCE = 300  # half-seconds


def bad(checks: list[Check]) -> list[tuple[str, str, str]]:
    return [(check.status, check.what, check.found) for check in checks if check.status != "ok"]


def test_what_serve_starts_doctor_finds_right(vllm_python: str, cold: Path, tmp_path: Path) -> None:
    """The command that is printed, pasted into a shell."""
    url = f"http://127.0.0.1:{free_port()}"
    overrides = [
        *("policy.engine=vllm", f"policy.options.head_dim={HEAD_DIM}", f"policy.vllm.servers=[{url}]"),
        *("policy.vllm.serve={context: 200, cache: 1}", "policy.vllm.model=policy", "run.threads=1"),
        f"run.out={tmp_path / 'run'}",
    ]
    command = [
        sys.executable,
        "-m",
        "aipo.cli",
        "serve",
        "--config",
        "aipo",
        "--print",
        "--python",
        vllm_python,
    ]
    printed = subprocess.run([*command, *overrides], capture_output=True, text=True, check=True).stdout
    quiet = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            ["sh", "-c", printed], stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True
        )
    try:
        config = load_config("aipo", overrides)
        for _ in range(_PATIENCE):
            made = list(diagnose(config, quick=True))
            if all(check.what != "server" or check.status == "ok" for check in made):
                break
            assert server.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.5)
        checks = list(diagnose(config, quick=False))
        assert bad(checks) == []
        found = {check.what: check.found for check in checks}
        assert found["served model"] == "policy"
        assert found["context"].startswith("200 tokens")
        assert "exactness" in found
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_raw_log_probs_and_closed_routes_are_found(
    vllm_python: str, cold: Path, tmp_path: Path, configure: Configure
) -> None:
    """A server as vLLM starts it by itself."""
    server = VLLMProcess(vllm_python, cold, tmp_path / "log.txt", "--logprobs-mode", "raw_logprobs")
    try:
        server.start(VLLM_SERVER_DEV_MODE="0")
        config = configure(f"policy.vllm.servers=[{server.url}]")
        assert {(status, what) for status, what, _ in bad(list(diagnose(config, quick=True)))} == {
            ("fail", "weight routes"),
            ("fail", "log-probs"),
        }
    finally:
        server.kill()
