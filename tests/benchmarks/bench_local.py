"""How fast does `LocalPolicy` sample, next to a bare batched `model.generate`?

    python tests/benchmarks/bench_local.py --threads 1

The model is the miniature's: Qwen2, 2 layers, width 96, about 40 ids. Three workloads:

- generate: one batch of 128 rows × 60 tokens through `model.generate(do_sample=True)`;
- engine: the same tokens as 128 concurrent requests, with log-probabilities and entropies;
- consults: 512 rollouts, 128 at a time; every other one stops after 12 tokens, is away for some turns of
  the event loop and comes back with 20 tokens more of context. Only sampled tokens count.

Rounds alternate, so that a busy machine hits all three; the table shows medians.
"""

import asyncio
import string
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, show, wall

from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from kit.tiny import qwen2

ROWS, PROMPT, TOKENS = 128, 10, 60
ROLLOUTS, FIRST, AWAY = 512, 12, 12


def character_tokenizer() -> HFTokenizer:
    vocab = {text: i for i, text in enumerate(string.ascii_lowercase + string.digits)}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<eos>", "<pad>", "</consult>")])
    return HFTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    )


def small_model(vocabulary: int, kv_heads: int) -> Qwen2ForCausalLM:
    size = {"hidden_size": 96, "intermediate_size": 256, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    return qwen2(vocabulary, initializer_range=0.02, **size, **heads).eval()


def generate(model: Qwen2ForCausalLM, tokenizer: HFTokenizer, prompts: np.ndarray) -> int:
    ids = torch.from_numpy(prompts)
    with torch.no_grad():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    return (output.shape[1] - PROMPT) * ROWS


def engine(policy: LocalPolicy, prompts: np.ndarray) -> int:
    async def main() -> int:
        requests = (
            policy.sample(
                SampleRequest(prompt, max_tokens=TOKENS, forbidden_ids=(policy.tokenizer.eos_id,), seed=i)
            )
            for i, prompt in enumerate(prompts)
        )
        return sum(len(done.token_ids) for done in await asyncio.gather(*requests))

    return asyncio.run(main())


def consults(policy: LocalPolicy, prompts: np.ndarray) -> int:
    stop, forbidden = ("</consult>",), (policy.tokenizer.eos_id, policy.tokenizer.token_id("</consult>"))
    gate = asyncio.Semaphore(ROWS)

    async def sample(context: np.ndarray, count: int, seed: int) -> np.ndarray:
        done = await policy.sample(
            SampleRequest(context, max_tokens=count, stop=stop, forbidden_ids=forbidden, seed=seed)
        )
        return done.token_ids

    async def rollout(i: int) -> int:
        async with gate:
            context = prompts[i % ROWS]
            if i % 2:
                return len(await sample(context, TOKENS, i))
            request = await sample(context, FIRST, i)
            for _ in range(AWAY):
                await asyncio.sleep(0)
            context = np.concatenate([context, request, context, context])
            return FIRST + len(await sample(context, TOKENS - FIRST, i))

    async def main() -> int:
        return sum(await asyncio.gather(*(rollout(i) for i in range(ROLLOUTS))))

    return asyncio.run(main())


def rate(run: Callable[[], int]) -> float:
    """Tokens per second."""
    tokens: list[int] = []
    seconds = wall(lambda: tokens.append(run()))
    return tokens[0] / seconds


def main() -> None:
    given = options(__doc__, threads=1, rounds=5, heads=[4, 2])
    torch.set_num_threads(given.threads)
    tokenizer = character_tokenizer()
    prompts = np.random.default_rng(0).integers(0, 36, (ROWS, PROMPT))
    rows: list[list[str]] = []
    numbers: list[dict[str, object]] = []
    for heads in given.heads:
        model = small_model(len(tokenizer), heads)
        policy = LocalPolicy(model, tokenizer)
        work = {
            "generate": lambda m=model: rate(lambda: generate(m, tokenizer, prompts)),
            "engine": lambda p=policy: rate(lambda: engine(p, prompts)),
            "consults": lambda p=policy: rate(lambda: consults(p, prompts)),
        }
        rates = {name: median(values) for name, values in alternate(given.rounds, work).items()}
        for name, speed in rates.items():
            ratio = speed / rates["generate"]
            rows.append([str(heads), name, f"{speed:,.0f}", f"{ratio:.2f}"])
            numbers.append({"kv_heads": heads, "workload": name, "tokens_per_second": speed, "ratio": ratio})
    show(("kv heads", "workload", "tok/s", "ratio to generate"), rows, numbers, given.out)


if __name__ == "__main__":
    main()
