"""A server in a process of its own whose answers cost next to nothing to make, for measuring clients."""

import asyncio
import json
import multiprocessing
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

MODEL = "fixed"
VOCABULARY = 256
_CARD = json.dumps({"data": [{"id": MODEL, "max_model_len": 1 << 16}]}).encode()

Answer = Callable[[bytes], bytes]


@contextmanager
def running(answer: Answer, *, latency: float = 0.0) -> Iterator[str]:
    """The address of a server that gives `answer` to the body of each completion, `latency` seconds later."""
    context = multiprocessing.get_context("fork")  # a spawned one would import the whole benchmark
    ports = context.SimpleQueue()
    process = context.Process(target=_serve, args=(ports, answer, latency), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get()}"
    finally:
        process.kill()
        process.join()


def same(tokens: int) -> Answer:
    """Always the same answer of `tokens` tokens, as vLLM writes it."""
    rng = random.Random(0)
    choice = {
        "index": 0,
        "text": "",
        "logprobs": {
            "text_offset": [0] * tokens,
            "token_logprobs": [-rng.expovariate(1.0) for _ in range(tokens)],
            "tokens": ["token"] * tokens,
            "top_logprobs": [{"token": -1.0}] * tokens,
        },
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": [rng.randrange(VOCABULARY) for _ in range(tokens)],
        "prompt_logprobs": None,
    }
    made = {"id": "cmpl-0", "object": "text_completion", "model": MODEL, "choices": [choice]}
    return partial(_constant, json.dumps(made).encode())


def _constant(body: bytes, asked: bytes) -> bytes:
    return body


def _serve(ports: Any, answer: Answer, latency: float) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = b""
        more = True
        while more:
            message = await receive()
            asked += message.get("body", b"")
            more = message.get("more_body", False)
        completes = scope["method"] == "POST"
        if completes and latency:
            await asyncio.sleep(latency)
        body = answer(asked) if completes else _CARD
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    ports.put(listener.getsockname()[1])
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[listener])
