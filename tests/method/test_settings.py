"""Settings of a method: what is refused, and what follows from them."""

import math
import re
from typing import Any

import pytest

from aipo.method.objectives import OBJECTIVES, Clip
from aipo.method.settings import MethodSettings

REFUSED: list[tuple[dict[str, object], str]] = [
    ({"coefficient": "sft"}, "coefficient: got 'sft', allowed"),
    ({"coefficient": "pi", "coefficient_value": 0.1}, "got 0.1 with 'pi', which takes none"),
    ({"coefficient": "power", "coefficient_value": 1.5}, "got 1.5 with 'power', allowed 0 to 1"),
    ({"coefficient": "luffy", "coefficient_value": 0.0}, "got 0 with 'luffy', allowed 1e-06 to inf"),
    ({"coefficient": "constant", "coefficient_value": -1.0}, "got -1 with 'constant', allowed 0 to inf"),
    (
        {"coefficient_clip_low": 2.0, "coefficient_clip_high": 1.0},
        "coefficient_clip_low, coefficient_clip_high: got 2.0 and 1.0 for coefficient 'constant', allowed 0 <= low",
    ),
    ({"coefficient_clip_low": -1.0}, "coefficient_clip_high: got -1.0 and None"),
    ({"coefficient_clip_high": -1.0}, "coefficient_clip_high: got None and -1.0"),
    ({"coefficient_clip_low": math.nan}, "got nan, allowed finite numbers"),
    # Against the coefficient's own other bound.
    ({"coefficient": "ratio", "coefficient_clip_low": 3.0}, "coefficient_clip_high: got 3.0 and 2.0"),
    ({"coefficient": "power", "coefficient_clip_high": 0.05}, "coefficient_clip_high: got 0.1 and 0.05"),
    (
        {"coefficient": "mask", "coefficient_clip_low": 0.5},
        "coefficient_clip_low: got 0.5 with the coefficient mask, which teaches nothing, allowed null",
    ),
    ({"coefficient": "mask", "negative": "pi"}, 'negative: got "pi" with the coefficient mask'),
    ({"coefficient": "mask", "coefficient_trust": 1.0}, "_trust: got 1.0 with the coefficient mask"),
    (
        {"coefficient": "mask", "agent_prompt": "solo"},
        'agent_prompt: got "solo" with the coefficient mask, which teaches nothing, allowed "own"',
    ),
    (
        {"agent_prompt": "solo", "assist_share": 1.0},
        'agent_prompt: got "solo" where all rollouts have agents (assist_share), allowed "own"',
    ),
    (
        {"agents": {"verify": {"coefficient": "sft"}}},
        "agents.verify\n  Value error, coefficient: got 'sft', allowed",
    ),
    (
        {"agents": {"verify": {"coefficient_value": 0.5}}},
        "coefficient_value: got 0.5 with 'mask', which takes",
    ),
    (
        {"agents": {"verify": {"objective": "grpo"}}},
        "agents.verify.objective\n  Extra inputs are not permitted",
    ),
    (
        {"agents": {"verify": {"coefficient": "mask", "coefficient_trust": 1.0}}},
        "coefficient_trust: got 1.0 with the coefficient mask",
    ),
    (
        {
            "coefficient": "pi",
            "agents": {"verify": {"coefficient": "echo"}, "knowledge": {"coefficient": "floor"}},
        },
        "method.agents.verify.coefficient: got one that ignores the advantage beside one that does not, allowed",
    ),
    (
        {"plan": "expert", "agents": {"expert": {"coefficient": "ratio"}}},
        "got ratio with the plan expert, allowed one that",
    ),
    ({"coefficient": "ratio", "plan": "expert"}, "got ratio with the plan expert, allowed one that"),
    (
        {"objective": "cispo", "clip_keeps_gradient": True},
        "clip_keeps_gradient: got true with the objective cispo, whose clip takes no gradient away, allowed false",
    ),
    (
        {"objective": "dr_grpo", "denominator": "union"},
        'denominator: got "union" with the objective dr_grpo, which counts no tokens, allowed "policy"',
    ),
    ({"importance_mode": "mask"}, "importance_cap: got none, allowed > 1 where importance_mode is mask"),
    ({"importance_mode": "mask", "importance_cap": 1.0}, "importance_cap: got 1, allowed > 1"),
    ({"negative": "drop"}, "Input should be 'zero', 'pi', 'floor' or 'same'"),
    ({"clip_low": -0.1}, "Input should be greater than 0"),
    ({"clip_high": math.nan}, "Input should be greater than 0"),
    ({"coefficient_trust": 0.0}, "Input should be greater than 0"),
    ({"importance_cap": math.nan}, "Input should be greater than 0"),
    ({"beta": math.nan}, "Input should be greater than or equal to 0"),
    ({"grant_steps": 0.0}, "Input should be greater than 0"),
    ({"distil_weight": -1.0}, "Input should be greater than or equal to 0"),
]


