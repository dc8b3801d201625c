"""Weights of agents' tokens against literals, gradients against autograd; a coefficient from a file."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aipo.errors import ConfigError, LoadError
from aipo.method.agent_weights import (
    COEFFICIENTS,
    NEGATIVES,
    AgentWeights,
    Probabilities,
    agent_weights,
    coefficient_of,
)
from aipo.method.loss import LossInputs, aipo_loss
from aipo.method.rows import Code
from aipo.method.settings import MethodSettings
from aipo.policies.logprobs import token_logprobs

PI = torch.tensor([[0.001, 0.05, 0.5, 1.0]])
MU = torch.tensor([[0.002, 0.01, 0.5, torch.nan]])
OLD = torch.tensor([[0.001, 0.01, 0.5, 0.2]])
UP, LEVEL, DOWN = (torch.tensor([[advantage]]) for advantage in (1.0, 0.0, -1.0))


def weighed(
    advantages: torch.Tensor, *, mu: torch.Tensor = MU, old: torch.Tensor = PI, **settings: Any
) -> AgentWeights:
    """Weights where the coefficient is 1, unless the settings name another one."""
    method = MethodSettings(**({"coefficient": "constant"} | settings))
    return agent_weights(Probabilities(PI, mu, old), advantages, method)


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
    made = agent_weights(
        Probabilities(PI, MU, OLD), UP, MethodSettings(coefficient=name, coefficient_value=value)
    )
    torch.testing.assert_close(made.weights, torch.tensor([expected], dtype=torch.float32))


def test_luffys_weight_is_the_slope_of_its_shaping():
    pi = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((pi / (pi + 0.1)).sum(), pi)
    made = COEFFICIENTS["luffy"].weight(pi, 0.1)
    torch.testing.assert_close(made, slope * pi)  # dπ = π·d log π
    assert made.max().item() <= 0.25


def test_powers_weight_is_the_slope_of_what_it_maximises():
    pi = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(((pi**0.3 - 1) / 0.3).sum(), pi)
    torch.testing.assert_close(COEFFICIENTS["power"].weight(pi, 0.3), slope * pi)


@pytest.mark.parametrize(
    ("alpha", "low", "name", "value"),
    [(1.0, 0.0, "pi", None), (1.0, 0.3, "floor", 0.3), (0.0, None, "constant", 1.0)],
)
def test_the_family_holds_its_neighbours(alpha: float, low: float | None, name: str, value: float | None):
    family = MethodSettings(coefficient="power", coefficient_value=alpha, coefficient_clip_low=low)
    neighbour = MethodSettings(coefficient=name, coefficient_value=value)
    made, expected = (
        agent_weights(Probabilities(PI, MU, OLD), UP, how).weights for how in (family, neighbour)
    )
    assert torch.equal(made, expected)


@given(alpha=st.floats(0, 1), low=st.floats(0, 1), pi=st.floats(1e-8, 1))
def test_no_member_of_the_family_vanishes_or_outweighs_a_policy_token(alpha: float, low: float, pi: float):
    how = MethodSettings(coefficient="power", coefficient_value=alpha, coefficient_clip_low=low)
    known = Probabilities(*(torch.tensor([[pi]], dtype=torch.float64),) * 3)
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
    settings = MethodSettings(coefficient=name, negative=rule)
    logprobs = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    output = aipo_loss(
        LossInputs(
            logprobs_B_T=logprobs,
            entropies_B_T=torch.zeros(1, 1),
            behaviour_logprobs_B_T=torch.tensor([[mu]], dtype=torch.float64),
            codes_B_T=torch.full((1, 1), Code.AGENT, dtype=torch.int8),
            advantages_B=torch.tensor([advantage], dtype=torch.float64),
            denominators_B=torch.ones(1, dtype=torch.float64),
            trainer_logprobs_B_T=torch.tensor([[old]], dtype=torch.float64),
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
        behaviour_logprobs_B_T=torch.full((1, 3), torch.nan),
        codes_B_T=torch.full((1, 3), Code.AGENT, dtype=torch.int8),
        advantages_B=torch.ones(1),
        denominators_B=torch.ones(1),
        trainer_logprobs_B_T=logprobs.detach(),
    )
    (slopes,) = torch.autograd.grad(aipo_loss(given, MethodSettings(coefficient=name)).loss, logits)
    for t, logprob in enumerate(logprobs[0].tolist()):
        pi = math.exp(logprob)
        assert slopes[0, t, t].item() == pytest.approx(
            -expected_weight(name, pi, 1.0, pi) * (1 - pi), rel=1e-5
        )


# Bounds, rules for A < 0 and the trust region


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("zero", [0, 0, 0, 0]),
        ("pi", [0.001, 0.05, 0.5, 1]),
        ("floor", [0.1, 0.1, 0.5, 1]),
        ("same", [0.3, 0.3, 0.5, 1]),
    ],
)
def test_weights_where_the_advantage_is_negative(rule: str, expected: list[float]):
    made = weighed(DOWN, coefficient="floor", negative=rule)
    torch.testing.assert_close(made.weights, torch.tensor([expected], dtype=torch.float32))
    assert made.advantages.tolist() == [[-1.0]]
    for other in (UP, LEVEL):  # the rule has no say there
        kept = weighed(other, coefficient="floor", negative=rule).weights
        torch.testing.assert_close(kept, torch.tensor([[0.3, 0.3, 0.5, 1]]))


def test_every_row_has_its_own_sign():
    made = agent_weights(
        Probabilities(*(PI[:, :2].expand(2, 2),) * 3),
        torch.tensor([[2.0], [-2.0]]),
        MethodSettings(coefficient="constant"),
    )
    assert made.weights.tolist() == [[1, 1], [0, 0]]


def test_the_clip_bounds_the_weight_and_says_where():
    made = weighed(UP, coefficient="pi", coefficient_clip_low=0.1, coefficient_clip_high=0.6)
    torch.testing.assert_close(made.weights, torch.tensor([[0.1, 0.1, 0.5, 0.6]]))
    assert made.clipped.tolist() == [[True, True, False, True]]
    assert not weighed(DOWN, coefficient="pi", coefficient_clip_low=0.1).clipped.any()


def test_the_ratio_is_bounded_and_zero_where_mu_is_not_known():
    made = weighed(UP, coefficient="ratio")
    torch.testing.assert_close(made.weights, torch.tensor([[0.5, 2.0, 1.0, 0.0]]))  # 0.05/0.01 = 5, at most 2
    assert made.clipped.tolist() == [[False, True, False, False]]
    bounded = weighed(UP, coefficient="ratio", coefficient_clip_low=0.7, coefficient_clip_high=4.0)
    torch.testing.assert_close(bounded.weights, torch.tensor([[0.7, 4.0, 1.0, 0.0]]))
    assert bounded.clipped.tolist() == [[True, True, False, False]]
    for rule in NEGATIVES:
        assert weighed(DOWN, coefficient="ratio", negative=rule).weights[0, 3] == 0
    unknown = torch.full_like(PI, torch.nan)
    assert weighed(UP, mu=unknown, coefficient="ratio").weights.tolist() == [[0.0] * 4]


def test_the_ratio_to_a_certain_model_is_pi():
    certain = torch.ones_like(PI)
    for rule, row in ((rule, row) for rule in NEGATIVES for row in (UP, DOWN)):
        ratio = weighed(row, mu=certain, coefficient="ratio", negative=rule)
        torch.testing.assert_close(ratio, weighed(row, coefficient="pi", negative=rule))


def test_one_bound_is_enough():
    assert weighed(UP, coefficient="pi", coefficient_clip_low=0.1).weights[0, 0].item() == pytest.approx(0.1)
    assert weighed(UP, coefficient="pi", coefficient_clip_high=0.1).weights[0, 3].item() == pytest.approx(0.1)


def test_the_trust_region_takes_weights_away_on_the_side_to_which_they_push():
    """π over π_old is ½, 5, 1 and ¼, and the region [2/3, 1.5]; a weight that was 0 is not taken away."""
    old = torch.tensor([[0.002, 0.01, 0.5, 4.0]])
    up = weighed(UP, old=old, coefficient_trust=0.5)
    assert (up.weights.tolist(), up.clipped.tolist()) == ([[1, 0, 1, 1]], [[False, True, False, False]])
    down = weighed(DOWN, old=old, coefficient_trust=0.5, negative="same")
    assert (down.weights.tolist(), down.clipped.tolist()) == ([[0, 1, 1, 0]], [[True, False, False, True]])
    assert not weighed(DOWN, old=old, coefficient_trust=0.5).clipped.any()
    # ECHO pushes up whatever the advantage is
    echo = weighed(DOWN, old=old, coefficient_trust=0.5, coefficient="echo", negative="same")
    assert echo.advantages.tolist() == [[1.0]]
    assert echo.clipped.tolist() == [[False, True, False, False]]


def test_what_needs_pi_old():
    assert not MethodSettings(coefficient="constant").needs_trainer_logprobs
    assert MethodSettings(coefficient="rlplus").needs_trainer_logprobs
    assert MethodSettings(coefficient="constant", coefficient_trust=0.5).needs_trainer_logprobs
    assert [name for name, one in COEFFICIENTS.items() if one.needs_mu] == ["ratio"]


def test_the_picture_shows_every_coefficient_and_rule():
    picture = (Path(__file__).parents[1] / "benchmarks" / "weights.png").read_bytes()
    text = picture.index(b"tEXtCharts\0")  # a chunk is its length, its kind and its data
    length = int.from_bytes(picture[text - 4 : text])
    titles = set(picture[text + 4 : text + 4 + length].decode().partition("\0")[2].splitlines())
    assert titles == {
        *(f"{name}, A > 0" for name in COEFFICIENTS),
        *(f"A < 0, rule {name}" for name in NEGATIVES if name != "same"),
    }


# A coefficient from a file

HALF = """
def half(pi, mu, pi_old, advantage, value=0.5):
    return value * pi * (advantage > 0) + 0 * mu * pi_old

