"""What does a rollout phase cost, next to bare batched `model.generate` of as many tokens?

    python tests/benchmarks/bench_phase.py [--threads 1] [--rounds 7] [--seed 0]

Two policies: the miniature's (cold-started, 0.3 M parameters, about 30 tokens a rollout), and a wider one with
random weights for which `generate` costs at least 20 ms per rollout. Two kinds of rollouts, 128 each, through
`RolloutEngine` with the `consult` graph of the `aipo` preset: all solo, and half of each group with agents. The
baseline draws the same number of tokens with `generate`, 128 rows at a time, every row as long as the others.
Rounds alternate; medians of wall time.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from aipo.config.build import build_engine, build_graphs
from aipo.config.build_policy import build_local, build_model
from aipo.config.load import Config, load_config
from aipo.method.plan import draw_tasks, independent
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Role

GROUPS, GROUP = 16, 8


def wide(words: str) -> LocalPolicy:
    """Random weights, wide enough that 128 rollouts of 64 tokens cost `generate` 20 ms each on two cores."""
    tokenizer = AutoTokenizer.from_pretrained(words)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    return LocalPolicy(Qwen2ForCausalLM(config).eval(), HFTokenizer(tokenizer))


def specs(engine: RolloutEngine, config: Config, share: float, step: int) -> list[RolloutSpec]:
    tasks = draw_tasks(engine.env, config.env.mixture, GROUPS, step=step, seed=config.run.seed)
    return independent(
        tasks, step=step, group_size=GROUP, assist_share=share, suppress_share=0.0, seed=config.run.seed
    )


@torch.no_grad()
def generate(policy: LocalPolicy, prompts: list[list[int]], tokens: int) -> None:
    """`tokens` tokens in all, in rows of one length."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    each = -(-tokens // len(prompts))
    policy.model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        do_sample=True,
        top_k=0,
        min_new_tokens=each,
        max_new_tokens=each,
        pad_token_id=0,
        use_cache=True,
    )


def timed(action: Callable[..., Any], *arguments: object) -> tuple[float, Any]:
    started = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - started, result


def measure(engine: RolloutEngine, config: Config, share: float, rounds: int) -> dict[str, float]:
    policy = engine.policies["policy"]
    assert isinstance(policy, LocalPolicy)
    ours, bare, tokens = [], [], []
    for step in range(rounds + 1):
        planned = specs(engine, config, share, step)
        spent, traces = timed(engine.run_sync, planned, lambda trace: None)
        count = sum(t.count(Role.POLICY) for t in traces)
        prompts = [t.segments[0].token_ids.tolist() for t in traces]
        base, _ = timed(generate, policy, prompts, count)
        if step:  # the first round warms up
            ours.append(spent)
            bare.append(base)
            tokens.append(count)
    rollouts = GROUPS * GROUP
    return {
        "tokens": median(tokens) / rollouts,
        "generate_ms": 1000 * median(bare) / rollouts,
        "engine_ms": 1000 * median(ours) / rollouts,
        "ratio": median(o / b for o, b in zip(ours, bare, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    config = load_config("aipo", [f"run.seed={options.seed}", f"run.threads={options.threads}"])
    folder = build_model(config, lambda done, total, note: None)
    small = build_local(config, folder)
    numbers: dict[str, dict[str, float]] = {}
    freeze_gc()
    long = load_config("aipo", [f"run.seed={options.seed}", "rollout.max_tokens=40"])
    for name, policy, settings, rounds in (
        ("miniature", small, config, options.rounds),
        ("wide", wide(str(folder)), long, 1),  # minutes, on one thread
    ):
        engine = build_engine(settings, build_graphs(settings), policy, run_id="bench")
        for kind, share in (("solo", 0.0), ("half assisted", 0.5)):
            numbers[f"{name}, {kind}"] = measure(engine, settings, share, rounds)
    table = Table("128 rollouts", "tokens each", "generate, ms each", "rollout phase, ms each", "ratio")
    for name, row in numbers.items():
        table.add_row(
            name, f"{row['tokens']:.0f}", *(f"{row[k]:.2f}" for k in ("generate_ms", "engine_ms", "ratio"))
        )
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
