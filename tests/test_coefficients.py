"""Coefficients: weights against literals, gradients against autograd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo.coefficients import COEFFICIENTS, NEGATIVES, agent_weights
from aipo.errors import ConfigError
from aipo.loss import LossInputs, LossSettings, aipo_loss
from aipo.row import Code

PI = torch.tensor([[0.001, 0.05, 0.5, 1.0]])
UP, DOWN = torch.tensor([[1.0]]), torch.tensor([[-1.0]])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mask", None, [0, 0, 0, 0]),
        ("pi", None, [0.001, 0.05, 0.5, 1]),
        ("floor", None, [0.3, 0.3, 0.5, 1]),
        ("floor", 0.1, [0.1, 0.1, 0.5, 1]),
        ("constant", None, [1, 1, 1, 1]),
        ("constant", 0.25, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_weights_where_the_advantage_is_positive(name: str, value: float | None, expected: list[float]):
    weights, clipped = agent_weights(PI, UP, coefficient=name, value=value)
    torch.testing.assert_close(weights, torch.tensor([expected], dtype=torch.float32))
    assert not clipped.any()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("zero", [0, 0, 0, 0]), ("pi", [0.001, 0.05, 0.5, 1]), ("same", [0.3, 0.3, 0.5, 1])],
)
def test_weights_where_the_advantage_is_negative(rule: str, expected: list[float]):
    weights, _ = agent_weights(PI, DOWN, coefficient="floor", negatives=rule)
    torch.testing.assert_close(weights, torch.tensor([expected], dtype=torch.float32))


def test_the_clip_bounds_the_weight_and_says_where():
    weights, clipped = agent_weights(PI, UP, coefficient="pi", clip_low=0.1, clip_high=0.6)
    torch.testing.assert_close(weights, torch.tensor([[0.1, 0.1, 0.5, 0.6]]))
    assert clipped.tolist() == [[True, True, False, True]]


MU = torch.tensor([[0.002, 0.01, 0.5, torch.nan]])


def test_the_ratio_is_bounded_and_zero_where_mu_is_not_known():
    weights, clipped = agent_weights(PI, UP, mu_B_T=MU, coefficient="ratio")
    torch.testing.assert_close(weights, torch.tensor([[0.5, 2.0, 1.0, 0.0]]))  # 0.05/0.01 = 5, at most 2
    assert clipped.tolist() == [[False, True, False, False]]
    bounded, clipped = agent_weights(PI, UP, mu_B_T=MU, coefficient="ratio", clip_low=0.7, clip_high=4.0)
    torch.testing.assert_close(bounded, torch.tensor([[0.7, 4.0, 1.0, 0.0]]))
    assert clipped.tolist() == [[True, True, False, False]]
    for rule in NEGATIVES:
        assert agent_weights(PI, DOWN, mu_B_T=MU, coefficient="ratio", negatives=rule)[0][0, 3] == 0
    assert agent_weights(PI, UP, coefficient="ratio")[0].tolist() == [[0.0] * 4]


def test_the_ratio_to_a_certain_model_is_pi():
    certain = torch.ones_like(PI)
    for rule, row in ((rule, row) for rule in NEGATIVES for row in (UP, DOWN)):
        ratio = agent_weights(PI, row, mu_B_T=certain, coefficient="ratio", negatives=rule)
        torch.testing.assert_close(ratio, agent_weights(PI, row, coefficient="pi", negatives=rule))


def test_one_bound_is_enough():
    assert agent_weights(PI, UP, coefficient="pi", clip_low=0.1)[0].tolist()[0][0] == pytest.approx(0.1)
    assert agent_weights(PI, UP, coefficient="pi", clip_high=0.1)[0].tolist()[0][3] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"coefficient": "sft"}, "coefficient: got 'sft', allowed"),
        ({"coefficient": "pi", "value": 0.1}, "value of coefficient 'pi': got 0.1, allowed none"),
        ({"coefficient": "pi", "negatives": "drop"}, "negatives: got 'drop', allowed"),
    ],
)
def test_unknown_names_are_refused(how: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        agent_weights(PI, UP, **how)


@given(
    name=st.sampled_from(sorted(COEFFICIENTS)),
    rule=st.sampled_from(sorted(NEGATIVES)),
    advantage=st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3),
    logprob=st.floats(-12, -1e-3),
    mu=st.floats(-12, 0),
)
def test_gradient_and_value_of_a_token(name: str, rule: str, advantage: float, logprob: float, mu: float):
    """∂loss/∂log π = −A·w and the value is −A·w: the closed form, against autograd."""
    settings = LossSettings(coefficient=name, negatives=rule)
    logprobs = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    output = aipo_loss(
        LossInputs(
            logprobs_B_T=logprobs,
            entropies_B_T=torch.zeros(1, 1),
            behaviour_B_T=torch.tensor([[mu]], dtype=torch.float64),
            codes_B_T=torch.full((1, 1), Code.AGENT, dtype=torch.int8),
            advantages_B=torch.tensor([advantage], dtype=torch.float64),
            denominators_B=torch.ones(1, dtype=torch.float64),
        ),
        settings,
    )
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    pi = torch.tensor(logprob, dtype=torch.float64).exp().item()
    ratio = min(math.exp(logprob - mu), 2.0)
    weight = {"mask": 0.0, "pi": pi, "floor": max(pi, 0.3), "constant": 1.0, "ratio": ratio}[name]
    if advantage < 0:
        weight = {"zero": 0.0, "pi": pi, "same": weight}[rule]
    assert output.loss.item() == pytest.approx(-advantage * weight, rel=1e-9, abs=1e-15)
    assert gradient.item() == pytest.approx(-advantage * weight, rel=1e-9, abs=1e-15)


def test_every_coefficient_has_a_line_of_text():
    assert all(c.text for c in COEFFICIENTS.values())
