"""How fast do 256 consulting rollouts at once go against a server, next to a bare loop that sends the same requests?

    python tests/benchmarks/bench_served.py

The server (a process of its own) answers each request after a fixed time, as a GPU that decodes many at once does.
What it says depends on context and seed: a rollout consults once, twice or not at all. The engine runs the
rollouts on the consult graph of the miniature, with traces; the bare loop then sends exactly the same
requests, those of one rollout one after another and 256 rollouts at once, with what the `openai` package itself
goes by, `httpx2`, and `orjson`.

Wall-clock rollouts per second; rounds alternate; medians with the least and the most, for several answer times.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import httpx2
import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixed_vllm import VOCABULARY, running

from aipo.config.build import build_engine, build_graphs
from aipo.config.load import load_config
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.pool import ServerPool
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode
from kit.vllm import WORDS, seeded_completion

AT_ONCE, ROLLOUTS = 256, 1024


def answer(asked: bytes) -> bytes:
    return orjson.dumps(seeded_completion(orjson.loads(asked)))


class Recording(ServerPool):
    """Writes down what each rollout asks."""

    def __init__(self, url: str) -> None:
        super().__init__([url])
        self.bodies: dict[int, list[bytes]] = defaultdict(list)

    async def ask(self, path: str, body: bytes | None = None, *, session: int = 0) -> bytes:
        if body is not None:
            self.bodies[session].append(body)
        return await super().ask(path, body, session=session)


def made(pool: ServerPool) -> tuple[RolloutEngine, list[RolloutSpec]]:
    config = load_config("aipo", ["rollout.max_tokens=200"])
    policy = VLLMPolicy(pool, HFTokenizer(WORDS), vocabulary=VOCABULARY * 2)
    engine = build_engine(config, build_graphs(config), policy, run_id="bench")
    tasks = engine.env.tasks("hard")
    specs = [
        RolloutSpec(
            task=tasks[i % len(tasks)],
            mode=Mode.ASSISTED,
            group_id=f"g{i}",
            index=0,
            step=0,
            seed=i,
            suppress=False,
        )
        for i in range(ROLLOUTS)
    ]
    return engine, specs


async def bare(url: str, rollouts: list[list[bytes]]) -> float:
    """Rollouts per second of a loop that only asks and reads."""
    left = iter(rollouts)
    headers = {"Content-Type": "application/json"}
    limits = httpx2.Limits(max_connections=AT_ONCE)
    async with httpx2.AsyncClient(timeout=None, limits=limits) as client:

        async def work() -> None:
            for bodies in left:
                for body in bodies:
                    reply = await client.post(f"{url}/v1/completions", content=body, headers=headers)
                    assert orjson.loads(reply.content)["choices"][0]["token_ids"]

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return len(rollouts) / (time.perf_counter() - began)


async def compare(url: str, rounds: int) -> tuple[float, list[float], list[float]]:
    """Consults per rollout, and rollouts per second of the engine and of the bare loop."""
    pool = Recording(url)
    engine, specs = made(pool)
    freeze_gc()
    traces = await engine.run(specs, lambda trace: None)
    assert not any(trace.failed for trace in traces)
    consults = sum(len(trace.consults) for trace in traces) / len(traces)
    rollouts = list(pool.bodies.values())
    plain = ServerPool([url])
    engine, specs = made(plain)
    ours: list[float] = []
    bares: list[float] = []
    for _ in range(rounds):
        bares.append(await bare(url, rollouts))
        began = time.perf_counter()
        await engine.run(specs, lambda trace: None)
        ours.append(len(specs) / (time.perf_counter() - began))
    await pool.aclose()
    await plain.aclose()
    return consults, ours, bares


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, nargs="*", default=[1.0, 4.0, 16.0])
    options = parser.parse_args()
    for latency in options.latency:
        with running(answer, latency=latency) as url:
            consults, ours, bares = asyncio.run(compare(url, options.rounds))
        ratios = [one / other for one, other in zip(ours, bares, strict=True)]
        print(
            f"{latency:g} s an answer, {consults:.2f} consults a rollout: engine {spread(ours)} rollouts/s, bare loop "
            f"{spread(bares)}, ratio {spread(ratios)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
