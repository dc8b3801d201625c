"""How fast do consulting rollouts go against a server: in one process, in several, and in a bare loop?

    python tests/benchmarks/bench_served.py [--workers 2]

The server (a process of its own) stands for vLLM. It answers each request after a fixed time, as a GPU that decodes many at
once does. What it says depends on context and seed: a rollout consults once, twice or not at all. The engine runs the
rollouts on the consult graph of the miniature, with traces; worker processes do the same (`rollout.workers`); the bare
loop sends exactly the same requests, those of one rollout one after another and 256 rollouts at once, with what the
`openai` package itself goes by, `httpx2`, and `orjson`.

Wall-clock rollouts per second, medians with the least and the most, for several answer times. So many processes can use no
more cores than there are: the server takes one of them for itself.
"""

import asyncio
import multiprocessing
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx2
import orjson
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, options, ratios, show, spread, wall

from aipo.config.build import load_experiment
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.pool import ServerPool
from aipo.rollout.engine import RolloutEngine, freeze_gc
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Mode
from aipo.util.event_loop import LOOP
from kit.vllm import WORDS, SeededVLLM
from kit.workers import both, configured

AT_ONCE = 256


class Slow(SeededVLLM):
    """Answers after `latency` seconds."""

    latency = 0.0

    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(self.latency)
        return await super().complete(request)


@contextmanager
def running(latency: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    server = Slow()
    server.latency = latency
    config = uvicorn.Config(server.app, log_level="critical", lifespan="off", timeout_keep_alive=600)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        context = multiprocessing.get_context("fork")  # a spawned one would import the whole benchmark
        process = context.Process(target=uvicorn.Server(config).run, args=([listener],), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.join()


class Recording(ServerPool):
    """Writes down what each rollout asks."""

    def __init__(self, url: str) -> None:
        super().__init__([url])
        self.bodies: dict[int, list[bytes]] = defaultdict(list)

    async def ask(self, path: str, body: bytes | None = None, *, session: int = 0) -> bytes:
        if body is not None:
            self.bodies[session].append(body)
        return await super().ask(path, body, session=session)


def specs(engine: RolloutEngine, count: int) -> list[RolloutSpec]:
    tasks = engine.env.tasks("hard")
    return [
        RolloutSpec(task=tasks[i % len(tasks)], mode=Mode.ASSISTED, group_id=f"g{i}", index=0, step=0, seed=i)
        for i in range(count)
    ]


def requests(url: str, count: int) -> tuple[float, list[list[bytes]]]:
    """Consults per rollout, and what each rollout asks."""
    pool = Recording(url)
    experiment = load_experiment("aipo_distil", ["rollout.max_tokens=200"])
    policy = VLLMPolicy(pool, HFTokenizer(WORDS), vocabulary=len(WORDS))
    engine = experiment.engine(policy, run_id="bench")
    traces = engine.run_sync(specs(engine, count), lambda trace: None)
    assert not any(trace.failed for trace in traces)
    LOOP.run(pool.aclose())
    return sum(len(trace.consults) for trace in traces) / count, list(pool.bodies.values())


async def bare(url: str, rollouts: list[list[bytes]]) -> None:
    """A loop that only asks and reads."""
    left = iter(rollouts)
    headers = {"Content-Type": "application/json"}
    limits = httpx2.Limits(max_connections=AT_ONCE)
    async with httpx2.AsyncClient(timeout=None, limits=limits) as client:

        async def work() -> None:
            for bodies in left:
                for body in bodies:
                    reply = await client.post(f"{url}/v1/completions", content=body, headers=headers)
                    assert orjson.loads(reply.content)["choices"][0]["token_ids"]

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def looped(url: str, rollouts: list[list[bytes]]) -> float:
    """Rollouts per second."""
    return len(rollouts) / wall(lambda: asyncio.run(bare(url, rollouts)))


def rolled(engine: RolloutEngine, count: int) -> float:
    return count / wall(lambda: engine.run_sync(specs(engine, count), lambda trace: None))


def main() -> None:
    given = options(__doc__, rollouts=1024, rounds=5, latency=[1.0, 4.0, 16.0], workers=[2])
    rows: list[list[str]] = []
    for latency in given.latency:
        with ExitStack() as stack:
            url = stack.enter_context(running(latency))
            words = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            WORDS.save_pretrained(words)
            consults, rollouts = requests(url, given.rollouts)
            work = {"bare loop": partial(looped, url, rollouts)}
            settings = ["rollout.max_tokens=200", f"rollout.concurrency={AT_ONCE}"]
            for count in given.workers:
                experiment = configured(url, f"rollout.workers={count}", *settings)
                here, there = stack.enter_context(both(words, experiment))
                work["this process"] = partial(rolled, here, given.rollouts)
                work[f"{count} workers"] = partial(rolled, there, given.rollouts)
            freeze_gc()
            rates = alternate(given.rounds, work)
        for name, speeds in rates.items():
            ratio = spread(ratios(speeds, rates["bare loop"]))
            rows.append([f"{latency:g}", f"{consults:.2f}", name, spread(speeds), ratio])
    show(("s an answer", "consults", "", "rollouts/s", "ratio to the bare loop"), rows)


if __name__ == "__main__":
    main()
