"""Rows: traces flattened and distilled. Streams are written out as literals."""

from dataclasses import replace

import numpy as np
import pytest

from aipo.errors import TrainError
from aipo.method.rows import Code, Row, check_agent_logprobs, distil, distillable, exchange_prompt, rows_of
from aipo.policies.tags import Tags
from aipo.trace import Mode, Role, Segment, Trace, segment
from kit import tiny
from kit.handmade import agent, consult, env, policy, prompt, trace

P, L, A, E, C, D = Code.PROMPT, Code.POLICY, Code.AGENT, Code.ENV, Code.CONTEXT, Code.DISTILLED
OPEN, CLOSE, FEEDBACK = 13, 14, 15  # tags of one token each
TAGS = Tags((OPEN, CLOSE, FEEDBACK))


def assisted(**changes: object) -> Trace:
    """Two consults: one answered, one that met a notice.

    prompt 2 3 | policy 4 OPEN 5 CLOSE | agent FEEDBACK 6 FEEDBACK | policy 7 8 OPEN 9 CLOSE |
    env 10 | policy 11 EOS
    """
    segments = (
        prompt(2, 3),
        policy(4, OPEN, 5, CLOSE, logprobs=[-0.1, -0.2, -0.3, -0.4]),
        agent(FEEDBACK, 6, FEEDBACK),
        policy(7, 8, OPEN, 9, CLOSE),
        env(10),
        policy(11, tiny.EOS),
    )
    consults = (consult(1, 1, 2), consult(3, 2, 4, reply=None, error="budget used up"))
    return trace(*segments, **({"mode": Mode.ASSISTED, "consults": consults} | changes))


def test_a_sampled_row_is_the_context_as_it_was():
    (row,) = rows_of(assisted(advantage=0.5))
    assert row.token_ids_T.tolist() == [2, 3, 4, 13, 5, 14, 15, 6, 15, 7, 8, 13, 9, 14, 10, 11, 1]
    assert row.codes_T.tolist() == [P, P, L, L, L, L, A, A, A, L, L, L, L, L, E, L, L]
    assert row.segments_T.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 5, 5]
    unknown = np.isnan(row.behaviour_logprobs_T)
    assert unknown.tolist() == [code in (P, A, E) for code in row.codes_T]
    assert row.behaviour_logprobs_T[2:6].tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4])
    assert (row.kind, row.advantage, row.policy_tokens, row.agent_tokens) == ("sampled", 0.5, 11, 3)
    assert (row.prompt_tokens, len(row)) == (2, 17)


def test_a_demonstration_counts_like_the_rollout_that_it_stands_for():
    (row,) = rows_of(trace(prompt(2, 3), agent(4, 5, tiny.EOS, source="expert"), mode=Mode.EXPERT))
    assert row.codes_T.tolist() == [P, P, A, A, A]
    assert (row.policy_tokens, row.agent_tokens, np.isnan(row.behaviour_logprobs_T).all()) == (3, 0, True)
    (helped,) = rows_of(trace(prompt(2, 3), policy(4, 5), agent(6), mode=Mode.ASSISTED))
    assert (helped.policy_tokens, helped.agent_tokens) == (2, 1)


def test_agents_tokens_are_learned_behind_another_prompt_in_a_row_of_their_own():
    (whole,), (own, exchanged) = rows_of(assisted()), exchange_prompt(assisted(), prompt(9, 9, 9))
    assert own.token_ids_T.tolist() == whole.token_ids_T.tolist()
    assert own.codes_T.tolist() == [P, P, L, L, L, L, C, C, C, L, L, L, L, L, E, L, L]
    np.testing.assert_array_equal(own.behaviour_logprobs_T, whole.behaviour_logprobs_T)
    assert exchanged.token_ids_T.tolist() == [9, 9, 9, *whole.token_ids_T[2:].tolist()]
    assert exchanged.codes_T.tolist() == [P, P, P, C, C, C, C, A, A, A, C, C, C, C, C, E, C, C]
    assert exchanged.segments_T.tolist() == [0, *whole.segments_T.tolist()]
    assert np.isnan(exchanged.behaviour_logprobs_T).all()
    assert [row.kind for row in (own, exchanged)] == ["sampled", "exchanged"]
    for row in (own, exchanged):
        assert (row.advantage, row.policy_tokens, row.agent_tokens) == (1.0, 11, 3)


def test_log_probs_of_an_agents_own_model_hold_behind_another_prompt():
    said = segment(Role.AGENT, "verify", [6, 7], logprobs=[-0.5, np.nan])
    _, exchanged = exchange_prompt(trace(prompt(2), policy(4), said), prompt(9))
    np.testing.assert_array_equal(
        exchanged.behaviour_logprobs_T, np.array([np.nan, np.nan, -0.5, np.nan], "f4")
    )


