"""Environments, nodes, graphs and an engine around them, for tests of rollouts.

`Coin` and `asking` are also loaded from this file by name, as a user's are.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from aipo.errors import TaskError
from aipo.policies import Policy, Sampling
from aipo.policies.scripted import CharTokenizer, ScriptedPolicy
from aipo.rollout.context import RolloutContext
from aipo.rollout.engine import RolloutEngine
from aipo.rollout.env import Task
from aipo.rollout.graph import RolloutState
from aipo.rollout.spec import RolloutSpec
from aipo.trace import Consult, Fault, Mode, Role, StopReason, Trace, segment

TOKENIZER = CharTokenizer(specials=("<consult:verify>", "</consult>"))


class Exam:
    """Splits `easy` (5 tasks), `hard` (3) and `none`; the answer to everything is 42."""

    def splits(self) -> tuple[str, ...]:
        return ("easy", "hard", "none")

    def tasks(self, split: str) -> Sequence[Task]:
        sizes = {"easy": 5, "hard": 3, "none": 0}
        if split not in sizes:
            raise TaskError(f"split: got {split!r}, allowed {sorted(sizes)}")
        return [
            Task(task_id=f"{split}{i}", prompt=f"{split} {i}?", answer="42", split=split)
            for i in range(sizes[split])
        ]

    def score(self, task: Task, text: str) -> dict[str, float] | None:
        return None if "?" in text else {"correct": float("42" in text), "short": float(len(text) < 9)}


class Worked(Exam):
    """An exam whose solutions are known, but those of `hard`; `none` has no tasks."""

    def demonstration(self, task: Task) -> str | None:
        return "6x7=42" if task.split == "easy" else None


class Coin:
    """Pays for every even digit that is written.

    `COIN_FAILS_AFTER` is how many rollouts can be scored before the scorer breaks.
    """

    def __init__(self) -> None:
        self._left = int(os.environ.get("COIN_FAILS_AFTER", "1000000"))

    def splits(self) -> tuple[str, ...]:
        return ("coin",)

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(task_id=f"c{i}", prompt=f"{i}+{i}=?", answer="0", split=split) for i in range(8)]

    def score(self, task: Task, text: str) -> dict[str, float]:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the scorer broke")
        return {"correct": sum(character in "02468" for character in text) / 8}


def task(name: str = "t0", **changes: Any) -> Task:
    return Task(**{"task_id": name, "prompt": "6x7=", "answer": "42", "split": "easy", **changes})


def spec(index: int = 0, **changes: Any) -> RolloutSpec:
    given = {"task": task(), "mode": Mode.ASSISTED, "group_id": "00000-000", "index": index, "step": 0}
    return RolloutSpec(**{**given, "seed": index, **changes})


def specs(count: int) -> list[RolloutSpec]:
    return [spec(index) for index in range(count)]


async def ask(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    ids = TOKENIZER.encode_prompt(runtime.context.task.prompt)
    return {"segments": [segment(Role.PROMPT, "task", ids)]}


async def think(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    piece, _ = await runtime.context.sample(state["segments"], stop=("</consult>",))
    return {"segments": [piece]}


async def mark(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    written = "".join(TOKENIZER.decode(s.token_ids) for s in state["segments"] if s.role is Role.POLICY)
    parts = await runtime.context.score(written)
    return {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}


async def grade(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    """As `mark`, but of whatever is the answer, and without its end token."""
    parts = await runtime.context.score(runtime.context.answer(state["segments"]))
    return {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}


async def boom(state: RolloutState) -> dict[str, Any]:
    raise RuntimeError("boom")


async def for_ever(state: RolloutState) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


def chain(**nodes: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph that runs `nodes` one after the other."""
    builder = StateGraph(RolloutState, context_schema=RolloutContext)
    for last, (name, node) in zip([START, *nodes], nodes.items(), strict=False):
        builder.add_node(name, node)
        builder.add_edge(last, name)
    builder.add_edge([*nodes][-1], END)
    return builder.compile()


def policies(*script: str) -> Mapping[str, Policy]:
    return {"policy": ScriptedPolicy(TOKENIZER, script or ("42",))}


def engine(graph: CompiledStateGraph[Any, Any, Any, Any] | None = None, **changes: Any) -> RolloutEngine:
    given = {
        "graph": graph or chain(ask=ask, think=think, mark=mark),
        "env": Exam(),
        "policies": policies(),
        "chats": {},
        "sampling": Sampling(max_tokens=64),
        "reward_weights": {"correct": 1.0, "short": 0.5},
        "deadline": 60.0,
        "concurrency": 8,
        "run_id": "run",
        "fingerprints": {"graph": "abc"},
    }
    return RolloutEngine(**{**given, **changes})


def run(
    graph: CompiledStateGraph[Any, Any, Any, Any] | None = None, count: int = 1, **changes: Any
) -> list[Trace]:
    return engine(graph, **changes).run_sync(specs(count), lambda trace: None)


def failure(graph: CompiledStateGraph[Any, Any, Any, Any] | None, **changes: Any) -> Trace:
    """The one trace of a rollout that has to fail."""
    [trace] = run(graph, **changes)
    assert trace.failed and trace.reward is None and trace.reward_parts == {}
    return trace


def texts(trace: Trace) -> list[str]:
    return [f"{s.role}: {TOKENIZER.decode(s.token_ids)}" for s in trace.segments]


def asking(agents: Any) -> Any:
    """prompt → think → tell → end; an agent's error is its fault."""

    async def begin(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        ids = context.policies["policy"].tokenizer.encode_prompt(context.task.prompt)
        piece, _ = await context.sample([segment(Role.PROMPT, "prompt", ids)])
        return {"segments": [segment(Role.PROMPT, "prompt", ids), piece]}

    async def tell(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        context = runtime.context
        told: dict[str, Any] = {"segments": [], "consults": []}
        for name, agent in agents.items() if context.mode is Mode.ASSISTED else ():
            place = len(state["segments"]) + len(told["segments"])
            asked = {"agent": name, "request": "1+1=2", "request_segment": 1, "request_start": None}
            try:
                given = {"question": "", "context": "", "request": "1+1=2"}
                reply = (await agent.graph.ainvoke(given))["reply"]
                error, fault, role = None, None, Role.AGENT
            except OSError as caught:
                reply, error, fault, role = None, f"OSError: {caught}", Fault.UNAVAILABLE, Role.ENV
            ids = context.policies["policy"].tokenizer.encode(reply or "no")
            said, _ = await context.score_logprobs(name, reply or "", ids) if reply else (None, None)
            told["segments"].append(segment(role, name, ids, logprobs=said))
            told["consults"].append(
                Consult(**asked, reply=reply, error=error, fault=fault, reply_segment=place)
            )
        return told

    async def end(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        length = sum(len(s) for s in state["segments"] if s.role is Role.POLICY)
        parts = {"correct": float(length % 2)}
        return {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": parts}}

    return chain(begin=begin, tell=tell, end=end)
