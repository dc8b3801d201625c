"""A real vLLM server on this machine's CPU, which a test may kill and start again."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from asgi import free_port

_PATIENCE = 300  # half-seconds; the slowest start seen took 60 s
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


class VLLMProcess:
    """One server in a process group of its own; it keeps its port from start to start.

    Args:
        python: of the environment with vLLM.
        model: `from_pretrained` folder.
        log: where the server's output goes.
    """

    def __init__(self, python: str, model: Path, log: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--model", str(model)),
            *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "256"),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **variables: str) -> None:
        """Starts it, with `variables` set besides, and waits until it answers."""
        self.launch(**variables)
        self.wait()

    def launch(self, **variables: str) -> None:
        """Starts it without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=os.environ | _ENVIRONMENT | variables,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Waits until it answers."""
        assert self._process is not None
        for _ in range(_PATIENCE):
            if self._process.poll() is not None:
                break
            if self.healthy():
                return
            time.sleep(0.5)
        raise AssertionError(f"vLLM does not come up: {self.log.read_text()[-3000:]}")

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """kill -9, the engine's processes too."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
