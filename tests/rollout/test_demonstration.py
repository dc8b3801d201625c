"""Demonstrations: rollouts in which an expert's solution stands where the policy's words would."""

from typing import Any

import numpy as np
import pytest
from langgraph.runtime import Runtime

from aipo.errors import ConfigError, TaskError
from aipo.policies import Sampling
from aipo.rollout.context import RolloutContext
from aipo.rollout.demonstration import check_demonstrations, demonstrate, demonstration_of, encode
from aipo.rollout.graph import RolloutState
from aipo.trace import Mode, Role, StopReason, Trace, segment
from kit.engines import (
    TOKENIZER,
    Exam,
    Worked,
    ask,
    chain,
    engine,
    grade,
    mark,
    policies,
    spec,
    task,
    texts,
    think,
)

ASKED = segment(Role.PROMPT, "task", TOKENIZER.encode("6x7="))
GRADED = chain(ask=ask, think=think, grade=grade)


def show(**changes: Any) -> Trace:
    made = engine(**{"graph": GRADED, "env": Worked(), **changes})
    [trace] = made.run_sync([spec(mode=Mode.EXPERT)], lambda _: None)
    return trace


def test_a_demonstration_is_scored_and_kept_like_a_rollout():
    trace = show(policies=policies("the policy is never asked"))
    assert texts(trace) == ["prompt: 6x7=", "agent: 6x7=42<eos>"]
    assert [s.source for s in trace.segments] == ["task", "expert"]
    # weights of `engine`: correct 1, short (below 9 characters) 0.5
    assert (trace.reward_parts, trace.reward) == ({"correct": 1.0, "short": 1.0}, 1.5)
    assert (trace.mode, trace.stop_reason, trace.error) == (Mode.EXPERT, StopReason.EOS, None)
    assert (trace.author, trace.policy_version, trace.segments[1].logprobs) == (Role.AGENT, None, None)
    assert [visit.path for visit in trace.visits] == ["ask", "think", "grade"]


def test_one_that_is_too_long_is_cut_off_like_a_rollout():
    trace = show(sampling=Sampling(max_tokens=5))
    assert texts(trace)[1] == "agent: 6x7=4"
    assert trace.reward_parts["correct"] == 0.0


def test_what_a_solution_spells_is_plain_text():
    ids = encode("<consult:verify>", TOKENIZER)
    assert len(ids) == len("<consult:verify>") + 1
    assert ids[-1] == TOKENIZER.eos_id and TOKENIZER.token_id("<consult:verify>") not in ids


def test_a_task_without_one_fails_its_rollout_alone():
    hard = spec(mode=Mode.EXPERT, task=task("t1", split="hard"))
    failed, right = engine(GRADED, env=Worked()).run_sync([hard, spec(1, mode=Mode.EXPERT)], lambda _: None)
    assert failed.reward is None and right.reward == 1.5
    assert (
        "demonstration of task 't1': got None, allowed text of a right solution, in environment Worked"
        in (failed.error or "")
    )


async def improvise(state: RolloutState, runtime: Runtime[RolloutContext]) -> dict[str, Any]:
    ids = TOKENIZER.encode("42")
    return {"segments": [segment(Role.POLICY, "policy", ids, logprobs=[0.0] * 2, policy_version=0)]}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ({"think": think, "again": think, "grade": grade}, "turns of a demonstration: got 2, allowed one"),
        ({"think": think, "more": improvise, "grade": grade}, "the policy sampled: got 2, allowed none"),
        ({"grade": grade}, "text to score of a demonstration: got none, allowed runtime.context.answer"),
        ({"think": think, "mark": mark}, "text to score of a demonstration: got none"),
    ],
)
def test_a_graph_that_cannot_show_one_says_so(nodes: dict[str, Any], reason: str):
    assert reason in (show(graph=chain(ask=ask, **nodes)).error or "")


@pytest.mark.parametrize(("room", "finish"), [(3, "eos"), (2, "length")])
def test_a_turn_is_cut_to_the_room_that_is_left(room: int, finish: str):
    ids = np.array([5, 6, TOKENIZER.eos_id], np.int32)
    piece, got = demonstrate(ids, [ASKED], policy="b", room=room, eos_id=TOKENIZER.eos_id)
    assert (piece.token_ids.tolist(), got, piece.policy) == (ids[:room].tolist(), finish, "b")


def test_environments_are_asked_before_a_run():
    check_demonstrations(Worked(), {"easy": 1.0, "hard": 0.0})
    with pytest.raises(TaskError, match="demonstration of task 'hard0': got None"):
        check_demonstrations(Worked(), {"easy": 0.5, "hard": 0.5})
    with pytest.raises(ConfigError, match=r"method\.plan: got expert with environment Exam, which has no"):
        check_demonstrations(Exam(), {"easy": 1.0})
    with pytest.raises(TaskError, match="demonstration of task 't0': got None"):
        demonstration_of(Exam(), task())