def test_an_equal_prompt_is_not_exchanged():
    (row,) = exchange_prompt(assisted(), prompt(2, 3))
    assert row.codes_T.tolist() == rows_of(assisted())[0].codes_T.tolist()


def test_a_failed_rollout_gives_no_row():
    assert rows_of(assisted(advantage=None)) == []


def test_what_was_forbidden_while_sampling_travels_with_the_row():
    (row,) = rows_of(trace(prompt(2), policy(3), forbidden_ids=(13, 14)))
    assert row.forbidden_ids == (13, 14)


def test_a_distilled_row_has_no_consult_in_it():
    row = distil(assisted(advantage=0.5), TAGS)
    assert row is not None
    assert row.token_ids_T.tolist() == [2, 3, 4, 7, 8, 11, 1]
    assert row.codes_T.tolist() == [P, P, C, D, D, D, D]
    assert row.segments_T.tolist() == [0, 0, 1, 3, 3, 5, 5]
    assert np.isnan(row.behaviour_logprobs_T).all()
    assert (row.kind, row.advantage, row.forbidden_ids) == ("distilled", 0.5, TAGS.ids)
    assert (row.policy_tokens, row.agent_tokens) == (11, 3)  # those of the trace


def test_a_distilled_row_can_have_the_solo_prompt():
    row = distil(assisted(), TAGS, prompt=prompt(9, 9, 9))
    assert row is not None and row.token_ids_T.tolist()[:4] == [9, 9, 9, 4]
    assert row.prompt_tokens == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": None, "reward": None},
        {"advantage": -0.5},
        {"advantage": 0.0},
        {"reward": 0.0},
        {"consults": ()},
        {"consults": (consult(1, 1, 2, reply=None, error="no such agent"),)},
    ],
)
def test_only_rewarded_traces_that_were_helped_are_distilled(changes: dict[str, object]):
    assert distillable(assisted())
    assert not distillable(assisted(**changes))
    assert distil(assisted(**changes), TAGS) is None


@pytest.mark.parametrize(
    ("segments", "start", "expected"),
    [
        # the tag shares a token with other text
        ([prompt(2), policy(4, 5), agent(6), policy(7)], None, None),
        # a tag remains: opened, never closed, and no consult of the graph's
        ([prompt(2), policy(4, OPEN, 5, CLOSE), agent(6), policy(7, OPEN, 8)], 1, None),
        # an agent's text that belongs to no consult
        ([prompt(2), policy(4, OPEN), agent(6), agent(8), policy(7)], 1, None),
        # nothing follows
        ([prompt(2), policy(4, OPEN), agent(6)], 1, None),
        # a turn that is nothing but a consult leaves nothing
        ([prompt(2), policy(OPEN, 4, CLOSE), agent(6), policy(7)], 0, ([2, 7], [P, D])),
        # a tag in the prompt is nobody's fault
        ([prompt(OPEN, 2), policy(4, OPEN), agent(6), policy(7)], 1, ([OPEN, 2, 4, 7], [P, P, C, D])),
    ],
)
def test_what_can_be_cut(
    segments: list[Segment], start: int | None, expected: tuple[list[int], list[int]] | None
):
    """Ids and codes of the distilled row of a trace with one consult, from token `start` of segment 1 on."""
    row = distil(trace(*segments, mode=Mode.ASSISTED, consults=(consult(1, start, 2),)), TAGS)
    assert (row and (row.token_ids_T.tolist(), row.codes_T.tolist())) == expected


def row(**changes: object) -> Row:
    """A row of a prompt token and one of the policy."""
    return replace(rows_of(trace(prompt(1), policy(2)))[0], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments_T": np.array([0], np.int32)}, "arrays of a row: got lengths"),
        ({"advantage": float("nan")}, "advantage: got nan, allowed a finite number, in 't'"),
        (
            {"behaviour_logprobs_T": np.array([0, np.nan], np.float32)},
            "log-prob of a policy token: got NaN or infinity, in 't'",
        ),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(TrainError, match=message):
        row(**changes)


def test_a_row_of_prompt_alone():
    assert row(codes_T=np.array([P, P], np.int8)).prompt_tokens == 2


def test_an_agents_own_log_probs_reach_the_row_and_are_required_where_the_method_needs_them():
    known = segment(Role.AGENT, "verify", [5, 6, 7], logprobs=[np.nan, -0.5, np.nan])
    (row,) = rows_of(trace(prompt(2), policy(3), known))
    np.testing.assert_array_equal(
        row.behaviour_logprobs_T, np.array([np.nan, -1.0, np.nan, -0.5, np.nan], np.float32)
    )
    check_agent_logprobs([row], lambda _: True)
    (silent,) = rows_of(trace(prompt(2), policy(3), agent(5, source="knowledge")))
    with pytest.raises(TrainError, match="log-probs of agent 'knowledge' by its own model: got none"):
        check_agent_logprobs([row, silent], lambda _: True)
