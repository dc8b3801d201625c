"""Batches: the tensors of two rows written out, and denominators against their formulas."""

import math

import numpy as np
import pytest
import torch

from aipo.errors import TrainError
from aipo.method.batch import TokenTotals, agent_numbers, collate, denominators, with_gradient
from aipo.method.rows import Code, Row, distil, exchange_prompt, rows_of
from aipo.policies.tags import Tags
from kit import tiny
from kit.handmade import agent, consult, env, policy, prompt, trace

L, A, N = Code.POLICY, Code.AGENT, Code.PROMPT


def sampled(*segments: object, **changes: object) -> Row:
    (row,) = rows_of(trace(*segments, **changes))
    return row


SHORT = sampled(prompt(2, 3, 4), policy(5, logprobs=[-0.5]), advantage=-1.0)
LONG = sampled(prompt(6), policy(7, 8, logprobs=[-0.25, -0.75]), agent(9), advantage=0.5)


def test_prompts_are_padded_left_and_completions_right():
    batch = collate([SHORT, LONG], np.array([4.0, 8.0], np.float32), pad_id=0)
    assert batch["prompt_ids"].tolist() == [[2, 3, 4], [0, 0, 6]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["completion_ids"].tolist() == [[5, 0, 0], [7, 8, 9]]
    assert batch["completion_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["codes"].tolist() == [[L, N, N], [L, L, A]]
    nan = math.nan
    expected = torch.tensor([[-0.5, nan, nan], [-0.25, -0.75, nan]])
    torch.testing.assert_close(batch["behaviour_logprobs"], expected, equal_nan=True)
    assert batch["advantages"].tolist() == [[-1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    assert batch["denominators"].tolist() == [4.0, 8.0]
    assert "forbidden" not in batch


def test_forbidden_ids_are_padded_with_minus_one():
    free, bound = sampled(prompt(2), policy(3)), sampled(prompt(2), policy(3), forbidden_ids=(13, 14))
    batch = collate([free, bound], np.ones(2, np.float32), pad_id=0)
    assert batch["forbidden"].tolist() == [[-1, -1], [13, 14]]


def test_no_rows_give_a_row_that_trains_nothing_and_looks_like_any_other():
    batch = collate([], np.empty(0, np.float32), pad_id=7)
    assert {name: tensor.shape[0] for name, tensor in batch.items()} == dict.fromkeys(batch, 1)
    assert (batch["completion_ids"].tolist(), batch["codes"].tolist()) == ([[7]], [[N]])
    assert batch["advantages"].tolist() == [[0.0]]
    real = collate([SHORT], np.ones(1, np.float32), pad_id=0)
    assert {k: v.dtype for k, v in batch.items()} == {k: v.dtype for k, v in real.items()}


def helped() -> list[Row]:
    """A trace of 3 + 2 policy tokens, as sampled and distilled."""
    whole = trace(prompt(2), policy(4, 13, 5), agent(6), policy(7, 8), consults=(consult(1, 1, 2),))
    cut = distil(whole, Tags((13,)))
    assert cut is not None
    return [*rows_of(whole), cut]


def test_totals_count_sampled_rows_and_their_policy_tokens():
    totals = TokenTotals.of([SHORT, LONG, *helped()])
    assert totals == TokenTotals(rows=3, policy_tokens=1 + 2 + 5, agent_tokens=0 + 1 + 1)


@pytest.mark.parametrize(
    ("objectives", "counted", "expected"),
    [
        (("dapo", "cispo"), "policy", [4.0, 4.0, 4.0, 4.0]),  # 8 tokens, half of them in each optimizer step
        (("dapo", "cispo"), "union", [5.0, 5.0, 5.0, 5.0]),  # and 2 of agents
        (("grpo", "gspo"), "policy", [1.5, 3.0, 7.5, 7.5]),  # own tokens × 3 rows / 2
        (("grpo", "gspo"), "union", [1.5, 4.5, 9.0, 9.0]),  # LONG has one of an agent, and so has the third
        (("dr_grpo",), "policy", [150.0, 150.0, 150.0, 150.0]),  # 100 tokens × 3 rows / 2
    ],
)
def test_denominators(objectives: tuple[str, ...], counted: str, expected: list[float]):
    rows = [SHORT, LONG, *helped()]
    how = {"totals": TokenTotals.of(rows), "minibatches": 2, "max_completion_length": 100}
    for objective in objectives:
        method = tiny.method(objective=objective, denominator=counted)
        assert denominators(rows, method, **how).tolist() == expected


def test_an_exchanged_row_has_the_denominator_of_its_trace_which_counts_once():
    rows = exchange_prompt(trace(prompt(2), policy(4, 5), agent(6)), prompt(9))
    totals = TokenTotals.of([SHORT, *rows])
    assert totals == TokenTotals(rows=2, policy_tokens=1 + 2, agent_tokens=1)
    how = {"totals": totals, "minibatches": 1, "max_completion_length": 10}
    assert denominators(rows, tiny.method(objective="grpo"), **how).tolist() == [4.0, 4.0]


def test_rows_that_have_a_gradient():
    """With an advantage, with a KL term, or with agents' tokens that are learned without regard to the advantage."""
    dead = [
        sampled(prompt(2), policy(3), advantage=0.0),
        sampled(prompt(2), policy(3), agent(4), advantage=0.0),
    ]
    rows = [SHORT, *dead]
    assert with_gradient(rows, tiny.method()) == [SHORT]
    assert with_gradient(rows, tiny.method(beta=0.1)) == rows
    assert with_gradient(rows, tiny.method(coefficient="echo")) == [SHORT, dead[1]]
    assert with_gradient([SHORT], tiny.method(coefficient="ratio")) == [SHORT]
    _, exchanged = exchange_prompt(trace(prompt(2), policy(4), agent(6), advantage=0.5), prompt(9))
    with pytest.raises(TrainError, match="log-probs of agent 'knowledge' by its own model: got none"):
        with_gradient([exchanged], tiny.method(coefficient="ratio"))
    with pytest.raises(TrainError, match="log-probs of agent 'knowledge' by its own model: got none"):
        with_gradient([SHORT, LONG], tiny.method(coefficient="ratio"))


def test_agents_are_numbered_in_the_order_of_their_settings():
    rows = [
        sampled(prompt(2, 3), policy(4), agent(5, 6, source="verify"), env(7), agent(8, source="knowledge")),
        sampled(prompt(2), agent(3, source="reasoning"), agent(4)),
    ]
    method = tiny.method(agents={"knowledge": {"coefficient": "pi"}, "verify": {}})
    assert agent_numbers(rows, method).tolist() == [[0, 2, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert agent_numbers([], method).tolist() == [[0]]
    assert [row.agents for row in rows] == [{"verify", "knowledge"}, {"reasoning", "knowledge"}]


def test_each_agent_teaches_and_needs_log_probs_as_its_own_settings_say():
    rows = [sampled(prompt(2), policy(3), agent(4, source=source), advantage=0.0) for source in ("a", "b")]
    assert (
        with_gradient(rows, tiny.method(coefficient="mask", agents={"b": {"coefficient": "echo"}}))
        == rows[1:]
    )
    live = [sampled(prompt(2), policy(3), agent(4, source=source), advantage=1.0) for source in ("a", "b")]
    ratio = tiny.method(coefficient="mask", agents={"b": {"coefficient": "ratio"}})
    assert with_gradient(live[:1], ratio) == live[:1]
    with pytest.raises(TrainError, match="log-probs of agent 'b' by its own model: got none"):
        with_gradient(live, ratio)


def test_denominators_are_never_zero():
    silent = sampled(prompt(2), agent(3))
    how = {"totals": TokenTotals.of([silent]), "minibatches": 1, "max_completion_length": 10}
    assert denominators([silent], tiny.method(objective="grpo"), **how).tolist() == pytest.approx([1e-6])
