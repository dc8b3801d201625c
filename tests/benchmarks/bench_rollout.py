"""What does the rollout engine cost, next to LangGraph's own stream of the same graph?

    python tests/benchmarks/bench_rollout.py

The policy is scripted and the agents say nothing clever, so nearly all of the time is overhead. Two
rollouts: `solo` (prompt, policy, score: 3 super-steps, 1 policy call) and `assisted` (prompt, policy, an
agent of three inner steps, policy, score: 5 super-steps and 3 inner ones, 2 policy calls). Three ways:

- stream: the graph with values and tasks of all sub-graphs, what the engine reads;
- engine: `RolloutEngine.run`, traces included;
- stored: the engine with every trace appended to a `TraceStore`.

CPU time of this process, so that other work on the machine matters less; rounds alternate; medians.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import alternate, cpu, options, show

from aipo.policies import Sampling
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Role, segment
from aipo.trace.store import TraceStore
from kit.engines import TOKENIZER, Exam, ask, chain, engine, mark, policies, spec, think

IN_FLIGHT = 128
START_STATE: dict[str, Any] = {"segments": [], "consults": [], "stops": {}, "reward_parts": {}}


class Inner(TypedDict):
    request: str
    reply: str


def agent() -> Callable[..., Awaitable[dict[str, Any]]]:
    """A node with a sub-graph of three steps."""

    async def step(state: Inner) -> dict[str, Any]:
        return {"reply": "it is 42"}

    builder = StateGraph(Inner)
    names = ("draft", "check", "close")
    for last, name in zip((START, *names[:-1]), names, strict=True):
        builder.add_node(name, step)
        builder.add_edge(last, name)
    builder.add_edge(names[-1], END)
    inner = builder.compile()

    async def verify(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        answer = await inner.ainvoke({"request": "6x7"})
        return {"segments": [segment(Role.AGENT, "verify", TOKENIZER.encode(answer["reply"]))]}

    return verify


CASES = {
    "solo": (chain(ask=ask, think=think, mark=mark), ("it is 42",)),
    "assisted": (
        chain(ask=ask, think=think, verify=agent(), again=think, mark=mark),
        ("<consult:verify>6x7</consult>", "so 42"),
    ),
}


def context(asked: RolloutSpec, script: tuple[str, ...]) -> RolloutContext:
    given: dict[str, Any] = {"task": asked.task, "mode": asked.mode, "seed": asked.seed}
    sampling = Sampling(max_tokens=64)
    return RolloutContext(**given, env=Exam(), policies=policies(*script), chats={}, sampling=sampling)


async def streamed(graph: Any, contexts: list[RolloutContext]) -> None:
    modes: Any = ["values", "tasks"]
    waiting = iter(contexts)

    async def work() -> None:
        for mine in waiting:
            async for _ in graph.astream(START_STATE, context=mine, stream_mode=modes, subgraphs=True):
                pass

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def seconds(case: str, way: str, count: int) -> float:
    """CPU time of `count` rollouts."""
    graph, script = CASES[case]
    asked = [spec(index, task=Exam().tasks("easy")[0]) for index in range(count)]
    if way == "stream":
        contexts = [context(each, script) for each in asked]
        return cpu(lambda: asyncio.run(streamed(graph, contexts)))
    built = engine(graph, policies=policies(*script), concurrency=IN_FLIGHT)
    with tempfile.TemporaryDirectory() as folder, TraceStore(Path(folder)) as store:
        keep = store.append if way == "stored" else lambda trace: None
        return cpu(lambda: built.run_sync(asked, keep))


def main() -> None:
    given = options(__doc__, rollouts=500, rounds=5)
    ways, count = ("stream", "engine", "stored"), given.rollouts
    work = {(case, way): partial(seconds, case, way, count) for case in CASES for way in ways}
    taken = {name: 1e6 * median(spent) / count for name, spent in alternate(given.rounds, work).items()}
    numbers = {case: {way: round(taken[case, way], 1) for way in ways} for case in CASES}
    rows = [
        [case, *(f"{of[way]:.0f}" for way in ways), f"{of['engine'] / of['stream']:.2f}"]
        for case, of in numbers.items()
    ]
    show(("µs per rollout", *ways, "engine / stream"), rows, numbers, given.out)


if __name__ == "__main__":
    main()
