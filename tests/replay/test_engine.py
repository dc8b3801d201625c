"""A replay of graphs with several policies, and what an engine that adapts each rollout does."""

from dataclasses import replace
from typing import Any

import pytest
from langgraph.runtime import Runtime

from aipo.errors import ReplayError
from aipo.policies import Sampling
from aipo.policies.scripted import ScriptedPolicy
from aipo.replay.engine import Replay, TracePair, vanished
from aipo.replay.questions.check import absence, divergence
from aipo.rollout.context import RolloutContext
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, StopReason, Trace, of_policy, segment
from kit import engines

NAMES = ("left", "right")
NOBODY = ScriptedPolicy(engines.TOKENIZER, ())


def asks(*names: str, more: str = "") -> Any:
    """A node that writes the prompt for each of these policies."""

    async def ask(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        ids = engines.TOKENIZER.encode_prompt(runtime.context.task.prompt + more)
        return {"segments": [segment(Role.PROMPT, "task", ids, policy=name) for name in names]}

    return ask


def policies(state: RolloutState) -> list[str]:
    return list(dict.fromkeys(s.policy for s in state["segments"]))


async def think(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    names = policies(state)
    return {"segments": [(await runtime.context.sample(state["segments"], policy=n))[0] for n in names]}


TOKENIZERS = dict.fromkeys(("policy", *NAMES), engines.TOKENIZER)


async def mark(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    names = policies(state)
    parts = {name: {"correct": float(name == "left")} for name in names}
    return {"stops": dict.fromkeys(names, StopReason.EOS), "reward_parts": parts}


def engine(ask: Any = None, think: Any = think) -> Any:
    says = {name: ScriptedPolicy(engines.TOKENIZER, [f"{name} says 42"]) for name in NAMES}
    return engines.engine(engines.chain(ask=ask or asks(*NAMES), think=think, mark=mark), policies=says)


def recorded() -> list[Trace]:
    return engine().run_sync(engines.specs(2), lambda _: None)


def replay(traces: list[Trace], engine_of: Any = None, **changes: Any) -> list[TracePair]:
    made = replace(engine_of or engine(), policies={"left": NOBODY}, run_id="again")
    return Replay(engine=made, tokenizers=TOKENIZERS, agents={}, **changes).run(traces, lambda _: None)


def test_every_policy_of_a_rollout_has_its_own_recording() -> None:
    traces = recorded()
    assert [t.trace_id for t in traces] == [f"run/00000-000/{i}/{name}" for i in range(2) for name in NAMES]
    pairs = replay(traces)
    assert [divergence(pair) for pair in pairs] == [None] * 4
    assert [(p.source.policy, p.trace.policy, p.trace.parent_id) for p in pairs] == [
        (t.policy, t.policy, t.trace_id) for t in traces
    ]
    assert [t.reward for t in (pair.trace for pair in pairs)] == [1.0, 0.0, 1.0, 0.0]


def test_a_policy_that_was_not_recorded_is_live_or_missing() -> None:
    left = [trace for trace in recorded() if trace.policy == "left"]
    (pair, _) = replay(left)
    assert "got 'right', allowed ['left']" in str(pair.trace.error)
    live = ScriptedPolicy(engines.TOKENIZER, lambda _: "live")
    pairs = replay(left, live={"right": live})
    said = {pair.trace.policy: engines.texts(pair.trace)[1] for pair in pairs}
    assert said == {"left": "policy: left says 42<eos>", "right": "policy: live<eos>"}


def test_a_trace_that_no_longer_comes_is_told_from_one_of_another_policy() -> None:
    left, right = recorded()[:2]
    (pair,) = replay([left, right], live={}, engine_of=engine(asks("left")))
    assert (pair.source, pair.new) == (left, False)
    assert vanished([left, right], [pair]) == [right]
    assert absence(right).what == "no trace came out"

    live = {"right": ScriptedPolicy(engines.TOKENIZER, lambda _: "live")}
    pairs = replay([left], live=live)
    assert [(p.trace.policy, p.new) for p in pairs] == [("left", False), ("right", True)]
    found = divergence(pairs[1])
    assert (found.where, found.what) == ("policy", "got a trace of 'right', of which none was recorded")
    assert pairs[1].trace.fork_token == 0
    assert vanished([left], pairs[1:]) == [left]


@pytest.mark.parametrize("env", [engines.Worked(), engines.Exam()])
def test_a_demonstration_is_shown_as_it_was_whatever_the_environment_shows_now(env: engines.Exam) -> None:
    specs = [engines.spec(mode=Mode.EXPERT), engines.spec(1, mode=Mode.SOLO)]
    graph = engines.chain(ask=engines.ask, think=engines.think, grade=engines.grade)
    traces = engines.engine(graph, env=engines.Worked()).run_sync(specs, lambda _: None)
    engine = engines.engine(graph, env=env, policies={"policy": NOBODY})
    pairs = Replay(engine=engine, tokenizers=TOKENIZERS, agents={}).run(traces, lambda _: None)
    assert [divergence(pair) for pair in pairs] == [None, None]
    assert [(p.trace.mode, p.trace.reward, p.trace.fork_token) for p in pairs] == [
        (Mode.EXPERT, 1.5, None),
        (Mode.SOLO, 1.5, None),
    ]


def test_a_graph_that_hides_the_end_of_a_frozen_replay_earns_no_reward() -> None:
    async def hide(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
        try:
            return await think(state, runtime)
        except ReplayError:
            given = {"logprobs": [-1.0], "policy_version": 0}
            said = [segment(Role.POLICY, "policy", [4], policy=name, **given) for name in NAMES]
            for piece in said:
                runtime.context.samples.add(of_policy(state["segments"], piece.policy), piece)
            return {"segments": said}

    edited = engine(asks(*NAMES, more=" 42"), hide)
    for pair in replay(recorded(), edited):
        ended = (pair.trace.stop_reason, pair.trace.reward, pair.trace.reward_parts)
        assert ended == (StopReason.ERROR, None, {})
        assert "needs a live call here: turn 0 of" in str(pair.trace.error)


def test_the_sampling_of_now_or_of_then() -> None:
    traces = [t for t in recorded() if t.policy == "left"]
    live = {name: ScriptedPolicy(engines.TOKENIZER, lambda _: "live") for name in NAMES}
    assert replay(traces, live=live)[0].reuse.fork is None
    hotter = replay(traces, live=live, sampling=Sampling(temperature=2.0, max_tokens=64))
    assert hotter[0].reuse.fork.at == "sampling"
    assert hotter[0].trace.sampling["temperature"] == 2.0


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.9}])
def test_a_trace_that_does_not_say_how_it_was_sampled_takes_what_is_configured(sampling: dict) -> None:
    traces = [replace(trace, sampling=sampling) for trace in recorded()]
    assert [pair.reuse.live_turns for pair in replay(traces)] == [0] * 4
