"""How fast does `LocalPolicy` sample, next to a bare batched `model.generate`?

    python tests/benchmarks/bench_local.py --threads 1
    python tests/benchmarks/bench_local.py --model "$(aipo model --config smollm2)"

Without --model it is the miniature's network with random weights. Three workloads:

- generate: one batch of 128 rows × 60 tokens through `model.generate(do_sample=True)`;
- engine: the same tokens as 128 concurrent requests, with log-probabilities and entropies;
- consults: 512 rollouts, 128 at a time; every other one stops after 12 tokens, is away for some turns of
  the event loop and comes back with 20 tokens more of context. Only sampled tokens count.

With --model it is the network of that folder, in float32: 64 rows of 58 tokens behind prompts of 218 tokens, eight rows
behind each prompt, and 64 rollouts, each of which stops after 24 tokens and comes back. A second table shows what prefill
costs with shared contexts (blocks that any rollout has computed, equal prompts) and without, where each rollout has a prompt of
its own and nothing is kept. The last number is the largest difference between the engine's log-probs and those of a plain
forward pass (nats).

Rounds alternate, so that a busy machine hits all workloads; the table shows medians. `--threads 0`: as many as AIPO takes.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, show, wall

from aipo.policies import Completion, SampleRequest
from aipo.policies.local.kv_cache import KVTable
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.local.prefix_cache import PrefixCache
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.util.threads import limit_torch

AWAY = 12
"""Turns of the event loop until an agent's reply is there."""
REPLY = 20


