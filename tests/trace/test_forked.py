"""Forked traces: what is their own, and what they share with their parents."""

from dataclasses import replace

import pytest

from aipo.trace import Role, Segment, Trace, segment, turns_behind_replies
from aipo.trace.arrow import Stored, from_table, to_table
from kit.handmade import agent, consult, env, policy, prompt, trace, visit

pytestmark = pytest.mark.fast

FORK = trace(
    prompt(1, 2), policy(3, 4), agent(5), policy(6, 7), agent(8), policy(9),
    trace_id="r/g/4", run_id="r", group_id="g", index=4, parent_id="r/g/1", fork_token=5,
    consults=(consult(1, 0, 2), consult(3, 0, 4)),
    visits=(visit("ask", -3.0), visit("think", -2.0), visit("think", 0.0), visit("score", 0.5)),
)  # fmt: skip


def test_what_is_its_own():
    own = FORK.own
    assert (FORK.forked, FORK.shared_consults) == (True, 1)
    assert own.segments == FORK.segments[3:]
    assert [(c.request_segment, c.reply_segment) for c in own.consults] == [(0, 1)]
    assert [v.path for v in own.visits] == ["think", "score"]
    assert (own.count(Role.POLICY), own.count(Role.AGENT)) == (3, 1)


@pytest.mark.parametrize("parent", [None, "before/g/1", "r/other/1", "r/g/4"])
def test_a_trace_whose_parent_is_of_another_group_or_run_is_whole(parent: str | None):
    replay = replace(FORK, parent_id=parent)
    assert (replay.forked, replay.own is replay, replay.shared_consults) == (False, True, 0)


def test_columns_that_are_summed_up_count_its_own_and_nothing_is_lost():
    table = to_table([Stored(FORK, None)])
    columns = {"tokens": [4], "policy_tokens": [3], "agent_tokens": [1], "consult_errors": [0]}
    assert {name: table[name].to_pylist() for name in columns} == columns
    assert [len(names) for names in table["agents"].to_pylist()] == [1]
    [stored] = from_table(table, "there")
    assert stored.trace == FORK


def test_the_advantage_of_a_segment_survives_in_json_and_parquet():
    first, *rest = FORK.segments
    credited = replace(FORK, segments=(replace(first, advantage=0.25), *rest), reward=1.0, advantage=-0.5)
    assert [credited.advantage_of(piece) for piece in credited.segments] == [0.25, *[-0.5] * 5]
    [stored] = from_table(to_table([Stored(credited, None)]), "there")
    assert stored.trace == credited == Trace.from_json(credited.to_json())


@pytest.mark.parametrize(
    ("pieces", "turns"),
    [
        ([prompt(1), policy(2)], []),
        ([prompt(1), policy(2), agent(3)], []),
        ([prompt(1), policy(2), agent(3), policy(4), env(5), policy(6), policy(7)], [3, 5]),
        ([prompt(1), policy(2), agent(3), env(4), policy(5)], [4]),
        ([], []),
    ],
)
def test_turns_behind_replies(pieces: list[Segment], turns: list[int]):
    assert turns_behind_replies(pieces) == turns


def test_an_advantage_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="advantage of a policy segment from 'policy': got inf"):
        segment(Role.POLICY, "policy", [1], logprobs=[-1.0], advantage=float("inf"))
