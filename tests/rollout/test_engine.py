"""The engine: whatever happens to a graph, its rollouts end as traces that say so."""

import asyncio
import contextlib
import contextvars
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from aipo.errors import ConfigError, GraphError, RunError, ScoreError
from aipo.policies import Completion, SampleRequest
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.context import ChatModel, RolloutContext
from aipo.rollout.env import Task
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, Segment, StopReason, Trace, segment
from aipo.trace.store import TraceStore
from kit.engines import (
    TOKENIZER,
    Exam,
    ask,
    chain,
    engine,
    mark,
    policies,
    run,
    spec,
    specs,
    task,
    texts,
    think,
)
from kit.handmade import consult


async def boom(state: RolloutState) -> dict[str, Any]:
    raise RuntimeError("boom")


async def for_ever(state: RolloutState) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


def gives(**update: Any) -> Any:
    """A node that returns `update`; its segments count as sampled where they stand."""

    async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        given = update.get("segments", [])
        for place, piece in enumerate(given):
            if isinstance(piece, Segment) and piece.role is Role.POLICY and isinstance(piece.policy, str):
                runtime.context.samples.add(given[:place], piece)
        return update

    return node


def failure(graph: Any, **changes: Any) -> Trace:
    [trace] = run(graph, **changes)
    assert trace.failed and trace.reward is None and trace.reward_parts == {}
    return trace


# --- what a good rollout leaves ---------------------------------------------------------------------------


def test_a_finished_rollout():
    asked = spec(3, task=Exam().tasks("hard")[1], mode=Mode.SOLO, step=7, group_id="00007-001", suppress=True)
    built = engine(policies=policies("is 42"), forbidden_ids=(5,))
    [trace] = built.run_sync([asked], lambda trace: None)
    assert texts(trace) == ["prompt: hard 1?", "policy: is 42<eos>"]
    assert trace.trace_id == "run/00007-001/3"
    assert (trace.run_id, trace.group_id, trace.task_id) == ("run", "00007-001", "hard1")
    assert (trace.step, trace.index, trace.seed, trace.mode) == (7, 3, 3, Mode.SOLO)
    assert trace.task["prompt"] == "hard 1?" and trace.task["answer"] == "42"
    assert trace.sampling == {"temperature": 1.0, "max_tokens": 64}
    assert trace.forbidden_ids == (5,)
    assert trace.reward_parts == {"correct": 1.0, "short": 0.0} and trace.reward == 1.0
    assert (trace.stop_reason, trace.error, trace.policy_version) == (StopReason.EOS, None, 0)
    assert trace.fingerprints == {"graph": "abc"}
    assert [v.path for v in trace.visits] == ["ask", "think", "mark"]
    assert all(v.outcome == "ok" and v.seconds is not None and v.seconds >= 0 for v in trace.visits)
    assert Trace.from_json(trace.to_json()) == trace


def test_ids_are_masked_only_where_the_spec_forbids():
    [trace] = run(forbidden_ids=(5,))
    assert trace.forbidden_ids == ()


def test_the_reward_is_the_weighted_sum_of_its_parts():
    [trace] = run(policies=policies("42"), reward_weights={"correct": 2.0, "short": 0.25, "unused": 9.0})
    assert trace.reward_parts == {"correct": 1.0, "short": 1.0} and trace.reward == 2.25


class Judge(Exam):
    """Gives one verdict, or raises it; at once or later."""

    def __init__(self, verdict: Any, *, late: bool) -> None:
        self.verdict, self.late = verdict, late

    def score(self, task: Task, text: str) -> Any:
        return self.later() if self.late else self.now()

    def now(self) -> Any:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def later(self) -> Any:
        await asyncio.sleep(0)
        return self.now()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("verdict", "reward", "error"),
    [
        ({"correct": 1.0}, 1.0, None),
        (None, None, "the environment could not score the answer"),
        (ScoreError("got nothing, allowed 5 s"), None, "ScoreError: got nothing, allowed 5 s (in node mark)"),
    ],
)
def test_what_cannot_be_scored_has_no_reward_and_says_why(
    verdict: Any, reward: float | None, error: str | None, late: bool
):
    [trace] = run(env=Judge(verdict, late=late))
    assert (trace.reward, trace.reward_parts, trace.error) == (reward, {} if error else verdict, error)
    assert trace.stop_reason is (StopReason.UNSCORED if error else StopReason.EOS)
    assert texts(trace)[-1] == "policy: 42<eos>"


