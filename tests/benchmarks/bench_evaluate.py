"""How fast does an evaluation sample, next to the bare engine that samples the same rollouts?

    python tests/benchmarks/bench_evaluate.py [--width 512] [--layers 4] [--tokens 128]

A policy with random weights in this process answers the miniature's questions alone; every answer has `tokens` tokens. Three ways,
256 rollouts in flight:

- policy: the sampler alone, given the same prompts and seeds (the baseline);
- engine: `RolloutEngine.run`, traces included;
- evaluation: `evaluate_with`, as `aipo eval` calls it: verdicts, samples and traces on disk, results with intervals.

Wall-clock rollouts per second, rounds alternate, medians with the least and the most. The bar is 0.9 for evaluation / policy.
"""

import asyncio
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, ratios, show, spread, wall

from aipo.config.build import Experiment, load_experiment
from aipo.evaluate.parts import Part
from aipo.evaluate.run import evaluate_with
from aipo.policies import SampleRequest
from aipo.policies.local.policy import LocalPolicy
from aipo.policies.tokenizer import HFTokenizer
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.run import RunFolder
from aipo.trace import Mode, Trace
from aipo.util.event_loop import LOOP
from kit.tiny import qwen2

AT_ONCE, SPLIT = 256, "heldout"


def build(experiment: Experiment, width: int, layers: int) -> RolloutEngine:
    """The miniature's tokenizer, and random weights that hardly ever write its end token."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.build_model())
    size = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, "max_position_embeddings": 4096}
    network = qwen2(len(tokenizer), **size, **heads, **ends).eval()
    return experiment.engine(LocalPolicy(network, HFTokenizer(tokenizer), max_batch=AT_ONCE), run_id="bench")


def alone(engine: RolloutEngine, requests: list[SampleRequest]) -> None:
    """The sampler alone, with as many requests in flight."""
    policy = engine.policies["policy"]

    async def every() -> None:
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                await policy.sample(request)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    LOOP.run(every())


def evaluated(experiment: Experiment, engine: RolloutEngine) -> None:
    with tempfile.TemporaryDirectory() as out:
        folder = RunFolder(Path(out))
        with folder.evaluation_taken("bench"):
            evaluate_with([experiment], engine, folder, "bench", lambda *_: None, print)


def request_of(trace: Trace, spec: RolloutSpec, tokens: int) -> SampleRequest:
    return SampleRequest(trace.segments[0].token_ids, max_tokens=tokens, seed=spec.seed)


def main() -> None:
    given = options(__doc__, width=512, layers=4, tokens=128, samples=4, rounds=3, threads=1)
    experiment = load_experiment(
        "aipo_distil",
        [
            f"rollout={{max_tokens: {given.tokens}, concurrency: {AT_ONCE}}}",
            f"evaluate={{splits: [{SPLIT}], samples: {given.samples}, ks: [1, {given.samples}], settings: [solo]}}",
            f"run.threads={given.threads}",
        ],
    )
    engine = build(experiment, given.width, given.layers)
    part = Part(
        engine=engine,
        split=SPLIT,
        tasks=engine.env.tasks(SPLIT),
        setting="solo",
        mode=Mode.SOLO,
        suppress=False,
        samples=given.samples,
        ks=(1,),
        seed=experiment.seed,
    )
    specs = part.specs()
    traces = engine.run_sync(specs, lambda trace: None)  # warms up
    requests = [request_of(trace, spec, given.tokens) for trace, spec in zip(traces, specs, strict=True)]
    freeze_gc()
    ways = {
        "policy": partial(alone, engine, requests),
        "engine": partial(engine.run_sync, specs, lambda trace: None),
        "evaluation": partial(evaluated, experiment, engine),
    }
    taken = alternate(given.rounds, {name: partial(wall, way) for name, way in ways.items()}, warm_up=False)
    speed = {name: [len(specs) / seconds for seconds in spent] for name, spent in taken.items()}
    compared = {name: ratios(speed[name], speed["policy"]) for name in ("engine", "evaluation")}
    rows = [[name, spread(values), spread(compared.get(name, [1.0]))] for name, values in speed.items()]
    numbers = {
        "rollouts": len(specs),
        "tokens": median(sum(len(s) for s in trace.segments[1:]) for trace in traces),
        "per_second": speed,
        "ratio": compared,
    }
    show((f"{len(specs)} rollouts", "a second", "ratio to policy"), rows, numbers, given.out)


if __name__ == "__main__":
    main()
