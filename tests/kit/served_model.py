"""A model behind an OpenAI-compatible address that writes what a test says, and remembers what it was asked."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kit.servers import chat_completion, serving


@dataclass
class ServedModel:
    """Answers a question that contains a key of `answers` by its texts in turn; any other by `2`.

    Args:
        limit: answers no more than so many of those, and lets the others wait.
        broken: the first so many of those fail with 400.
    """

    answers: Mapping[str, Sequence[str]]
    limit: int | None = None
    broken: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answered: Counter[str] = field(default_factory=Counter[str])

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        question = body["messages"][-1]["content"]
        keys = [key for key in self.answers if key in question]
        if not keys:
            return JSONResponse(chat_completion("clever", "2", 1, 1))
        self.asked.append(body)
        if self.broken:
            self.broken -= 1
            return JSONResponse({"error": {"message": "out of order"}}, status_code=400)
        if self.limit is not None and self.answered.total() >= self.limit:
            await asyncio.Event().wait()
        texts = self.answers[keys[0]]
        text = texts[self.answered[keys[0]] % len(texts)]
        self.answered[keys[0]] += 1
        return JSONResponse(chat_completion("clever", text, 1, 1))


@contextmanager
def served_model(model: ServedModel) -> Iterator[list[str]]:
    """The options of `aipo eval` that name it."""
    app = Starlette(routes=[Route("/v1/chat/completions", model.complete, methods=["POST"])])
    with serving(app) as url:
        yield ["--endpoint", f"{url}/v1", "--model", "clever"]
