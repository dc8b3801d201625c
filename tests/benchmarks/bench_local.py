"""How fast does `LocalPolicy` sample, next to a bare batched `model.generate`?

    python tests/benchmarks/bench_local.py --threads 1

The model is the miniature's, with random weights. Three workloads:

- generate: one batch of 128 rows × 60 tokens through `model.generate(do_sample=True)`;
- engine: the same tokens as 128 concurrent requests, with log-probabilities and entropies;
- consults: 512 rollouts, 128 at a time; every other one stops after 12 tokens, is away for some turns of
  the event loop and comes back with 20 tokens more of context. Only sampled tokens count.

Rounds alternate, so that a busy machine hits all three; the table shows medians.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, show, wall

from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from envs.miniature.model import network, tokenizer

ROWS, PROMPT, TOKENS = 128, 10, 60
ROLLOUTS, FIRST, AWAY = 512, 12, 12


async def generate(policy: LocalPolicy, prompts: np.ndarray) -> int:
    ids = torch.from_numpy(prompts)
    with torch.no_grad():
        output = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            pad_token_id=policy.tokenizer.pad_id,
            use_cache=True,
        )
    return (output.shape[1] - PROMPT) * ROWS


async def engine(policy: LocalPolicy, prompts: np.ndarray) -> int:
    ids = await asyncio.gather(*(sample(policy, p, TOKENS, i) for i, p in enumerate(prompts)))
    return sum(map(len, ids))


async def consults(policy: LocalPolicy, prompts: np.ndarray) -> int:
    gate = asyncio.Semaphore(ROWS)

    async def rollout(i: int) -> int:
        async with gate:
            context = prompts[i % ROWS]
            if i % 2:
                return len(await sample(policy, context, TOKENS, i))
            request = await sample(policy, context, FIRST, i)
            for _ in range(AWAY):
                await asyncio.sleep(0)
            context = np.concatenate([context, request, context, context])
            return FIRST + len(await sample(policy, context, TOKENS - FIRST, i))

    return sum(await asyncio.gather(*(rollout(i) for i in range(ROLLOUTS))))


async def sample(policy: LocalPolicy, context: np.ndarray, count: int, seed: int) -> np.ndarray:
    """As many ids as are asked for: what could end them is forbidden."""
    words = policy.tokenizer
    forbidden = (words.eos_id, words.token_id("</consult>"))
    request = SampleRequest(
        context, max_tokens=count, stop=("</consult>",), forbidden_ids=forbidden, seed=seed
    )
    return (await policy.sample(request)).token_ids


def rate(work: Callable[[], Coroutine[Any, Any, int]]) -> float:
    """Tokens per second."""
    tokens: list[int] = []
    seconds = wall(lambda: tokens.append(asyncio.run(work())))
    return tokens[0] / seconds


def main() -> None:
    given = options(__doc__, threads=1, rounds=5)
    torch.set_num_threads(given.threads)
    words = HFTokenizer(tokenizer())
    policy = LocalPolicy(network(len(words)).eval(), words)
    prompts = np.random.default_rng(0).integers(40, len(words), (ROWS, PROMPT))
    work = {
        run.__name__: partial(rate, partial(run, policy, prompts)) for run in (generate, engine, consults)
    }
    rates = {name: median(values) for name, values in alternate(given.rounds, work).items()}
    rows = [[name, f"{rate:,.0f}", f"{rate / rates['generate']:.2f}"] for name, rate in rates.items()]
    show(("", "tok/s", "ratio to generate"), rows, rates, given.out)


if __name__ == "__main__":
    main()
