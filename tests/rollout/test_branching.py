"""Forks of rollouts: they go on from a copy of the graph's state, share nothing else, and repeat exactly."""

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from aipo.errors import GraphError
from aipo.policies import Completion, SampleRequest
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.rollout.spec import Fork, RolloutSpec, derive_seed
from aipo.trace import Consult, Role, StopReason, Trace, segment
from kit.engines import TOKENIZER, ask, engine, spec, texts

pytestmark = pytest.mark.fast


class Dice:
    """Writes a digit by the seed of the request, then asks twice; in the end it answers with a digit. Keeps what it was
    asked."""

    version = 0
    tokenizer = TOKENIZER

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []

    async def sample(self, request: SampleRequest) -> Completion:
        self.requests.append(request)
        digit = str(random.Random(request.seed).randrange(10))
        asks = TOKENIZER.decode(request.token_ids).count("</consult>") < 2
        text = f"{digit}<consult:verify>{digit}</consult>" if asks else f"{digit}<eos>"
        ids = np.array(TOKENIZER.encode(text, control=True), np.int32)
        return Completion(
            token_ids=ids,
            logprobs=np.full(len(ids), -0.5, np.float32),
            entropies=np.full(len(ids), int(digit), np.float32),
            finish="stop" if asks else "eos",
            policy_version=0,
        )


class Notes(RolloutState):
    """A key of its own, which a node changes in place."""

    notes: Annotated[list[Any], lambda old, new: new]


