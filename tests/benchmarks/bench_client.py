"""What does a call of the policy's servers cost, next to a raw HTTP client that parses the same bytes?

    python tests/benchmarks/bench_client.py

A server in a process of its own gives the same answer to every request: so many tokens with their log-probs, as
vLLM writes them. Two clients ask it, in turns:

- raw: `httpx.AsyncClient` posts the same request and reads the answer with `json`: ids and log-probs as lists;
- ours: `VLLMPolicy.sample`, with its pool, deadline, checks and arrays.

CPU time of this process per call, so that the server and other work on the machine matter less; rounds alternate;
medians with the least and the most.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixed_vllm import MODEL, VOCABULARY, running, same
from measure import options, ratios, show, spread

from aipo.policies import SampleRequest
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.completions import request_body
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.pool import ServerPool
from envs.miniature.model import tokenizer as words

CONTEXT = np.arange(1, 1025, dtype=np.int32) % VOCABULARY
IN_FLIGHT = 32
SIZES = (64, 512, 2048)


async def measure(calls: int, call: Callable[[], Awaitable[int]], tokens: int) -> float:
    """CPU milliseconds of this process per call."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            assert await call() == tokens

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return 1e3 * (time.process_time() - began) / calls


async def compare(url: str, tokens: int, calls: int, rounds: int) -> tuple[list[float], list[float]]:
    policy = VLLMPolicy(ServerPool([url]), HFTokenizer(words()), vocabulary=VOCABULARY)
    request = SampleRequest(CONTEXT, max_tokens=tokens, stop=("</consult>",))
    body = request_body(MODEL, request)
    headers = {"Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:

        async def raw() -> int:
            answer = await client.post(f"{url}/v1/completions", content=body, headers=headers)
            choice = json.loads(answer.content)["choices"][0]
            return len(choice["token_ids"]) if len(choice["logprobs"]["token_logprobs"]) == tokens else 0

        async def ours() -> int:
            return len((await policy.sample(request)).token_ids)

        await measure(2 * IN_FLIGHT, raw, tokens)
        await measure(2 * IN_FLIGHT, ours, tokens)
        theirs: list[float] = []
        own: list[float] = []
        for _ in range(rounds):
            theirs.append(await measure(calls, raw, tokens))
            own.append(await measure(calls, ours, tokens))
    await policy.aclose()
    return theirs, own


def main() -> None:
    given = options(__doc__, calls=400, rounds=9)
    rows: list[list[str]] = []
    for tokens in SIZES:
        with running(same(tokens)) as url:
            theirs, own = asyncio.run(compare(url, tokens, given.calls, given.rounds))
        rows.append([str(tokens), spread(theirs), spread(own), spread(ratios(own, theirs))])
    show(("tokens", "raw, ms of CPU", "ours, ms of CPU", "ratio (least to most)"), rows)


if __name__ == "__main__":
    main()