@dataclass(frozen=True)
class Workload:
    """What is sampled: `rows` at a time of `tokens` each behind prompts of `prompt` tokens, `group` rows behind each
    prompt; `rollouts` in all, of which each `asking`-th stops after `first` tokens."""

    rows: int
    group: int
    prompt: int
    tokens: int
    rollouts: int
    first: int
    asking: int

    def prompts(self, vocabulary: int, group: int | None = None) -> np.ndarray:
        """Random ids, shape (rows, prompt)."""
        group = group or self.group
        rng = np.random.default_rng(0)
        ids = rng.integers(min(1000, vocabulary // 7), vocabulary, (self.rows // group, self.prompt))
        return ids.astype(np.int32).repeat(group, axis=0)


MINIATURE = Workload(rows=128, group=1, prompt=10, tokens=60, rollouts=512, first=12, asking=2)


def real_model(groups: int) -> Workload:
    return Workload(rows=8 * groups, group=8, prompt=218, tokens=58, rollouts=8 * groups, first=24, asking=1)


async def generate(policy: LocalPolicy, work: Workload, prompts: np.ndarray) -> int:
    ids = torch.from_numpy(prompts.astype(np.int64))
    with torch.no_grad():
        output = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=work.tokens,
            min_new_tokens=work.tokens,
            pad_token_id=policy.tokenizer.pad_id,
            use_cache=True,
        )
    return (output.shape[1] - work.prompt) * work.rows


async def engine(policy: LocalPolicy, work: Workload, prompts: np.ndarray) -> int:
    done = await asyncio.gather(*(sample(policy, p, work.tokens, i) for i, p in enumerate(prompts)))
    return sum(len(completion.token_ids) for _, completion in done)


async def consults(policy: LocalPolicy, work: Workload, prompts: np.ndarray) -> int:
    return sum(count for count, _, _ in await rollouts(policy, work, prompts))


Rollout = tuple[int, np.ndarray, Completion]
"""Tokens that were sampled; the last context, and what was sampled behind it."""


async def rollouts(policy: LocalPolicy, work: Workload, prompts: np.ndarray) -> list[Rollout]:
    gate = asyncio.Semaphore(work.rows)

    async def rollout(i: int) -> Rollout:
        async with gate:
            context, first = prompts[i % work.rows], 0
            if i % work.asking == work.asking - 1:
                _, request = await sample(policy, context, work.first, i)
                for _ in range(AWAY):
                    await asyncio.sleep(0)
                reply = np.random.default_rng(i).choice(context, REPLY)
                first = len(request.token_ids)
                context = np.concatenate([context, request.token_ids, reply])
            context, done = await sample(policy, context, work.tokens - first, i)
            return first + len(done.token_ids), context, done

    policy.remember()  # as training does
    try:
        return await asyncio.gather(*(rollout(i) for i in range(work.rollouts)))
    finally:
        policy.forget()


def forbidden(policy: LocalPolicy) -> tuple[int, ...]:
    """What could end a continuation early."""
    words = policy.tokenizer
    return tuple(i for i in (words.eos_id, words.token_id("</consult>")) if i is not None)


async def sample(
    policy: LocalPolicy, context: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, Completion]:
    request = SampleRequest(
        context, max_tokens=count, stop=("</consult>",), forbidden_ids=forbidden(policy), seed=seed
    )
    return context, await policy.sample(request)


def rate(work: Callable[[], Coroutine[Any, Any, int]]) -> float:
    """Tokens per second."""
    tokens: list[int] = []
    seconds = wall(lambda: tokens.append(asyncio.run(work())))
    return tokens[0] / seconds


class ForgetfulCache(PrefixCache):
    """Keeps nothing."""

    def write(self, ids: Any, states: Any, limit: int) -> None:
        pass


@contextmanager
def metered() -> Generator[dict[str, float]]:
    """The CPU seconds of giving contexts a row and filling it, and the tokens that were computed for it."""
    spent = {"cpu_s": 0.0, "tokens": 0.0}
    admit, prefill = KVTable.admit, KVTable._prefill

    def metered_admit(table: KVTable, prompts: Any) -> Any:
        started = time.process_time()
        rows = admit(table, prompts)
        spent["cpu_s"] += time.process_time() - started
        return rows

    def metered_prefill(table: KVTable, prompts: Any, rows: Any, missing: Any) -> None:
        spent["tokens"] += int(missing.sum())
        prefill(table, prompts, rows, missing)

    with patch.object(KVTable, "admit", metered_admit), patch.object(KVTable, "_prefill", metered_prefill):
        yield spent


def measure_prefill(policy: LocalPolicy, work: Workload) -> dict[str, dict[str, float]]:
    """What prefill costs with shared contexts and without, and the largest difference of log-probs, with them."""
    vocabulary = len(policy.tokenizer)
    with metered() as shared:
        done = asyncio.run(rollouts(policy, work, work.prompts(vocabulary)))
    with patch("aipo.policies.local.policy.prefix_cache") as cache, metered() as alone:
        cache.side_effect = lambda model: ForgetfulCache((1, 2, 1, 1), torch.zeros(0))
        asyncio.run(rollouts(policy, work, work.prompts(vocabulary, group=1)))
    differences = [
        np.abs(score(policy.model, context, one.token_ids, forbidden(policy)) - one.logprobs).max()
        for _, context, one in done[::7]  # of each group one or two
    ]
    ratio = {name: alone[name] / shared[name] for name in shared}
    return {
        "shared": shared,
        "alone": alone,
        "ratio": ratio,
        "logprobs": {"largest_difference": float(max(differences))},
    }


def load(folder: str) -> tuple[LocalPolicy, HFTokenizer]:
    if folder:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        words = HFTokenizer(AutoTokenizer.from_pretrained(folder))
    else:
        from envs.miniature.model import network, tokenizer

        words = HFTokenizer(tokenizer())
        model = network(len(words))
    return LocalPolicy(model.eval(), words), words


def main() -> None:
    given = options(__doc__, model="", threads=0, rounds=0, groups=8)
    limit_torch(given.threads or None)
    policy, words = load(given.model)
    work = real_model(given.groups) if given.model else MINIATURE
    runs = (generate, consults) if given.model else (generate, engine, consults)
    prompts = work.prompts(len(words))
    tasks = {run.__name__: partial(rate, partial(run, policy, work, prompts)) for run in runs}
    rounds = given.rounds or (2 if given.model else 5)
    assert words.texts  # read once, here: stop strings are looked up in them
    results = alternate(rounds, tasks, warm_up=not given.model)
    rates = {name: median(values) for name, values in results.items()}
    rows = [[name, f"{rate:,.0f}", f"{rate / rates['generate']:.2f}"] for name, rate in rates.items()]
    numbers: dict[str, Any] = {**rates, "threads": torch.get_num_threads()}
    if given.model:
        numbers["prefill"] = measure_prefill(policy, work)
    show(("", "tok/s", "ratio to generate"), rows, numbers, given.out)
    if given.model:
        *costs, (_, logprobs) = numbers["prefill"].items()
        rows = [[name, f"{cost['cpu_s']:,.1f}", f"{cost['tokens']:,.0f}"] for name, cost in costs]
        show(("prefill", "CPU s", "tokens"), rows)
        print(f"largest difference of log-probs: {logprobs['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
