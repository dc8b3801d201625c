"""Coefficients: weights against literals, gradients against autograd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo.method.coefficients import COEFFICIENTS, Known
from aipo.method.loss import LossInputs, LossSettings, aipo_loss
from aipo.method.rows import Code
from aipo.method.weighing import NEGATIVES, Weighing, agent_weights
from aipo.policies.logprobs import token_logprobs

PI = torch.tensor([[0.001, 0.05, 0.5, 1.0]])
MU = torch.tensor([[0.002, 0.01, 0.5, torch.nan]])
OLD = torch.tensor([[0.001, 0.01, 0.5, 0.2]])
UP = torch.tensor([[1.0]])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mask", None, [0, 0, 0, 0]),
        ("pi", None, [0.001, 0.05, 0.5, 1]),
        ("luffy", None, [0.1 * 0.001 / 0.101**2, 0.1 * 0.05 / 0.15**2, 0.1 * 0.5 / 0.6**2, 0.1 / 1.1**2]),
        ("luffy", 0.5, [0.5 * 0.001 / 0.501**2, 0.5 * 0.05 / 0.55**2, 0.25, 0.5 / 1.5**2]),
        # 2π/(1.5·π_old + ½)·√(1 − π)
        (
            "rlplus",
            None,
            [0.002 / 0.5015 * 0.999**0.5, 0.1 / 0.515 * 0.95**0.5, 1 / 1.25 * 0.5**0.5, 0.0],
        ),
        ("floor", None, [0.3, 0.3, 0.5, 1]),
        ("floor", 0.1, [0.1, 0.1, 0.5, 1]),
        ("power", None, [0.1, 0.05**0.5, 0.5**0.5, 1]),  # √0.001 = 0.03 is below the floor of 0.1
        ("power", 0.0, [1, 1, 1, 1]),
        ("power", 1.0, [0.1, 0.1, 0.5, 1]),
        ("constant", None, [1, 1, 1, 1]),
        ("constant", 0.25, [0.25, 0.25, 0.25, 0.25]),
        ("echo", None, [0.05, 0.05, 0.05, 0.05]),
        ("ratio", None, [0.5, 2.0, 1.0, 0.0]),  # 0.05/0.01 = 5, at most 2; μ of the last one is not known
    ],
)
def test_weights_where_the_advantage_is_positive(name: str, value: float | None, expected: list[float]):
    made = agent_weights(Known(PI, MU, OLD), UP, Weighing(coefficient=name, coefficient_value=value))
    torch.testing.assert_close(made.weights, torch.tensor([expected], dtype=torch.float32))


def test_luffys_weight_is_the_slope_of_its_shaping():
    pi = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((pi / (pi + 0.1)).sum(), pi)
    made = COEFFICIENTS["luffy"].weight(Known(pi, pi, pi), 0.1)
    torch.testing.assert_close(made, slope * pi)  # dπ = π·d log π
    assert made.max().item() <= 0.25


def test_powers_weight_is_the_slope_of_what_it_maximises():
    pi = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(((pi**0.3 - 1) / 0.3).sum(), pi)
    torch.testing.assert_close(COEFFICIENTS["power"].weight(Known(pi, pi, pi), 0.3), slope * pi)


@pytest.mark.parametrize(
    ("alpha", "low", "name", "value"),
    [(1.0, 0.0, "pi", None), (1.0, 0.3, "floor", 0.3), (0.0, None, "constant", 1.0)],
)
def test_the_family_holds_its_neighbours(alpha: float, low: float | None, name: str, value: float | None):
    family = Weighing(coefficient="power", coefficient_value=alpha, coefficient_clip_low=low)
    neighbour = Weighing(coefficient=name, coefficient_value=value)
    made, expected = (agent_weights(Known(PI, MU, OLD), UP, how).weights for how in (family, neighbour))
    assert torch.equal(made, expected)


@given(alpha=st.floats(0, 1), low=st.floats(0, 1), pi=st.floats(1e-8, 1))
def test_no_member_of_the_family_vanishes_or_outweighs_a_policy_token(alpha: float, low: float, pi: float):
    how = Weighing(coefficient="power", coefficient_value=alpha, coefficient_clip_low=low)
    known = Known(*(torch.tensor([[pi]], dtype=torch.float64),) * 3)
    assert low <= agent_weights(known, UP, how).weights.item() <= 1


def expected_weight(name: str, pi: float, mu: float, old: float) -> float:
    return {
        "mask": 0.0,
        "pi": pi,
        "luffy": 0.1 * pi / (pi + 0.1) ** 2,
        "rlplus": 2 * pi / (old + 0.5 * (old + 1)) * math.sqrt(1 - pi),
        "floor": max(pi, 0.3),
        "power": max(math.sqrt(pi), 0.1),
        "constant": 1.0,
        "echo": 0.05,
        "ratio": min(pi / mu, 2.0),
    }[name]


@given(
    name=st.sampled_from(sorted(COEFFICIENTS)),
    rule=st.sampled_from(sorted(NEGATIVES)),
    advantage=st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3),
    logprob=st.floats(-12, -1e-3),
    mu=st.floats(-12, 0),
    old=st.floats(-12, 0),
)
def test_gradient_and_value_of_a_token(
    name: str, rule: str, advantage: float, logprob: float, mu: float, old: float
):
    """∂loss/∂log π = −A·w and the value is −A·w, with A = 1 where it has no say: the closed form, against autograd."""
    rule = "zero" if name == "mask" else rule  # another one is refused
    settings = LossSettings(coefficient=name, negative=rule)
    logprobs = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    output = aipo_loss(
        LossInputs(
            logprobs_B_T=logprobs,
            entropies_B_T=torch.zeros(1, 1),
            behaviour_B_T=torch.tensor([[mu]], dtype=torch.float64),
            codes_B_T=torch.full((1, 1), Code.AGENT, dtype=torch.int8),
            advantages_B=torch.tensor([advantage], dtype=torch.float64),
            denominators_B=torch.ones(1, dtype=torch.float64),
            trainer_B_T=torch.tensor([[old]], dtype=torch.float64),
        ),
        settings,
    )
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    pi = math.exp(logprob)
    weight = expected_weight(name, pi, math.exp(mu), math.exp(old))
    if advantage < 0:
        weight = {"zero": 0.0, "pi": pi, "floor": max(pi, 0.1), "same": weight}[rule]
    held = 1.0 if name == "echo" else advantage
    assert output.loss.item() == pytest.approx(-held * weight, rel=1e-9, abs=1e-15)
    assert gradient.item() == pytest.approx(-held * weight, rel=1e-9, abs=1e-15)
    assert output.weights_B_T.item() == pytest.approx(weight, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", sorted(COEFFICIENTS.keys() - {"ratio"}))
def test_a_tokens_own_logit_moves_by_w_times_one_minus_pi(name: str):
    """What the picture of weights draws, through a softmax over 5 tokens."""
    torch.manual_seed(0)
    logits = (2 * torch.randn(1, 3, 5, dtype=torch.float64)).requires_grad_()
    ids = torch.tensor([[0, 1, 2]])
    logprobs, entropies = token_logprobs(logits, ids, temperature=1.0, forbidden_B_F=None)
    given = LossInputs(
        logprobs_B_T=logprobs,
        entropies_B_T=entropies,
        behaviour_B_T=torch.full((1, 3), torch.nan),
        codes_B_T=torch.full((1, 3), Code.AGENT, dtype=torch.int8),
        advantages_B=torch.ones(1),
        denominators_B=torch.ones(1),
        trainer_B_T=logprobs.detach(),
    )
    (slopes,) = torch.autograd.grad(aipo_loss(given, LossSettings(coefficient=name)).loss, logits)
    for t, logprob in enumerate(logprobs[0].tolist()):
        pi = math.exp(logprob)
        assert slopes[0, t, t].item() == pytest.approx(
            -expected_weight(name, pi, 1.0, pi) * (1 - pi), rel=1e-5
        )


def test_every_coefficient_has_a_line_of_text():
    assert all(c.text for c in COEFFICIENTS.values())