@pytest.mark.parametrize(("how", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(how: dict[str, object], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        MethodSettings(**({"coefficient": "constant"} | how))  # type: ignore[arg-type]


def test_a_union_goes_with_every_objective_that_counts_tokens():
    for objective in OBJECTIVES.keys() - {"dr_grpo"}:
        assert MethodSettings(objective=objective, denominator="union").denominator == "union"


def test_bounds_are_the_objectives_own_unless_given():
    def bounds(objective: str, low: float | None = None, high: float | None = None) -> Clip:
        return MethodSettings(objective=objective, clip_low=low, clip_high=high).clip

    assert {name: bounds(name)[:2] for name in OBJECTIVES} == {
        "grpo": (0.2, 0.2),
        "dapo": (0.2, 0.28),
        "dr_grpo": (0.2, 0.2),
        "gspo": (3e-4, 4e-4),
        "cispo": (math.inf, 4.0),
    }
    assert bounds("gspo", low=0.1)[:2] == (0.1, 4e-4)
    assert bounds("cispo", low=0.1, high=0.3)[:2] == (0.1, 0.3)


@pytest.mark.parametrize(
    ("how", "needed", "scored"),
    [
        ({}, False, False),
        ({"coefficient": "constant"}, False, False),
        ({"coefficient": "constant", "coefficient_trust": 0.5}, True, True),
        ({"coefficient": "rlplus"}, True, True),
        ({"importance_cap": 2.0}, True, True),
        ({"max_mismatch": 0.1}, False, True),
        ({"agents": {"verify": {"coefficient": "rlplus"}}}, True, True),
        ({"agents": {"verify": {"coefficient": "pi", "coefficient_trust": 0.5}}}, True, True),
        ({"agents": {"verify": {"coefficient": "mask"}}}, False, False),
    ],
    ids=str,
)
def test_rows_are_scored_again_where_the_loss_or_the_limit_needs_it(
    how: dict[str, Any], needed: bool, scored: bool
):
    method = MethodSettings(**how)
    assert (method.needs_trainer_logprobs, method.scores_again) == (needed, scored)
    assert not method.coefficient_function.needs_mu


VERIFY = {"coefficient": "floor", "coefficient_value": 0.2, "negative": "pi", "coefficient_trust": 0.5}


def test_an_agents_settings_replace_all_the_general_ones():
    how = {"coefficient": "power", "coefficient_value": 0.25, "coefficient_trust": 1.0}
    method = MethodSettings(**how, agents={"verify": VERIFY, "reasoning": {}})  # type: ignore[arg-type]
    assert method.of_agent("knowledge") is method
    verify, reasoning = method.of_agent("verify"), method.of_agent("reasoning")
    assert verify.model_dump() == {**VERIFY, "coefficient_clip_low": None, "coefficient_clip_high": None}
    assert (reasoning.coefficient, reasoning.coefficient_trust) == ("mask", None)
    assert [method.of_agent(n).trains(-1.0) for n in ("knowledge", "verify", "reasoning")] == [
        False,
        True,
        False,
    ]
    assert [method.of_agent(n).trains(1.0) for n in ("knowledge", "verify", "reasoning")] == [
        True,
        True,
        False,
    ]


def test_demonstrations_may_have_a_coefficient_of_their_own():
    """Agents' log-probs can be had, those of a demonstration's author cannot."""
    expert = {"expert": {"coefficient": "constant"}}
    method = MethodSettings(plan="expert", coefficient="ratio", agents=expert)  # type: ignore[arg-type]
    assert (method.needs_mu("knowledge"), method.needs_mu("expert")) == (True, False)


@pytest.mark.parametrize(
    ("general", "agents", "signed"),
    [
        ("mask", {}, True),
        ("echo", {}, False),
        ("echo", {"verify": {"coefficient": "mask"}}, False),
        ("mask", {"verify": {"coefficient": "echo"}}, False),
        ("pi", {"verify": {"coefficient": "floor"}}, True),
    ],
)
def test_the_advantage_counts_for_all_agents_or_for_none(general: str, agents: dict[str, Any], signed: bool):
    assert MethodSettings(coefficient=general, agents=agents).signed is signed


def test_users_functions_are_named_with_their_keys_and_not_imported():
    method = MethodSettings(coefficient="mine.py:half", agents={"verify": {"coefficient": "other.py:f"}})  # type: ignore[arg-type]
    assert method.coefficient_files == {
        "method.coefficient": "mine.py:half",
        "method.agents.verify.coefficient": "other.py:f",
    }


def test_shares_at_their_largest():
    def most(**shares: float | None) -> tuple[float, bool]:
        method = MethodSettings(**shares)  # type: ignore[arg-type]
        return method.assist_share_most, method.suppresses

    assert most(assist_share=0.5, assist_share_end=0.0) == (0.5, False)
    assert most(assist_share=0.0, assist_share_end=0.25, suppress_share_end=0.1) == (0.25, True)
    assert most(assist_share=0.0, suppress_share=0.1, suppress_share_end=0.0) == (0.0, True)