def test_results_are_in_the_order_of_the_specs_whatever_ends_first():
    gates = [asyncio.Event() for _ in range(3)]

    async def last_first(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        place = runtime.context.seed
        if place < 2:
            await gates[place + 1].wait()
        gates[place].set()
        return {}

    seen: list[int] = []
    built = engine(chain(ask=ask, wait=last_first, think=think, mark=mark))
    traces = built.run_sync(specs(3), lambda trace: seen.append(trace.index))
    assert seen == [2, 1, 0]
    assert [t.index for t in traces] == [0, 1, 2]


def test_the_same_specs_give_the_same_traces():
    def timeless(trace: Trace) -> Trace:
        visits = tuple(replace(v, started=0.0, seconds=0.0) for v in trace.visits)
        return replace(trace, started=0.0, seconds=0.0, visits=visits)

    assert list(map(timeless, run(count=4))) == list(map(timeless, run(count=4, concurrency=1)))


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_rollouts_are_in_flight_than_allowed(bound: int):
    inside, most = 0, 0

    async def count(state: RolloutState) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(5):
            await asyncio.sleep(0)
        inside -= 1
        return {}

    assert len(run(chain(ask=ask, count=count, think=think, mark=mark), count=12, concurrency=bound)) == 12
    assert most == bound


def test_nothing_to_run():
    assert engine().run_sync([], lambda trace: None) == []


# --- visits and calls -------------------------------------------------------------------------------------


class Inner(TypedDict, total=False):
    request: str
    reply: str


def checking(check: Any, **settings: Any) -> Any:
    builder = StateGraph(Inner)
    builder.add_node("check", check, **settings)
    builder.add_edge(START, "check")
    return builder.compile()


def consulting(check: Any, **settings: Any) -> Any:
    """ask, think, a node `verify` that runs a sub-graph of one node `check` twice, think, mark."""
    inner = checking(check, **settings)

    async def verify(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        first = await inner.ainvoke({"request": "6x7?"})
        second = await inner.ainvoke({"request": first["reply"]})
        await runtime.context.chat("closing", [HumanMessage("bye")])
        reply = segment(Role.AGENT, "verify", TOKENIZER.encode(second["reply"]))
        asked = consult(1, 0, 2, agent="verify", request="6x7?", reply=second["reply"])
        return {"segments": [reply], "consults": [asked]}

    return chain(ask=ask, think=think, verify=verify, again=think, mark=mark)


async def check(state: Inner, runtime: Runtime[RolloutContext]) -> Inner:
    return {"reply": await runtime.context.chat("verify", [HumanMessage(state["request"])])}


def chats(*replies: str) -> dict[str, ChatModel]:
    def model(*said: str) -> ChatModel:
        return ChatModel(
            model=FakeListChatModel(responses=list(said)), name="fake", settings={"temperature": 0}
        )

    return {"verify": model(*replies), "closing": model("bye")}


CONSULT = "<consult:verify>6x7?</consult>"


def test_nested_visits_carry_their_calls():
    [trace] = run(consulting(check), policies=policies(CONSULT, "42"), chats=chats("43", "no, 42"))
    assert texts(trace) == ["prompt: 6x7=", f"policy: {CONSULT}", "agent: no, 42", "policy: 42<eos>"]
    paths = ["ask", "think", "verify", "verify/check", "verify/check", "again", "mark"]
    assert [(v.path, v.outcome) for v in trace.visits] == [(path, "ok") for path in paths]
    said = [(v.path, c.visit, c.messages[0]["content"], c.reply) for v in trace.visits for c in v.calls]
    assert said == [
        ("verify", "verify", "bye", "bye"),
        ("verify/check", "verify/check", "6x7?", "43"),
        ("verify/check", "verify/check", "43", "no, 42"),
    ]
    assert trace.consults[0].reply == "no, 42"
    assert trace.count(Role.AGENT) == 6
    assert Trace.from_json(trace.to_json()) == trace


def test_every_attempt_of_a_retried_node_is_a_call_of_its_visit():
    attempts = 0

    async def flaky(state: Inner, runtime: Runtime[RolloutContext]) -> Inner:
        nonlocal attempts
        reply = await runtime.context.chat("verify", [HumanMessage("?")])
        attempts += 1
        if attempts == 1:
            raise ConnectionError("lost")
        return {"reply": reply}

    graph = consulting(
        flaky, retry_policy=RetryPolicy(retry_on=ConnectionError, initial_interval=0, jitter=False)
    )
    [trace] = run(graph, policies=policies(CONSULT, "42"), chats=chats("a", "b", "c"))
    inner = [v for v in trace.visits if v.path == "verify/check"]
    assert [[c.reply for c in v.calls] for v in inner] == [["a", "b"], ["c"]]


def test_a_call_outside_of_every_node_that_was_seen_is_kept():
    # A sub-graph that is run under another configuration streams nothing to the engine.
    async def aside(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        await loop.create_task(
            runtime.context.chat("verify", [HumanMessage("psst")]), context=contextvars.Context()
        )
        return {}

    [trace] = run(chain(ask=ask, aside=aside, think=think, mark=mark), chats=chats("42"))
    last = trace.visits[-1]
    assert (last.path, last.outcome, [c.reply for c in last.calls]) == ("?", "unknown", ["42"])


# --- failures are data ------------------------------------------------------------------------------------


def test_a_node_that_raises_leaves_what_was_there():
    trace = failure(chain(ask=ask, think=think, again=think, boom=boom), policies=policies("one", "two"))
    assert texts(trace) == ["prompt: 6x7=", "policy: one<eos>", "policy: two<eos>"]
    assert trace.stop_reason is StopReason.ERROR
    assert trace.error == "RuntimeError: boom (in node boom)"
    assert [(v.path, v.outcome) for v in trace.visits][-1] == ("boom", "RuntimeError: boom")
    assert trace.policy_version == 0


def test_an_error_names_the_innermost_node():
    trace = failure(consulting(boom), policies=policies(CONSULT, "42"), chats=chats("a"))
    assert trace.error == "RuntimeError: boom (in node verify/check)"
    assert texts(trace) == ["prompt: 6x7=", f"policy: {CONSULT}"]
    assert {v.path: v.outcome for v in trace.visits}["verify"] == "RuntimeError: boom"


def test_an_error_that_was_dealt_with_is_not_blamed_for_a_later_one():
    inner = checking(boom)

    async def careful(state: RolloutState) -> dict[str, Any]:
        with contextlib.suppress(RuntimeError):
            await inner.ainvoke({"request": "?"})
        return {}

    async def later(state: RolloutState) -> dict[str, Any]:
        raise RuntimeError("later")

    trace = failure(chain(ask=ask, careful=careful, later=later))
    assert trace.error == "RuntimeError: later (in node later)"
    assert [(v.path, v.outcome) for v in trace.visits] == [
        ("ask", "ok"),
        ("careful", "ok"),
        ("careful/check", "RuntimeError: boom"),
        ("later", "RuntimeError: later"),
    ]


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
            return await for_ever(state)
        finally:
            cancelled.append(True)

    trace = failure(chain(ask=ask, think=think, slow=slow), deadline=0.5)
    assert cancelled == [True]
    assert trace.stop_reason is StopReason.DEADLINE
    assert trace.error == "Deadline: not done after 0.5 seconds (in node slow)"
    assert texts(trace) == ["prompt: 6x7=", "policy: 42<eos>"]
    assert (trace.visits[-1].outcome, trace.visits[-1].seconds) == ("cancelled", None)


def test_a_node_that_cancels_itself_is_an_error():
    async def gives_up(state: RolloutState) -> dict[str, Any]:
        raise asyncio.CancelledError

    trace = failure(chain(ask=ask, gives_up=gives_up))
    assert trace.stop_reason is StopReason.ERROR and "CancelledError" in (trace.error or "")


def test_a_graph_that_never_ends_is_stopped():
    builder = StateGraph(RolloutState, context_schema=RolloutContext)
    builder.add_node("loop", gives())
    builder.add_edge(START, "loop")
    builder.add_edge("loop", "loop")
    trace = failure(builder.compile(), recursion_limit=10)
    assert (trace.error or "").startswith("GraphRecursionError")


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
    assert reason in (trace.error or "") and "(in node think)" in (trace.error or "")
    assert texts(trace) == ["prompt: 6x7="]


PROMPT = segment(Role.PROMPT, "task", [1])
SAMPLED = segment(Role.POLICY, "policy", [2], logprobs=[-0.5], policy_version=3)


def scored(*segments: Any, **update: Any) -> Any:
    """A graph that ends well, but for `update`."""
    end = {"stops": {"policy": StopReason.EOS}, "reward_parts": {"policy": {}}}
    return chain(all=gives(**({"segments": list(segments or (PROMPT, SAMPLED))} | end | update)))


def rewarded(**parts: float) -> Any:
    return scored(reward_parts={"policy": parts})


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (scored(segments=[]), "GraphError: segments"),
        (scored(SAMPLED), "first segment: got 'policy', allowed prompt"),
        (scored(PROMPT), "tokens that the policy sampled: got 0"),
        (scored("text"), "item of 'segments': got 'text', allowed a Segment"),
        (scored(consults=["?"]), "item of 'consults': got '?', allowed a Consult"),
        (
            scored(consults=[consult(0, None, 1, policy="bob")]),
            "policies of consults: got ['bob'], allowed ['policy']",
        ),
        (scored(stops={}), "policies in 'stops': got []"),
        (scored(reward_parts={}), "policies in 'reward_parts': got []"),
        (scored(reward_parts={"bob": {}}), "got ['bob'], allowed ['policy']"),
        (scored(stops={"policy": StopReason.ERROR}), "stop of policy 'policy'"),
        (scored(stops={"policy": "tired"}), "got 'tired', allowed eos, length"),
        (scored(PROMPT, replace(SAMPLED, policy_version=None)), "versions of the policy: got [None]"),
        (scored(PROMPT, SAMPLED, replace(SAMPLED, policy_version=2)), "got [3, 2]"),
        (scored(PROMPT, replace(SAMPLED, policy="bob")), "got ['policy', 'bob'], allowed ['policy']"),
        (scored(PROMPT, replace(SAMPLED, policy=["bob"])), "TypeError: unhashable"),
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
    assert reason in (trace.error or "")
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
    assert trace.error is None if reason is None else reason in (trace.error or "")


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

    asked = [spec(index, task=task(metadata={})) for index in range(3)]
    with TraceStore(tmp_path) as store:
        built = engine(chain(ask=ask, think=think, spoil=spoil, mark=mark))
        traces = built.run_sync(asked, store.append)
        assert sorted(store.read(), key=lambda trace: trace.index) == traces
    assert [trace.stop_reason.value for trace in traces] == ["error", "error", "eos"]
    assert [len(trace.segments) for trace in traces] == [3, 3, 3]
    assert [len(trace.consults) for trace in traces] == [1, 0, 1]
    assert [bool(trace.task) for trace in traces] == [False, True, True]
    assert [trace.reward is None and trace.reward_parts == {} for trace in traces] == [True, True, False]
    assert all("run/00000-000" in (trace.error or "") for trace in traces[:2])


# --- several policies -------------------------------------------------------------------------------------


async def judged(state: RolloutState) -> dict[str, Any]:
    return {
        "stops": {"alice": StopReason.EOS, "bob": StopReason.LENGTH},
        "reward_parts": {"alice": {"correct": 1.0}, "bob": None},
    }


def discussion(last: Any = judged) -> Any:
    """alice and bob answer, each in a context of their own."""

    def speak(name: str) -> Any:
        async def node(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
            asked = segment(Role.PROMPT, "task", TOKENIZER.encode_prompt(f"{name}, 6x7="), policy=name)
            piece, _ = await runtime.context.sample([*state["segments"], asked], policy=name)
            return {"segments": [asked, piece]}

        return node

    return chain(alice=speak("alice"), bob=speak("bob"), last=last)


PEERS = {"alice": ScriptedPolicy(TOKENIZER, ["42"]), "bob": ScriptedPolicy(TOKENIZER, ["43"])}


def test_a_graph_of_two_policies_yields_two_traces():
    alice, bob = run(discussion(), policies=PEERS)
    assert (alice.trace_id, bob.trace_id) == ("run/00000-000/0/alice", "run/00000-000/0/bob")
    assert texts(alice) == ["prompt: alice, 6x7=", "policy: 42<eos>"]
    assert texts(bob) == ["prompt: bob, 6x7=", "policy: 43<eos>"]
    assert (alice.stop_reason, alice.reward) == (StopReason.EOS, 1.0)
    assert (bob.stop_reason, bob.reward) == (StopReason.UNSCORED, None)
    assert alice.visits == bob.visits and len(alice.visits) == 3


def test_a_failure_of_two_policies_is_two_failed_traces():
    traces = run(discussion(boom), policies=PEERS)
    assert [t.policy for t in traces] == ["alice", "bob"]
    assert {t.error for t in traces} == {"RuntimeError: boom (in node last)"}


# --- being stopped ----------------------------------------------------------------------------------------


def half_stuck() -> Any:
    """Rollouts with an even seed end at once, the others never."""

    async def wait(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        return await for_ever(state) if runtime.context.seed % 2 else {}

    return chain(ask=ask, think=think, wait=wait, mark=mark)


def test_cancelling_keeps_finished_traces_and_hands_over_those_in_flight():
    seen: list[Trace] = []

    async def main() -> None:
        run = asyncio.create_task(engine(half_stuck(), concurrency=4).run(specs(6), seen.append))
        while len(seen) < 3:
            await asyncio.sleep(0)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert [t.stop_reason.value for t in seen] == ["eos"] * 3 + ["cancelled"] * 3
    assert {t.error for t in seen[3:]} == {"Cancelled: the run was stopped (in node wait)"}
    assert all(texts(t)[-1] == "policy: 42<eos>" for t in seen)


def test_an_interrupt_inside_a_node_keeps_what_is_there():
    async def interrupt(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        if runtime.context.seed == 2:
            raise KeyboardInterrupt
        return await for_ever(state) if runtime.context.seed else {}

    seen: list[Trace] = []
    built = engine(chain(ask=ask, think=think, stop=interrupt, mark=mark), concurrency=2)
    with pytest.raises(KeyboardInterrupt):
        built.run_sync(specs(3), seen.append)
    assert [t.stop_reason.value for t in seen] == ["eos", "cancelled", "cancelled"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("notebook", [False, True])
def test_ctrl_c_keeps_finished_traces(notebook: bool):
    seen: list[str] = []

    def press(trace: Trace) -> None:
        seen.append(trace.stop_reason.value)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    async def cell() -> None:
        engine(half_stuck(), concurrency=4).run_sync(specs(4), press)

    with pytest.raises(KeyboardInterrupt), contextlib.closing(asyncio.new_event_loop()) as loop:
        if notebook:
            loop.run_until_complete(cell())
        else:
            engine(half_stuck(), concurrency=4).run_sync(specs(4), press)
    assert seen == ["eos", "eos", "cancelled", "cancelled"]


def test_an_error_of_on_trace_stops_the_run_and_is_not_disguised():
    seen: list[str] = []

    def full(trace: Trace) -> None:
        if len(seen) == 2:
            raise RunError("disk full")
        seen.append(trace.trace_id)

    with pytest.raises(RunError, match=r"^disk full$"):
        engine(concurrency=1).run_sync(specs(5), full)
    assert seen == ["run/00000-000/0", "run/00000-000/1"]


# --- what is refused at once ------------------------------------------------------------------------------


def test_a_graph_that_breaks_the_contract_is_refused():
    with pytest.raises(GraphError, match=r"graph 'None': got str, allowed a compiled StateGraph"):
        engine("graph")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policies": {}}, "policies: got {}, allowed at least one"),
        ({"concurrency": 0}, "concurrency: got 0, allowed >= 1"),
        ({"deadline": 0.0}, "deadline: got 0.0, allowed > 0 seconds"),
        ({"deadline": float("nan")}, "deadline: got nan"),
        ({"reward_weights": {"correct": float("inf")}}, "weight of reward part 'correct': got inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], reason: str):
    with pytest.raises(ConfigError) as caught:
        engine(**changes)
    assert str(caught.value).startswith(reason)
