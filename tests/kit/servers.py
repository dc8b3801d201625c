"""Real servers on this machine: any ASGI application, the miniature's agents with faults, and vLLM on the CPU."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aipo.config.build import Experiment
from aipo.policies.vllm.launch import Launch, installed
from envs.miniature.agents import knowledge, reasoning, verify

HEAD_DIM = 32
"""Size of an attention head; vLLM has no smaller one on CPUs."""

Configure = Callable[..., Experiment]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """The address of a real server; afterwards nobody listens there, and whoever still waits is cut off."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    # Here, not in the thread: what is imported there races with what the test imports.
    config.load()
    config.get_loop_factory()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


# -- the miniature's agents ---------------------------------------------------------------------------


@dataclass
class Faults:
    """Which requests go wrong: `share` of them, evenly spread, with `kind`.

    `seen` counts what was asked, `done` what was answered wrongly.
    """

    kind: str | None = None
    share: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    number: Any = field(default_factory=itertools.count)

    def due(self) -> str | None:
        n = next(self.number)
        wrong = self.kind is not None and int((n + 1) * self.share) > int(n * self.share)
        return self.kind if wrong else None


class CutOff:
    """An ASGI response that says it is longer than it is: the connection closes within the body, or before it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        size = str(2 * len(self._body) + 1).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


class Agents(NamedTuple):
    """A server of the miniature's agents."""

    url: str
    faults: Faults


def agents_app(faults: Faults, *, seed: int = 0) -> Starlette:
    """`POST /v1/chat/completions` for the models `knowledge`, `verify` and `reasoning`."""
    models: dict[str, BaseChatModel] = {
        "knowledge": knowledge(seed=seed),
        "verify": verify(seed=seed),
        "reasoning": reasoning(seed=seed),
    }

    async def complete(request: Request) -> Any:
        asked = await request.json()
        name = asked["model"]
        if name not in models:
            return JSONResponse({"error": {"message": f"no model {name}"}}, status_code=404)
        faults.seen[name] += 1
        wrong = faults.due()
        faults.done[str(wrong)] += wrong is not None
        if wrong == "hang":
            await asyncio.sleep(3600)
        if wrong == "500":
            return JSONResponse({"error": {"message": "out of order"}}, status_code=500)
        reply = models[name].invoke([HumanMessage(asked["messages"][-1]["content"])])
        usage = reply.usage_metadata
        assert usage is not None
        answer = chat_completion(name, str(reply.text), usage["input_tokens"], usage["output_tokens"])
        body = json.dumps(answer).encode()
        if wrong == "half":
            return CutOff(body[: len(body) // 2])
        if wrong == "invalid":
            return Response(body[:-20] + b"]]", media_type="application/json")
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def chat_completion(model: str, text: str, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """An answer as OpenAI words it."""
    message = {"role": "assistant", "content": text}
    usage = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


# -- vLLM ---------------------------------------------------------------------------------------------


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

    @contextmanager
    def running(self, **variables: str) -> Iterator[None]:
        """Starts it as `start` does, and kills it afterwards."""
        try:
            self.start(**variables)
            yield
        finally:
            self.kill()

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
