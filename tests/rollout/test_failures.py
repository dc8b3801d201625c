"""Failures are data: whatever happens to a graph, its rollouts end as traces that say so."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from aipo.policies import Completion, SampleRequest
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Role, Segment, StopReason, Trace, segment
from aipo.trace.store import TraceStore
from kit import engines
from kit.engines import (
    TOKENIZER,
    ask,
    boom,
    chain,
    engine,
    failure,
    mark,
    policies,
    run,
    spec,
    specs,
    texts,
    think,
)
from kit.handmade import consult


def test_a_node_that_raises_leaves_what_was_there():
    trace = failure(chain(ask=ask, think=think, again=think, boom=boom), policies=policies("one", "two"))
    assert texts(trace) == ["prompt: 6x7=", "policy: one<eos>", "policy: two<eos>"]
    assert trace.stop_reason is StopReason.ERROR
    assert trace.error == "RuntimeError: boom (in node boom)"
    assert [(v.path, v.outcome) for v in trace.visits][-1] == ("boom", "RuntimeError: boom")
    assert trace.policy_version == 0


def test_a_failure_does_not_touch_its_siblings():
    async def every_second(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        if runtime.context.seed % 2:
            raise RuntimeError("odd")
        return {}

    traces = run(chain(ask=ask, sift=every_second, think=think, mark=mark), count=6)
    assert [t.stop_reason.value for t in traces] == ["eos", "error"] * 3


def test_a_failure_before_the_first_segment_is_a_trace_of_the_first_policy():
    trace = failure(chain(boom=boom), policies={"alice": policies()["policy"]})
    assert (trace.policy, trace.segments, trace.policy_version) == ("alice", (), None)


def test_the_deadline_cancels_the_node_and_leaves_what_was_there():
    cancelled: list[bool] = []

    async def slow(state: RolloutState) -> dict[str, Any]:
        try:
            return await engines.for_ever(state)
        finally:
            cancelled.append(True)

    trace = failure(chain(ask=ask, think=think, slow=slow), deadline=0.5)
    assert cancelled == [True]
    assert trace.stop_reason is StopReason.DEADLINE
    assert trace.error == "Deadline: not done after 0.5 seconds (rollout.deadline) (in node slow)"
    assert texts(trace) == ["prompt: 6x7=", "policy: 42<eos>"]
    assert (trace.visits[-1].outcome, trace.visits[-1].seconds) == ("cancelled", None)


def deep() -> None:
    deep()


async def forgets(state: RolloutState) -> None:
    """Starts a loop of its own inside of ours."""
    work = asyncio.sleep(0)
    try:
        asyncio.run(work)
    finally:
        work.close()


def raises(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            raises(asyncio.CancelledError()),
            "GraphError: code of a rollout: got CancelledError, allowed an Exception",
        ),
        (raises(GeneratorExit()), "GraphError: code of a rollout: got GeneratorExit, allowed an Exception"),
        (raises(MemoryError("no room")), "MemoryError: no room"),
        (raises(StopIteration("over")), "StopIteration"),
        (raises(StopAsyncIteration("over")), "StopAsyncIteration"),
        (raises(ExceptionGroup("two", [ValueError("x")])), "ExceptionGroup: two"),
        (raises(TimeoutError("mine")), "TimeoutError: mine"),
        (deep, "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_node_raises_ends_one_rollout_by_its_name(
    act: Callable[[], None], said: str, inside: bool
) -> None:
    """`inside`: in a graph that a node calls, as agents are called."""

    async def hostile(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        if runtime.context.seed == 1:
            act()
        return {}

    inner = chain(hostile=hostile)

    async def calls(state: RolloutState) -> dict[str, Any]:
        await inner.ainvoke({"segments": [], "consults": [], "stops": {}, "reward_parts": {}})
        return {}

    first, failed, last = run(
        chain(ask=ask, calls=calls if inside else hostile, think=think, mark=mark), count=3
    )
    assert not first.failed and not last.failed
    assert failed.stop_reason is StopReason.ERROR
    assert said in str(failed.error), failed.error
    assert texts(failed) == ["prompt: 6x7="]


def test_a_loop_within_the_loop_is_an_error_of_that_rollout() -> None:
    trace = failure(chain(ask=ask, forgets=forgets))
    assert str(trace.error).startswith(
        "RuntimeError: asyncio.run() cannot be called from a running event loop"
    )


def test_what_a_node_leaves_running_holds_up_nobody() -> None:
    left: list[asyncio.Task[Any]] = []

    async def leaves(state: RolloutState) -> dict[str, Any]:
        left.append(asyncio.create_task(engines.for_ever(state)))
        time.sleep(0.05)  # and blocks the others meanwhile
        return {}

    traces = run(chain(ask=ask, leaves=leaves, think=think, mark=mark), count=3)
    assert not any(trace.failed for trace in traces) and not any(task.done() for task in left)
    for task in left:
        task.cancel()


def gives(**update: Any) -> Any:
    """A node that returns `update`; its segments count as sampled where they stand."""

    async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        given = update.get("segments", [])
        for place, piece in enumerate(given):
            if isinstance(piece, Segment) and piece.role is Role.POLICY and isinstance(piece.policy, str):
                runtime.context.samples.add(given[:place], piece)
        return update

    return node


def test_a_graph_that_never_ends_is_stopped():
    builder = StateGraph(RolloutState, context_schema=RolloutContext)
    builder.add_node("loop", gives())
    builder.add_edge(START, "loop")
    builder.add_edge("loop", "loop")
    trace = failure(builder.compile(), recursion_limit=10)
    assert str(trace.error).startswith("GraphRecursionError")


class Broken:
    """A policy that gives back what it is told to."""

    version = 0
    tokenizer = TOKENIZER

    def __init__(self, token_ids: list[int], logprobs: list[float]) -> None:
        self.given = (np.array(token_ids, np.int32), np.array(logprobs, np.float32))

    async def sample(self, request: SampleRequest) -> Completion:
        ids, logprobs = self.given
        return Completion(token_ids=ids, logprobs=logprobs, entropies=None, finish="eos", policy_version=0)


@pytest.mark.parametrize(
    ("token_ids", "logprobs", "reason"),
    [
        ([], [], "got no token"),
        ([7], [float("nan")], "got nan"),
        ([7], [float("-inf")], "got -inf"),
        ([7], [0.5], "got 0.5"),
        ([7, 8], [-1.0], "got 1 values"),
    ],
)
def test_a_completion_that_cannot_be_trained_on_is_a_failure(
    token_ids: list[int], logprobs: list[float], reason: str
):
    trace = failure(None, policies={"policy": Broken(token_ids, logprobs)})
    assert trace.stop_reason is StopReason.ERROR
    assert reason in str(trace.error) and "(in node think)" in str(trace.error)
    assert texts(trace) == ["prompt: 6x7="]


PROMPT = segment(Role.PROMPT, "task", [1])
SAMPLED = segment(Role.POLICY, "policy", [2], logprobs=[-0.5], policy_version=3)


def scored(*segments: Any, **update: Any) -> Any:
    """A graph that ends well, but for `update`."""
    end = {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": {"correct": 1.0}}}
    return chain(all=gives(**({"segments": list(segments or (PROMPT, SAMPLED))} | end | update)))


def rewarded(**parts: Any) -> Any:
    return scored(reward_parts={"policy": parts})


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (scored(segments=[]), "GraphError: segments"),
        (scored(SAMPLED), "first segment: got 'policy', allowed prompt"),
        (scored(PROMPT), "tokens that the policy sampled: got 0"),
        (scored(PROMPT, SAMPLED, segment(Role.ENV, "hint", [99999])), "TraceError: token ids: got [99999]"),
        (scored(PROMPT, SAMPLED, segment(Role.AGENT, "verify", [-1])), "TraceError: token ids: got [-1]"),
        (scored("text"), "item of 'segments': got 'text', allowed a Segment"),
        (scored(consults=["?"]), "item of 'consults': got '?', allowed a Consult"),
        (
            scored(consults=[consult(0, None, 1, policy="bob")]),
            "policies of consults: got ['bob'], allowed ['policy']",
        ),
        (scored(stops={}), "policies in 'stops': got []"),
        (scored(reward_parts={}), "policies in 'reward_parts': got []"),
        (scored(reward_parts={"bob": {}}), "got ['bob'], allowed ['policy']"),
        (scored(stops={"policy": StopReason.ERROR}), "GraphError: stop of policy 'policy'"),
        (scored(stops={"policy": "tired"}), "got 'tired', allowed eos, length"),
        (scored(PROMPT, replace(SAMPLED, policy_version=None)), "versions of the policy: got [None]"),
        (scored(PROMPT, SAMPLED, replace(SAMPLED, policy_version=2)), "got [3, 2]"),
        (scored(PROMPT, replace(SAMPLED, policy="bob")), "got ['policy', 'bob'], allowed ['policy']"),
        (scored(PROMPT, replace(SAMPLED, policy=["bob"])), "TypeError: unhashable"),
        (rewarded(), "TraceError: reward parts: got {}, allowed numbers by name, at least one"),
        (scored(reward_parts={"policy": 1.0}), "TraceError: reward parts: got 1.0, allowed numbers by name"),
        (rewarded(correct="1"), "TraceError: reward part 'correct': got '1', allowed a finite number"),
        (rewarded(correct=None), "TraceError: reward part 'correct': got None, allowed a finite number"),
        (rewarded(correct=float("nan")), "TraceError: reward part 'correct': got nan"),
        (rewarded(polite=1.0), "ConfigError: reward part: got 'polite', allowed ['correct', 'short']"),
        (
            rewarded(**{"form/tags": 1.0}),
            "TraceError: reward part: got 'form/tags', allowed a name without '/'",
        ),
        (rewarded(correct=1.7e308, short=1.7e308), "OverflowError"),
    ],
)
def test_a_final_state_that_breaks_the_contract_is_a_failure(graph: Any, reason: str):
    trace = failure(graph)
    assert trace.stop_reason is StopReason.ERROR
    assert reason in str(trace.error)
    assert Trace.from_json(trace.to_json()) == trace


ANSWER = segment(Role.AGENT, "verify", [3])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"request_start": 0}, None),
        ({"request_segment": 4}, "segment of a consult of 'verify': got 4, allowed 0 to 3"),
        ({"reply_segment": -1}, "segment of a consult of 'verify': got -1, allowed 0 to 3"),
        ({"request_segment": 0}, "role of the request to 'verify': got 'prompt', allowed policy"),
        ({"reply_segment": 3}, "role of the reply of 'verify': got 'policy', allowed agent, env"),
        ({"request_segment": 3}, "segment of the reply of 'verify': got 2, allowed > 3"),
        ({"request_start": 1}, "first token of the request to 'verify': got 1, allowed 0 to 0"),
        ({"request_start": -1}, "first token of the request to 'verify': got -1"),
    ],
)
def test_a_consult_points_at_its_request_and_its_reply(changes: dict[str, int], reason: str | None):
    made = replace(consult(1, None, 2, agent="verify"), **changes)
    [trace] = run(scored(PROMPT, SAMPLED, ANSWER, SAMPLED, consults=[made]))
    assert trace.error is None if reason is None else reason in str(trace.error)


def test_a_policy_may_sample_an_id_that_only_its_model_has():
    """Models have more ids than their tokenizer where their vocabulary is padded."""
    padded = segment(Role.POLICY, "policy", [99999], logprobs=[-9.0], policy_version=3)
    [trace] = run(scored(PROMPT, padded))
    assert (trace.error, trace.reward) == (None, 1.0)


def test_the_version_of_a_trace_is_its_lowest():
    [trace] = run(scored(PROMPT, SAMPLED, replace(SAMPLED, policy_version=5)))
    assert trace.policy_version == 3


def test_a_reward_that_is_too_large_is_a_failure():
    got = "TraceError: weighted sum of the reward: got inf, allowed a finite number, in the final state"
    assert failure(rewarded(correct=1e308), reward_weights={"correct": 9.0}).error == got


class Speechless(Exception):
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad \ud800"), "ValueError: bad ?"),
        (ValueError("a" * 5000), f"ValueError: {'a' * 1988}"),
        (Speechless(), "Speechless: no text, but a KeyError"),
        (TimeoutError("mine"), "TimeoutError: mine"),  # and not the deadline's
    ],
)
def test_what_an_error_says_can_always_be_written(tmp_path: Path, error: Exception, text: str):
    async def fails(state: RolloutState) -> dict[str, Any]:
        raise error

    with TraceStore(tmp_path) as store:
        [trace] = engine(chain(ask=ask, fails=fails)).run_sync(specs(1), store.append)
        assert list(store.read()) == [trace]
    assert (trace.stop_reason, trace.error) == (StopReason.ERROR, f"{text} (in node fails)")
    assert trace.visits[-1].outcome == text


def test_what_json_cannot_hold_costs_one_rollout(tmp_path: Path):
    """An environment may write into a task's metadata, a graph may say anything in a consult."""

    async def spoil(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        if runtime.context.seed == 0:
            runtime.context.task.metadata["seen"] = {1, 2}
        request = "bad \ud800" if runtime.context.seed == 1 else "good"
        asked = consult(1, None, 2, agent="verify", request=request, reply=None)
        return {"segments": [ANSWER], "consults": [asked]}

    asked = [spec(index, task=engines.task(metadata={})) for index in range(3)]
    with TraceStore(tmp_path) as store:
        built = engine(chain(ask=ask, think=think, spoil=spoil, mark=mark))
        traces = built.run_sync(asked, store.append)
        assert sorted(store.read(), key=lambda trace: trace.index) == traces
    assert [trace.stop_reason.value for trace in traces] == ["error", "error", "eos"]
    assert [len(trace.segments) for trace in traces] == [3, 3, 3]
    assert [len(trace.consults) for trace in traces] == [1, 0, 1]
    assert [bool(trace.task) for trace in traces] == [False, True, True]
    assert [trace.reward is None and trace.reward_parts == {} for trace in traces] == [True, True, False]
    assert all("run/00000-000" in str(trace.error) for trace in traces[:2])
