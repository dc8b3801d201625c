"""A stand-in for a vLLM server whose answers can be told by eye, and which fails on demand.

It answers ids that count up from the last id of the context (modulo 10), the log-prob of an id i being -i/10,
until id 9, which ends the text. What is served are not weights: it remembers from where they were loaded.
"""

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

END = 9


@dataclass
class FakeVLLM:
    """State of one server.

    `faults` holds what happens to the next completions, one each: a status, `hang`, `half` (the connection
    closes within the body), `invalid` (no JSON), `abort` (it gives the request up), `drop` (it closes before the headers) or None (it answers).
    """

    name: str = "fake"
    positions: int = 64
    faults: deque[int | str | None] = field(default_factory=deque)
    healthy: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    resets: int = 0
    refusals: int = 0
    cut_off: int = 0
    now: int = 0
    most: int = 0
    gate: asyncio.Event | None = None
    retry_after: str | None = None

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/collective_rpc", self._load, methods=["POST"]),
                Route("/reset_prefix_cache", self._reset, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": self.name, "max_model_len": self.positions}]})

    async def _load(self, request: Request) -> Response:
        self.loaded.append((await request.json())["kwargs"]["weights_path"])
        return JSONResponse({"results": [None]})

    async def _reset(self, request: Request) -> Response:
        self.refusals, refused = max(0, self.refusals - 1), self.refusals > 0
        self.resets += not refused
        return JSONResponse({"success": not refused})

    async def _complete(self, request: Request) -> Any:
        asked = await request.json()
        self.asked.append(asked)
        self.keys.append(request.headers.get("authorization"))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._answer(request, asked)
        finally:
            self.now -= 1

    async def _answer(self, request: Request, asked: dict[str, Any]) -> Any:
        fault = self.faults.popleft() if self.faults else None
        if fault == "hang":
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
            self.cut_off += 1
        if isinstance(fault, int):
            headers = {"retry-after": self.retry_after} if self.retry_after else {}
            return JSONResponse({"error": {"message": "said the server"}}, status_code=fault, headers=headers)
        if fault == "abort":
            answer = completion(asked)
            answer["choices"][0] |= {
                "finish_reason": "abort",
                "token_ids": [],
                "logprobs": {"token_logprobs": []},
            }
            return JSONResponse(answer)
        body = json.dumps(completion(asked)).encode()
        if fault == "invalid":
            return Response(body[:-9], media_type="application/json")
        if fault in ("half", "drop"):
            return Cut(body if fault == "half" else b"")
        return Response(body, media_type="application/json")


class Cut:
    """Says that the body is longer than it is."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(2 * len(self._body) + 1).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers, as far as it is read."""
    context, room = asked["prompt"], asked["max_tokens"]
    first = (context[-1] + 1) % 10
    ids = list(range(first, END + 1))[:room]
    ended = ids[-1] == END
    return {
        "choices": [
            {
                "token_ids": ids,
                "logprobs": {"token_logprobs": [-i / 10 for i in ids]},
                "finish_reason": "stop" if ended else "length",
                "stop_reason": None,
                "prompt_token_ids": context,
            }
        ]
    }
