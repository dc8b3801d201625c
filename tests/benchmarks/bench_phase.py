"""What does a rollout phase cost, next to bare batched `model.generate` of as many tokens?

    python tests/benchmarks/bench_phase.py [--threads 1] [--rounds 7] [--seed 0]

Two policies: the miniature's (cold-started, 0.3 M parameters, about 30 tokens a rollout), and a wider one with
random weights for which `generate` costs at least 20 ms per rollout. Two kinds of rollouts, 128 each, through
`RolloutEngine` with the `consult` graph of the `aipo_distil` preset: all solo, and half of each group with agents. The
baseline draws the same number of tokens with `generate`, 128 rows at a time, every row as long as the others.
Rounds alternate; medians of wall time.
"""

import sys
from pathlib import Path
from statistics import median

import torch
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import options, show, wall

from aipo.config.build import Experiment, load_experiment
from aipo.method.plan import plan_rollouts
from aipo.method.settings import MethodSettings
from aipo.method.task_order import draw_tasks
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Role, Trace
from kit.tiny import qwen2

GROUPS, GROUP = 16, 8


def wide(words: str) -> LocalPolicy:
    """Random weights, wide enough that 128 rollouts of 64 tokens cost `generate` 20 ms each on two cores."""
    tokenizer = AutoTokenizer.from_pretrained(words)
    size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    more = {"num_key_value_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.02}
    return LocalPolicy(qwen2(len(tokenizer), **size, **more, **ends).eval(), HFTokenizer(tokenizer))


def specs(engine: RolloutEngine, experiment: Experiment, share: float, step: int) -> list[RolloutSpec]:
    seed = experiment.seed
    tasks = draw_tasks(engine.env, experiment.mixture, GROUPS, step=step, seed=seed)
    method = MethodSettings(assist_share=share)
    return plan_rollouts(tasks, method, step=step, steps=1, group_size=GROUP, seed=seed)


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


def measure(engine: RolloutEngine, experiment: Experiment, share: float, rounds: int) -> dict[str, float]:
    policy = engine.policies["policy"]
    assert isinstance(policy, LocalPolicy)
    ours, bare, tokens = [], [], []
    for step in range(rounds + 1):
        planned = specs(engine, experiment, share, step)
        traces: list[Trace] = []
        spent = wall(lambda: traces.extend(engine.run_sync(planned, lambda trace: None)))  # noqa: B023
        count = sum(t.count(Role.POLICY) for t in traces)
        prompts = [t.segments[0].token_ids.tolist() for t in traces]
        base = wall(lambda: generate(policy, prompts, count))  # noqa: B023
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
    given = options(__doc__, threads=1, rounds=7, seed=0)
    settings = [f"run.seed={given.seed}", f"run.threads={given.threads}"]
    experiment = load_experiment("aipo_distil", settings)
    folder = experiment.build_model()
    small = experiment.local_policy(folder)
    long = load_experiment("aipo_distil", [*settings, "rollout.max_tokens=40"])
    numbers: dict[str, dict[str, float]] = {}
    freeze_gc()
    for name, policy, setup, rounds in (
        ("miniature", small, experiment, given.rounds),
        ("wide", wide(str(folder)), long, 1),  # minutes, on one thread
    ):
        engine = setup.engine(policy, run_id="bench")
        for kind, share in (("solo", 0.0), ("half assisted", 0.5)):
            numbers[f"{name}, {kind}"] = measure(engine, setup, share, rounds)
    kinds = ("generate_ms", "engine_ms", "ratio")
    rows = [
        [name, f"{row['tokens']:.0f}", *(f"{row[k]:.2f}" for k in kinds)] for name, row in numbers.items()
    ]
    columns = ("128 rollouts", "tokens each", "generate, ms each", "rollout phase, ms each", "ratio")
    show(columns, rows, numbers, given.out)


if __name__ == "__main__":
    main()
