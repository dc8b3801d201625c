"""A stand-in for a vLLM server whose answer depends on context and seed, and on nothing else, as a model's does.

It speaks the miniature's language: it answers at once, asks an agent first, or runs out of tokens. What it
has for weights is lost when it starts again.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from envs.miniature_model import tokenizer

WORDS = tokenizer()
EOS = int(WORDS.eos_token_id)
CLOSE = "</consult>"
SAID = (
    "<answer>42</answer>",
    "<consult:knowledge>3@7</consult>",
    "<consult:verify>17+25=42</consult>",
    "hm " * 9,
)
IDS = [WORDS.encode(text) for text in SAID]


def number(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big")


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers, as far as it is read."""
    drawn = number(asked["prompt"], asked["seed"])
    forbidden = set(map(int, asked.get("logit_bias", ())))
    allowed = [(text, ids) for text, ids in zip(SAID, IDS, strict=True) if forbidden.isdisjoint(ids)]
    text, ids = allowed[drawn % len(allowed)]
    stopped = text.endswith(CLOSE) and CLOSE in asked["stop"]
    whole = ids if stopped else [*ids, EOS]
    ids = whole[: asked["max_tokens"]]
    ended = len(ids) == len(whole)
    return {
        "choices": [
            {
                "token_ids": ids,
                "logprobs": {"token_logprobs": [-(number(drawn, i) % 1000) / 999 for i in range(len(ids))]},
                "finish_reason": "stop" if ended else "length",
                "stop_reason": CLOSE if stopped and ended else None,
                "prompt_token_ids": asked["prompt"],
            }
        ]
    }


@dataclass
class SeededVLLM:
    """State of one server.

    Args:
        hangs: for which requests no answer comes, as long as it says so.
        loaded: it has been given its weights; see `early`.

    Attributes:
        asked: seeds of all completions so far.
        early: how many completions it was asked for before it was given its weights.
    """

    hangs: Callable[[dict[str, Any]], bool] = lambda asked: False
    loaded: bool = True
    asked: list[int] = field(default_factory=list)
    early: int = 0

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/load", self._load, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        return Response()

    async def _models(self, request: Request) -> Response:
        return _json({"data": [{"id": "seeded", "max_model_len": 256}]})

    async def _load(self, request: Request) -> Response:
        self.loaded = True
        return _json({})

    async def _complete(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        self.asked.append(asked["seed"])
        self.early += not self.loaded
        while self.hangs(asked) and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return _json(completion(asked))


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
