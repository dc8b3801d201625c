"""The miniature's agents behind an OpenAI-compatible server, which can be made to fail as real ones do."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from envs.miniature_agents import knowledge, reasoning, verify

KINDS = ("hang", "500", "half", "invalid")


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


@dataclass
class Broken:
    """An ASGI response that stops half-way: the connection is closed before the body is whole."""

    body: bytes

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        size = str(2 * len(self.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


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
        body = json.dumps(_answer(name, models[name], asked)).encode()
        if wrong == "half":
            return Broken(body[: len(body) // 2])
        if wrong == "invalid":
            return Response(body[:-20] + b"]]", media_type="application/json")
        return Response(body, media_type="application/json")

    async def listed(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", listed),
        ]
    )


def _answer(name: str, model: BaseChatModel, asked: dict[str, Any]) -> dict[str, Any]:
    made = model.invoke([HumanMessage(asked["messages"][-1]["content"])])
    usage = made.usage_metadata
    assert usage is not None
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": str(made.text)},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }
