"""A real vLLM server on this machine's CPU, started as `aipo serve` starts it; a test may kill it and start it again."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from aipo.policies.vllm.launch import Launch, installed
from kit.asgi import free_port

_PATIENCE = 1200  # half-seconds; the slowest start seen took 160 s, on a machine that was busy
_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
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
        options: more arguments, which win over those of `aipo serve`.
        port: where it listens; None = any that is free.
        command: instead of the one that is made of all this.
    """

    def __init__(
        self,
        python: str,
        model: Path,
        log: Path,
        *options: str,
        port: int | None = None,
        command: list[str] | None = None,
    ) -> None:
        self.log = log
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        device = installed(python).device
        launch = Launch(python=python, device=device, model=str(model), port=self.port, cache=1.0)
        self._command = command or [*launch.command(), *options]
        self._variables = launch.variables()
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
                env=os.environ | self._variables | _ENVIRONMENT | variables,
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
        """Does it answer?"""
        with suppress(urllib.error.URLError, OSError):
            return self.get("health") is not None
        return False

    def get(self, path: str) -> str:
        """Text of one of its pages."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a Prometheus metric over the series with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = (line for line in self.get("metrics").splitlines() if line.startswith(f"{name}{{"))
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(w in line for w in wanted))

    def kill(self) -> None:
        """kill -9, the engine's processes too."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