async def think(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    piece, finish = await runtime.context.sample(state["segments"], stop=("</consult>",))
    done = {"stops": {"policy": StopReason.EOS}} if finish == "eos" else {}
    return {"segments": [piece], **done}


async def tell(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    notes = state.get("notes") or []
    notes.append(len(notes))  # in place: a fork must have a copy
    ids = TOKENIZER.encode(f"[{len(notes)}]")
    asked = len(state["segments"]) - 1
    consult = Consult(
        agent="verify", request="?", reply="", request_segment=asked, request_start=1, reply_segment=asked + 1
    )
    return {"segments": [segment(Role.AGENT, "verify", ids)], "consults": [consult], "notes": notes}


async def route(state: Notes) -> dict[str, Any]:
    return {}


async def mark(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    parts = await runtime.context.score(runtime.context.answer(state["segments"]))
    return {"reward_parts": {"policy": parts}}


def tools(tell: Any = tell, think: Any = think) -> Any:
    """ask → think → (tell → route → think)* → mark."""
    graph = StateGraph(Notes, context_schema=RolloutContext)
    for name, node in {"ask": ask, "think": think, "tell": tell, "route": route, "mark": mark}.items():
        graph.add_node(name, node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "think")
    graph.add_conditional_edges("think", lambda state: "mark" if state["stops"] else "tell", ["mark", "tell"])
    graph.add_edge("tell", "route")
    graph.add_edge("route", "think")
    graph.add_edge("mark", END)
    return graph.compile()


def fork_at(turn: int, ways: int = 1) -> Any:
    """Forks the first rollout once, at its turn `turn` behind a reply, from 0."""

    def grow(specs: Sequence[RolloutSpec], traces: Sequence[Trace]) -> list[RolloutSpec]:
        if any(one.fork for one in specs):
            return []
        parent, lengths = traces[0], [len(piece) for piece in traces[0].segments]
        fork = Fork(parent.trace_id, sum(lengths[: 3 + 2 * turn]))
        return [
            replace(specs[0], index=len(specs) + way, seed=derive_seed("fork", way), fork=fork)
            for way in range(ways)
        ]

    return grow


def rolled(graph: Any = None, grow: Any = None, **changes: Any) -> tuple[list[Trace], Dice]:
    dice = Dice()
    built = engine(graph or tools(), policies={"policy": dice}, **changes)
    return built.run_sync([spec(0, forkable=True)], lambda trace: None, grow=grow), dice


@pytest.mark.parametrize("turn", [0, 1])
def test_a_fork_goes_on_from_a_copy_of_the_state(turn: int):
    [parent, fork], dice = rolled(grow=fork_at(turn))
    shared = 3 + 2 * turn
    assert (fork.parent_id, fork.index, fork.error) == (parent.trace_id, 1, None)
    assert fork.fork_token == sum(len(piece) for piece in parent.segments[:shared])
    assert fork.segments[:shared] == parent.segments[:shared]
    assert fork.segments[shared:] != parent.segments[shared:]
    assert [text for text in texts(fork) if text.startswith("agent")] == ["agent: [1]", "agent: [2]"]
    assert len(dice.requests) == 3 + (2 - turn)  # what is shared is sampled once
    assert np.array_equal(dice.requests[3].token_ids, parent.token_ids[: fork.fork_token])
    assert fork.seed != parent.seed and fork.reward is not None


def test_nothing_of_the_parent_is_counted_again():
    [parent, fork], _ = rolled(grow=fork_at(1))
    assert (parent.own, fork.forked, parent.forked) == (parent, True, False)
    assert [len(fork.consults), len(fork.own.consults)] == [2, 0]
    assert fork.own.segments == fork.segments[5:]
    path = ["ask", "think", "tell", "route", "think", "tell", "route", "think", "mark"]
    assert [visit.path for visit in fork.visits] == path == [visit.path for visit in parent.visits]
    assert [visit.path for visit in fork.own.visits] == ["think", "mark"]
    [parent, fork], _ = rolled(grow=fork_at(0))
    [consult] = fork.own.consults
    assert fork.own.segments[consult.request_segment].role is Role.POLICY
    assert fork.own.segments[consult.reply_segment] == fork.segments[4]


def test_forks_are_the_same_whatever_ends_first():
    every = [rolled(grow=fork_at(0, ways=3), concurrency=limit)[0] for limit in (1, 8)]
    facts = [[(t.trace_id, t.seed, t.segments, t.reward) for t in traces] for traces in every]
    assert facts[0] == facts[1] and len(facts[0]) == 4


def test_a_rollout_that_may_be_forked_is_the_one_that_may_not():
    [watched], _ = rolled()
    built = engine(tools(), policies={"policy": Dice()})
    [plain] = built.run_sync([spec(0)], lambda trace: None)
    assert (plain.segments, plain.reward) == (watched.segments, watched.reward)
    assert [v.path for v in plain.visits] == [v.path for v in watched.visits]


def test_a_fork_of_a_fork():
    def grow(specs: Sequence[RolloutSpec], traces: Sequence[Trace]) -> list[RolloutSpec]:
        if len(specs) == 3:
            return []
        parent = traces[-1]
        fork = Fork(parent.trace_id, sum(len(piece) for piece in parent.segments[: 1 + 2 * len(specs)]))
        return [replace(specs[-1], index=len(specs), seed=len(specs) + 70, fork=fork)]

    [first, second, third], dice = rolled(grow=grow)
    assert [first.parent_id, second.parent_id, third.parent_id] == [None, first.trace_id, second.trace_id]
    assert third.segments[:3] == first.segments[:3] and third.segments[:5] == second.segments[:5]
    assert len(dice.requests) == 3 + 2 + 1 and [v.started < 0 for v in third.visits].count(True) == 7


async def tell_a_lock(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    return await tell(state, runtime) | {"notes": [threading.Lock()]}


async def tell_and_think(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    told = await tell(state, runtime)
    return told | {"segments": [*told["segments"], (await think({**state, "segments": [*state["segments"], *told["segments"]]}, runtime))["segments"][0]]}  # fmt: skip


def test_a_state_that_cannot_be_copied_is_refused_by_its_key():
    [trace], _ = rolled(tools(tell_a_lock))
    assert trace.error is not None and trace.error.startswith(
        "GraphError: state key 'notes': got list, which cannot be"
    )
    [trace] = engine(tools(tell_a_lock), policies={"policy": Dice()}).run_sync([spec(0)], lambda trace: None)
    assert trace.error is None


def test_a_turn_in_the_step_of_its_reply_is_refused():
    [trace], _ = rolled(tools(tell_and_think))
    assert (
        trace.error is not None
        and "allowed a graph that appends a reply in one step and samples" in trace.error
    )


def test_what_a_growth_raises_ends_the_run():
    def grow(specs: Sequence[RolloutSpec], traces: Sequence[Trace]) -> list[RolloutSpec]:
        raise GraphError("no")

    with pytest.raises(GraphError, match="no"):
        rolled(grow=grow)


def test_traces_say_that_entropies_are_estimates():
    dice = Dice()
    dice.top_logprobs = 5  # type: ignore[attr-defined]
    [estimated] = engine(tools(), policies={"policy": dice}).run_sync([spec(0)], lambda trace: None)
    [exact] = engine(tools(), policies={"policy": Dice()}).run_sync([spec(0)], lambda trace: None)
    assert estimated.sampling == exact.sampling | {"top_logprobs": 5}


def test_a_turn_that_a_sub_graph_samples_can_be_forked():
    inner = StateGraph(RolloutState, context_schema=RolloutContext)
    inner.add_node("sample", think)
    inner.add_edge(START, "sample")
    inner.add_edge("sample", END)
    sampling = inner.compile()

    async def think_below(state: Notes, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        whole = await sampling.ainvoke({**state, "segments": state["segments"]}, context=runtime.context)
        return {"segments": whole["segments"][len(state["segments"]) :], "stops": whole["stops"]}

    [_, fork], dice = rolled(tools(think=think_below), fork_at(1))
    [_, plain], _ = rolled(grow=fork_at(1))
    assert fork.error is None and len(dice.requests) == 4
    assert (fork.segments, fork.reward) == (plain.segments, plain.reward)
    assert [v.path for v in fork.own.visits] == ["think", "think/sample", "mark"]
