"""How fast does `LocalPolicy` sample, next to a bare batched `model.generate`?

    python tests/benchmarks/bench_local.py --threads 1

The model is the miniature's: Qwen2, 2 layers, width 96, about 40 ids. Three workloads:

- generate: one batch of 128 rows × 60 tokens through `model.generate(do_sample=True)`;
- engine: the same tokens as 128 concurrent requests, with log-probabilities and entropies;
- consults: 512 rollouts, 128 at a time; every other one stops after 12 tokens, is away for some turns of
  the event loop and comes back with 20 tokens more of context. Only sampled tokens count.

Rounds alternate, so that a busy machine hits all three; the table shows medians.
"""

import argparse
import asyncio
import json
import string
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer

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
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


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


def measure(work: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Tokens per second, medians; one round more to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            tokens = run()
            rates[name].append(tokens / (time.perf_counter() - started))
    return {name: median(values[1:]) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-heads", type=int, nargs="*", default=[4, 2])
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = character_tokenizer()
    prompts = np.random.default_rng(0).integers(0, 36, (ROWS, PROMPT))
    table = Table(
        "kv heads", "workload", "tok/s", "ratio to generate", title=f"{arguments.threads} thread(s)"
    )
    results = []
    for kv_heads in arguments.kv_heads:
        model = small_model(len(tokenizer), kv_heads)
        policy = LocalPolicy(model, tokenizer)
        rates = measure(
            {
                "generate": lambda m=model: generate(m, tokenizer, prompts),
                "engine": lambda p=policy: engine(p, prompts),
                "consults": lambda p=policy: consults(p, prompts),
            },
            arguments.rounds,
        )
        for name, rate in rates.items():
            ratio = rate / rates["generate"]
            table.add_row(str(kv_heads), name, f"{rate:,.0f}", f"{ratio:.2f}")
            results.append(
                {"kv_heads": kv_heads, "workload": name, "tokens_per_second": rate, "ratio": ratio}
            )
    Console().print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps({"threads": arguments.threads, "results": results}, indent=1))


if __name__ == "__main__":
    main()
