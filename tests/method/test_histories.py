"""A rollout with several histories has a row for each, and weighs what it would with one."""

import pytest

from aipo.method.batch import TokenTotals, denominators
from aipo.method.rows import Code, rows_of
from aipo.trace import histories
from kit import tiny
from kit.handmade import agent, env, policy, prompt, trace


def in_history(number: int, *pieces: object) -> list[object]:
    from dataclasses import replace

    return [replace(piece, history=number) for piece in pieces]  # type: ignore[type-var]


FIRST = in_history(0, prompt(2, 3), policy(4, 5, 6), env(7), policy(8))
SECOND = in_history(1, prompt(2, 9), policy(10, 11))
NOBODYS = in_history(2, prompt(2), env(3))


def several(**changes: object):
    return trace(*FIRST, *SECOND, *NOBODYS, advantage=0.5, **changes)


def test_each_history_with_something_to_learn_is_a_row():
    first, second = rows_of(several())
    assert first.token_ids_T.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert second.token_ids_T.tolist() == [2, 9, 10, 11]
    assert second.segments_T.tolist() == [4, 4, 5, 5]
    assert (first.prompt_tokens, second.prompt_tokens) == (2, 2)
    assert [row.policy_tokens for row in (first, second)] == [6, 6]
    assert [row.counts for row in (first, second)] == [True, False]


def test_a_rollout_of_one_history_is_one_row_whatever_its_number():
    pieces = in_history(3, prompt(2), agent(3))
    [row] = rows_of(trace(*pieces, advantage=0.0))
    assert row.codes_T.tolist() == [Code.PROMPT, Code.AGENT]


def test_totals_count_the_rollout_once():
    other = rows_of(trace(prompt(2), policy(3, 4), advantage=1.0))
    totals = TokenTotals.of([*rows_of(several()), *other])
    assert totals == TokenTotals(rows=2, policy_tokens=8, agent_tokens=0)


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo"])
def test_each_row_weighs_its_share_of_the_rollout(objective: str):
    """Token by token, a rollout weighs the same as if its tokens stood in one row."""
    method = tiny.method(objective=objective)
    split, whole = rows_of(several()), rows_of(trace(prompt(2), policy(4, 5, 6, 8, 10, 11), advantage=0.5))
    weights = [
        sum(
            (row.codes_T == Code.POLICY).sum() / denominator
            for row, denominator in zip(
                rows,
                denominators(rows, method, TokenTotals.of(rows), minibatches=1, max_completion_length=9),
                strict=True,
            )
        )
        for rows in (split, whole)
    ]
    assert weights[0] == pytest.approx(weights[1], abs=1e-9)


def test_histories_may_be_mixed():
    pieces = [FIRST[0], SECOND[0], FIRST[1]]
    assert [[s.token_ids.tolist() for s in history] for history in histories(pieces)] == [
        [[2, 3], [4, 5, 6]], [[2, 9]]
    ]  # fmt: skip