def bare(pi):
    return 1 - pi

def asks(pi, entropy):
    return pi

def no_default(pi, value):
    return pi

def one_number(pi):
    return pi.sum()

def nothing(pi):
    return None
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(HALF)
    return path


def test_a_users_function_is_a_coefficient(file: Path):
    made = weighed(UP, mu=PI, coefficient=f"{file}:half")
    torch.testing.assert_close(made.weights, PI / 2)
    assert not weighed(DOWN, mu=PI, coefficient=f"{file}:half", negative="same").weights.any()
    bounded = weighed(UP, mu=PI, coefficient=f"{file}:half", coefficient_value=2.0, coefficient_clip_high=1.5)
    torch.testing.assert_close(bounded.weights, torch.tensor([[0.002, 0.1, 1.0, 1.5]]))
    half, bare = (MethodSettings(coefficient=f"{file}:{name}") for name in ("half", "bare"))
    assert half.coefficient_function.needs_mu and half.needs_trainer_logprobs
    assert not bare.coefficient_function.needs_mu and not bare.needs_trainer_logprobs


def test_an_edit_does_not_reach_a_run_that_has_begun(file: Path):
    method = MethodSettings(coefficient=f"{file}:bare")
    before = agent_weights(Probabilities(PI, MU, OLD), UP, method).weights
    file.write_text("def bare(pi):\n    return pi * 0 + 7\n")
    assert agent_weights(Probabilities(PI, MU, OLD), UP, method).weights.equal(before)
    file.unlink()
    assert agent_weights(Probabilities(PI, MU, OLD), UP, method).weights.equal(before)


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        ("asks", None, "arguments of coefficient {}: got ['entropy'], allowed ['pi', 'mu', 'pi_old', "),
        ("no_default", None, "argument `value` of coefficient {}: got no default, allowed a number"),
        ("one_number", None, "weights of coefficient {}: got torch.float32 of shape [], allowed floating-"),
        ("nothing", None, "weights of coefficient {}: got None, allowed floating-point numbers"),
        ("bare", 0.5, "coefficient_value: got 0.5 with '{}', which takes none"),
    ],
)
def test_a_function_that_cannot_be_a_coefficient_is_refused(
    file: Path, function: str, value: float | None, message: str
):
    name = f"{file}:{function}"
    with pytest.raises(ConfigError, match=re.escape(message.format(name))):
        coefficient_of(name, value)


def test_a_file_that_is_missing_is_an_error_when_the_coefficient_is_used():
    method = MethodSettings(
        coefficient="nowhere.py:mine"
    )  # a recorded configuration can be read without the file
    with pytest.raises(LoadError, match=r"file: got 'nowhere\.py'"):
        _ = method.coefficient_function
    with pytest.raises(LoadError, match=r"module of 'no\.such\.module:mine'"):
        coefficient_of("no.such.module:mine", None)
