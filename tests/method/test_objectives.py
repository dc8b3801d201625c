"""Objectives: values and gradients against literals and closed forms; TRL's own are in test_trainer.py."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aipo.errors import ConfigError
from aipo.method.objectives import (
    OBJECTIVES,
    Clip,
    Sampled,
    Terms,
    check_denominator,
    cispo,
    clip_of,
    ppo_clip,
)

CLIP = Clip(0.2, 0.28)
KEEP = CLIP._replace(keeps_gradient=True)
STOPPING = sorted(name for name, one in OBJECTIVES.items() if one.stops)


def sampled(
    ratios: list[list[float]], advantages: list[float], policy: list[list[bool]] | None = None
) -> Sampled:
    """Tokens with these ratios to π_old = 0.01."""
    ratio = torch.tensor(ratios, dtype=torch.float64)
    own = torch.ones_like(ratio, dtype=torch.bool) if policy is None else torch.tensor(policy)
    logprobs = (0.01 * ratio).log().requires_grad_()
    log_ratio = torch.where(own, logprobs - math.log(0.01), 0.0)
    return Sampled(logprobs, log_ratio, own, torch.tensor(advantages, dtype=torch.float64)[:, None])


def gradient(made: Terms, own: Sampled) -> list[list[float]]:
    loss = made.terms[own.policy].sum()
    return torch.autograd.grad(loss, own.logprobs, retain_graph=True)[0].tolist()


def numbers(tensor: Tensor) -> list[list[float]]:
    return [[pytest.approx(x) for x in row] for row in tensor.tolist()]


def test_ppos_clip():
    """A = 2 and −2; ratios below, within and above [0.8, 1.28]."""
    own = sampled([[0.5, 1.1, 1.5], [0.5, 1.1, 1.5]], [2.0, -2.0])
    made = ppo_clip(own, CLIP)
    assert numbers(made.terms) == [[-1.0, -2.2, -2.56], [1.6, 2.2, 3.0]]
    assert numbers(torch.tensor(gradient(made, own))) == [[-1.0, -2.2, 0.0], [0.0, 2.2, 3.0]]
    assert numbers(made.weights) == [[0.5, 1.1, 0.0], [0.0, 1.1, 1.5]]
    assert made.clipped.tolist() == [[False, False, True], [True, False, False]]


def test_a_clip_that_keeps_the_gradient_has_the_same_value():
    """GPPO: the gradient of a clipped token is (1 ± ε)·A·∇log π, of any other that of PPO."""
    own = sampled([[0.5, 1.1, 1.5], [0.5, 1.1, 1.5]], [2.0, -2.0])
    made = ppo_clip(own, KEEP)
    assert numbers(ppo_clip(own, CLIP).terms) == made.terms.tolist()
    assert numbers(torch.tensor(gradient(made, own))) == [[-1.0, -2.2, -2.56], [1.6, 2.2, 3.0]]
    assert numbers(made.weights) == [[0.5, 1.1, 1.28], [0.8, 1.1, 1.5]]
    assert made.clipped.tolist() == [[False, False, True], [True, False, False]]


@given(
    objective=st.sampled_from(STOPPING),
    log_ratios=st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    advantage=st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3),
    low=st.floats(1e-3, 0.9),
    high=st.floats(1e-3, 4),
)
def test_keeping_the_gradient_changes_clipped_tokens_alone(
    objective: str, log_ratios: list[float], advantage: float, low: float, high: float
):
    own = sampled([[math.exp(x) for x in log_ratios]], [advantage])
    rule = OBJECTIVES[objective].terms
    stops, keeps = rule(own, Clip(low, high)), rule(own, Clip(low, high, True))
    torch.testing.assert_close(stops.terms, keeps.terms)
    assert torch.equal(stops.clipped, keeps.clipped)
    bound = 1 + high if advantage > 0 else 1 - low
    slopes = zip(gradient(stops, own)[0], gradient(keeps, own)[0], stops.clipped[0].tolist(), strict=True)
    for stopped, kept, clipped in slopes:
        assert stopped == pytest.approx(0.0 if clipped else kept)
        if clipped:
            assert kept == pytest.approx(-advantage * bound)


def test_a_sequences_ratio_is_the_geometric_mean_of_its_policy_tokens():
    """√(0.5 · 2.42) = 1.1 and √(4 · 1) = 2; what an agent wrote, 100 times as likely as before, has no say."""
    own = sampled(
        [[0.5, 100.0, 2.42], [4.0, 1.0, 100.0]], [2.0, 2.0], [[True, False, True], [True, True, False]]
    )
    made = OBJECTIVES["gspo"].terms(own, CLIP)
    assert made.ratios[own.policy].tolist() == pytest.approx([1.1, 1.1, 2.0, 2.0])
    assert made.terms[own.policy].tolist() == pytest.approx([-2.2, -2.2, -2.56, -2.56])
    # ∂/∂log π of the mean over 2 tokens of 2·s is s for each, and so it is of the sum with the denominator 2
    assert numbers(torch.tensor(gradient(made, own))) == [[-2.2, 0.0, -2.2], [0.0, 0.0, 0.0]]
    assert made.weights[own.policy].tolist() == pytest.approx([1.1, 1.1, 0.0, 0.0])
    assert made.clipped.tolist() == [[False, False, False], [True, True, False]]
    kept = OBJECTIVES["gspo"].terms(own, KEEP)
    assert numbers(torch.tensor(gradient(kept, own))) == [[-2.2, 0.0, -2.2], [-2.56, -2.56, 0.0]]


def test_a_row_without_policy_tokens_has_no_ratio():
    own = sampled([[100.0, 3.0]], [1.0], [[False, False]])
    made = OBJECTIVES["gspo"].terms(own, CLIP)
    assert made.terms.isfinite().all() and not made.clipped.any()


def test_cispo_clips_the_weight_and_keeps_the_gradient():
    """A = 2 and −2, no lower bound and 1.28 above: on both signs."""
    own = sampled([[0.5, 1.1, 1.5], [0.5, 1.1, 1.5]], [2.0, -2.0])
    made = cispo(own, Clip(math.inf, 0.28))
    assert numbers(made.weights) == [[0.5, 1.1, 1.28], [0.5, 1.1, 1.28]]
    assert numbers(torch.tensor(gradient(made, own))) == [[-1.0, -2.2, -2.56], [1.0, 2.2, 2.56]]
    assert made.terms[0, 0].item() == pytest.approx(-0.5 * 2 * math.log(0.005))
    assert made.clipped.tolist() == [[False, False, True], [False, False, True]]
    assert cispo(own, Clip(0.2, 0.28)).weights[0].tolist() == pytest.approx([0.8, 1.1, 1.28])


def test_bounds_are_the_objectives_own_unless_given():
    def bounds(objective: str, low: float | None = None, high: float | None = None) -> Clip:
        return clip_of(objective, low, high, keeps_gradient=False)

    assert {name: bounds(name)[:2] for name in OBJECTIVES} == {
        "grpo": (0.2, 0.2),
        "dapo": (0.2, 0.28),
        "dr_grpo": (0.2, 0.2),
        "gspo": (3e-4, 4e-4),
        "cispo": (math.inf, 4.0),
    }
    assert bounds("gspo", low=0.1)[:2] == (0.1, 4e-4)
    assert bounds("cispo", low=0.1, high=0.3)[:2] == (0.1, 0.3)


def test_trl_counts_cispos_bound_from_zero():
    """ScaleRL's ε_max of 5 is a bound of 1 + 4."""
    assert OBJECTIVES["cispo"].trl(clip_of("cispo", None, None, keeps_gradient=False)) == {
        "loss_type": "cispo",
        "importance_sampling_level": "token",
        "epsilon_high": 5.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "ppo"}, "objective: got 'ppo', allowed"),
        ({"low": -0.1}, "clip_low: got -0.1, allowed >= 0"),
        ({"high": math.nan}, "clip_high: got nan, allowed >= 0"),
        ({"objective": "cispo", "keeps_gradient": True}, "allowed with .*'dapo', 'dr_grpo', 'grpo', 'gspo'"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(given: dict, message: str):
    settings: dict = {"objective": "dapo", "low": None, "high": None, "keeps_gradient": False}
    with pytest.raises(ConfigError, match=message):
        clip_of(**(settings | given))


def test_a_union_needs_tokens_that_are_counted():
    for objective in OBJECTIVES:
        check_denominator(objective, "policy")
    for objective in ("grpo", "dapo", "gspo", "cispo"):
        check_denominator(objective, "union")
    with pytest.raises(ConfigError, match="got 'union' with objective 'dr_grpo', which counts no tokens"):
        check_denominator("dr_grpo", "union")
    with pytest.raises(ConfigError, match="denominator: got 'agents', allowed"):
        check_denominator("dapo", "agents")


def test_every_objective_has_a_line_of_text():
    assert all(one.text for one in OBJECTIVES.values())
