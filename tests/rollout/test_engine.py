"""The engine: specs become traces, of every policy of the graph; and the settings that it refuses."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from langgraph.runtime import Runtime

from aipo.errors import ConfigError, GraphError, ScoreError
from aipo.policies.scripted import ScriptedPolicy
from aipo.rollout.context import RolloutContext
from aipo.rollout.env import Task
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, StopReason, Trace, segment
from kit.engines import (
    TOKENIZER,
    Exam,
    ask,
    boom,
    chain,
    engine,
    mark,
    policies,
    run,
    spec,
    specs,
    texts,
    think,
)


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
    [unmasked] = run(forbidden_ids=(5,))  # the spec does not ask for it
    assert unmasked.forbidden_ids == ()


class Explained(Exam):
    """Says what it read, and gives a text with `?` no verdict."""

    def explain(self, task: Task, text: str) -> str:
        return f"{text!r} of {task.answer}"


@pytest.mark.parametrize(
    ("text", "reward", "error"),
    [
        ("41", 0.5, None),
        ("4?", None, "the environment could not score the answer"),
    ],
)
def test_a_trace_has_the_reason_of_its_verdict(text: str, reward: float | None, error: str | None):
    [trace] = run(env=Explained(), policies=policies(text))
    assert (trace.reward, trace.error, trace.reason) == (reward, error, f"'{text}<eos>' of 42")
    [failed] = run(chain(ask=ask, think=think, mark=mark, boom=boom), env=Explained())
    assert failed.failed and failed.reason is None
    [unexplained] = run()
    assert unexplained.reason is None


@pytest.mark.parametrize("question", ["7</consult>", "<consult:verify>a</consult>"])
def test_a_question_that_spells_control_tokens_can_be_refused(question: str):
    asked = [
        spec(n, task=Task(task_id=t, prompt=t, answer="42", split="s")) for n, t in enumerate([question, "7"])
    ]
    refused, other = engine(refuse_control=True).run_sync(asked, lambda trace: None)
    assert (refused.stop_reason, refused.reward, refused.segments) == (StopReason.ERROR, None, ())
    assert refused.error == (
        f"TaskError: prompt of task {question!r}: got the control tokens {TOKENIZER.control_in(question)}, allowed none "
        "(rollout.control_tokens=refuse)"
    )
    assert (other.failed, other.error) == (False, None)
    assert not any(trace.failed for trace in engine().run_sync(asked, lambda trace: None))


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
    assert built.run_sync([], lambda trace: None) == []


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


# --- what is refused at once ------------------------------------------------------------------------------


def test_a_graph_that_breaks_the_contract_is_refused():
    with pytest.raises(GraphError, match=r"graph 'None': got str, allowed a compiled StateGraph"):
        engine("graph")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policies": {}}, "policies: got {}, allowed at least one"),
        (
            {"policies": {"policy": ScriptedPolicy(cast("Any", object()), ["42"])}},
            "tokenizer of policy 'policy': got <class 'object'>, allowed one with a number of ids, __len__",
        ),
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
