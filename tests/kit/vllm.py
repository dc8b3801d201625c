"""Stand-ins for a vLLM server whose answers follow from the request; `tiny_vllm` has those that compute."""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from aipo.policies.vllm.pool import ServerPool
from envs.miniature.model import tokenizer
from kit.servers import CutOff, serving


class StandIn:
    """What all of them have: the routes that AIPO asks for.

    Attributes:
        resets: how often its cache was to be emptied.
        refusals: how many of the next times it says that the cache is in use.
    """

    name: str
    positions: int
    resets = 0
    refusals = 0

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.complete, methods=["POST"]),
                *self.more(),
            ]
        )

    def more(self) -> list[BaseRoute]:
        """Further routes: those of development."""
        return [
            Route("/collective_rpc", self._load, methods=["POST"]),
            Route("/reset_prefix_cache", self._reset, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        return Response()

    async def _load(self, request: Request) -> Response:
        return JSONResponse({"results": [None]})

    async def _reset(self, request: Request) -> Response:
        self.resets += 1
        refused, self.refusals = self.refusals > 0, self.refusals - 1
        return JSONResponse({"success": not refused})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": self.name, "max_model_len": self.positions}]})

    async def complete(self, request: Request) -> Any:
        raise NotImplementedError


def choice(
    ids: Sequence[int],
    logprobs: Sequence[float],
    /,
    *,
    stop: str | None = None,
    ended: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A completion as vLLM words it, as far as it is read."""
    made = {
        "token_ids": [*ids],
        "logprobs": {"token_logprobs": [*logprobs]},
        "finish_reason": "stop" if ended else "length",
        "stop_reason": stop,
    }
    return {"choices": [made | more]}


# -- one that counts ---------------------------------------------------------------------------------------

END = 9
ANSWER = [2, 3, 4]
"""What `complete` gets of a `FakeVLLM`."""
_BODY = orjson.dumps({"prompt": [1], "max_tokens": 3})


@dataclass
class FakeVLLM(StandIn):
    """A server whose answers can be told by eye, and which fails on demand.

    It answers ids that count up from the last id of the context (modulo 10), the log-prob of an id i being -i/10,
    until id 9, which ends the text. What is served are not weights: it remembers from where they were loaded.

    `faults` holds what happens to the next completions, one each: a status, `hang`, `half` (the connection
    closes within the body), `invalid` (no JSON), `abort` (it gives the request up), `drop` (it closes before the headers),
    bytes (a body with status 200) or None (it answers). `cached`: tokens of a context that it says it had in its cache; it
    says nothing of none, as vLLM.
    """

    name: str = "fake"
    positions: int = 64
    faults: deque[int | str | bytes | None] = field(default_factory=deque)
    healthy: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    cut_off: int = 0
    now: int = 0
    most: int = 0
    retry_after: str | None = None
    cached: int | None = None

    async def health(self, request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _load(self, request: Request) -> Response:
        self.loaded.append((await request.json())["kwargs"]["weights_path"])
        return await super()._load(request)

    async def complete(self, request: Request) -> Any:
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
        if isinstance(fault, bytes):
            return Response(fault, media_type="application/json")
        if fault == "abort":
            return JSONResponse(choice([], [], finish_reason="abort", prompt_token_ids=asked["prompt"]))
        first = (asked["prompt"][-1] + 1) % 10
        ids = list(range(first, END + 1))[: asked["max_tokens"]]
        logprobs = [-i / 10 for i in ids]
        answer = choice(ids, logprobs, ended=ids[-1] == END, prompt_token_ids=asked["prompt"])
        if self.cached is not None:
            answer["usage"] = {
                "prompt_tokens_details": {"cached_tokens": self.cached} if self.cached else None
            }
        body = json.dumps(answer).encode()
        if fault == "invalid":
            return Response(body[:-9], media_type="application/json")
        if fault in ("half", "drop"):
            return CutOff(body if fault == "half" else b"")
        return Response(body, media_type="application/json")


def start(stack: ExitStack, *fakes: StandIn) -> list[str]:
    """Addresses of real servers, which stop with the stack."""
    return [stack.enter_context(serving(fake.app)) for fake in fakes]


def used(pool: ServerPool, work: Callable[[ServerPool], Awaitable[Any]]) -> Any:
    """What `work` gives; the pool's connections are closed afterwards."""

    async def main() -> Any:
        try:
            return await work(pool)
        finally:
            await pool.aclose()

    return asyncio.run(main())


async def until(holds: Callable[[], object]) -> None:
    """Waits until it holds."""
    while not holds():
        await asyncio.sleep(0.01)


async def complete(pool: ServerPool, session: int = 0) -> list[int]:
    """Ids of one completion."""
    raw = await pool.ask("v1/completions", _BODY, session=session)
    return orjson.loads(raw)["choices"][0]["token_ids"]


# -- one that depends on context and seed --------------------------------------------------------------------

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


def seeded_completion(asked: dict[str, Any]) -> dict[str, Any]:
    """It speaks the miniature's language: it answers at once, asks an agent first, or runs out of tokens."""
    drawn = number(asked["prompt"], asked["seed"])
    forbidden = set(map(int, asked.get("logit_bias", ())))
    allowed = [(text, ids) for text, ids in zip(SAID, IDS, strict=True) if forbidden.isdisjoint(ids)]
    text, ids = allowed[drawn % len(allowed)]
    stopped = text.endswith(CLOSE) and CLOSE in asked["stop"]
    whole = ids if stopped else [*ids, EOS]
    ids = whole[: asked["max_tokens"]]
    ended = len(ids) == len(whole)
    logprobs = [-(number(drawn, i) % 1000) / 999 for i in range(len(ids))]
    stop = CLOSE if stopped and ended else None
    return choice(ids, logprobs, stop=stop, ended=ended, prompt_token_ids=asked["prompt"])


@dataclass
class SeededVLLM(StandIn):
    """A server whose answer depends on context and seed, and on nothing else, as a model's does.

    What it has for weights is lost when it starts again.

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
    name: str = "seeded"
    positions: int = 256

    def more(self) -> list[BaseRoute]:
        return [Route("/load", self._load, methods=["POST"])]

    async def _load(self, request: Request) -> Response:
        self.loaded = True
        return JSONResponse({})

    async def complete(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        self.asked.append(asked["seed"])
        self.early += not self.loaded
        while self.hangs(asked) and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return Response(orjson.dumps(seeded_completion(asked)), media_type="application/json")
