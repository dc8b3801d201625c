"""Weights of agents' tokens against literals; a coefficient from a file. Gradients are in test_loss.py."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aipo.errors import ConfigError, LoadError
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES, AgentWeights, Probabilities, agent_weights
from aipo.method.settings import MethodSettings

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
        ("rlplus", None, [0.002 / 0.5015 * 0.999**0.5, 0.1 / 0.515 * 0.95**0.5, 0.8 * 0.5**0.5, 0.0]),
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
    made = weighed(UP, old=OLD, coefficient=name, coefficient_value=value)
    torch.testing.assert_close(made.weights, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize(
    ("name", "value", "shaped"),
    [("luffy", 0.1, lambda pi: pi / (pi + 0.1)), ("power", 0.3, lambda pi: (pi**0.3 - 1) / 0.3)],
)
def test_a_shapings_weight_is_its_slope(name: str, value: float, shaped: Callable[[Tensor], Tensor]):
    pi = torch.linspace(1e-3, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(shaped(pi).sum(), pi)
    torch.testing.assert_close(COEFFICIENTS[name].weight(pi, value), slope * pi)  # dπ = π·d log π


@pytest.mark.parametrize(
    ("advantages", "expected", "clipped"),
    [
        # power 1 (at least 0.1) | floor 0.3, trust 0.5: 0.05 > 1.5 * 0.01 | mask | power
        (UP, [0.1, 0.0, 0.0, 1.0], [True, True, False, False]),
        # negative: zero | pi | zero | zero
        (DOWN, [0.0, 0.05, 0.0, 0.0], [False, False, False, False]),
    ],
)
def test_each_agents_tokens_have_the_weights_of_its_own_settings(
    advantages: Tensor, expected: list[float], clipped: list[bool]
):
    verify = {"coefficient": "floor", "negative": "pi", "coefficient_trust": 0.5}
    how: dict[str, Any] = {"agents": {"verify": verify, "reasoning": {"coefficient": "mask"}}}
    method = MethodSettings(coefficient="power", coefficient_value=1.0, **how)
    made = agent_weights(Probabilities(PI, MU, OLD), advantages, method, torch.tensor([[0, 1, 2, 0]]))
    torch.testing.assert_close(made.weights, torch.tensor([expected]))
    assert made.clipped.tolist() == [clipped]


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


def test_bounds_limit_the_weight_and_say_where():
    bounded = weighed(UP, coefficient="pi", coefficient_clip_low=0.1, coefficient_clip_high=0.6)
    torch.testing.assert_close(bounded.weights, torch.tensor([[0.1, 0.1, 0.5, 0.6]]))
    assert bounded.clipped.tolist() == [[True, True, False, True]]
    one_bound = weighed(UP, coefficient="pi", coefficient_clip_high=0.1)
    torch.testing.assert_close(one_bound.weights, torch.tensor([[0.001, 0.05, 0.1, 0.1]]))
    assert not weighed(DOWN, coefficient="pi", coefficient_clip_low=0.1).clipped.any()


def test_the_ratio_is_zero_where_mu_is_not_known():
    bounded = weighed(UP, coefficient="ratio", coefficient_clip_low=0.7, coefficient_clip_high=4.0)
    torch.testing.assert_close(bounded.weights, torch.tensor([[0.7, 4.0, 1.0, 0.0]]))
    assert bounded.clipped.tolist() == [[True, True, False, False]]
    for rule in NEGATIVES:
        assert weighed(DOWN, coefficient="ratio", negative=rule).weights[0, 3] == 0


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

FUNCTIONS = """
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
    path.write_text(FUNCTIONS)
    return path


def test_a_users_function_is_a_coefficient(file: Path):
    half = {"mu": PI, "coefficient": f"{file}:half"}
    torch.testing.assert_close(weighed(UP, **half).weights, PI / 2)
    assert not weighed(DOWN, **half, negative="same").weights.any()
    bounded = weighed(UP, **half, coefficient_value=2.0, coefficient_clip_high=1.5)
    torch.testing.assert_close(bounded.weights, torch.tensor([[0.002, 0.1, 1.0, 1.5]]))
    needs = {
        name: (method.coefficient_function.needs_mu, method.needs_trainer_logprobs)
        for name in ("half", "bare")
        for method in [MethodSettings(coefficient=f"{file}:{name}")]
    }
    assert needs == {"half": (True, True), "bare": (False, False)}


def test_demonstrations_go_with_a_function_that_does_not_need_mu(file: Path):
    assert MethodSettings(coefficient=f"{file}:bare", plan="expert").coefficient_function.value is None
    method = MethodSettings(coefficient=f"{file}:half", plan="expert")
    with pytest.raises(ConfigError, match=r":half with the plan expert, allowed one that does not need μ"):
        _ = method.needs_mu("expert")


def test_an_edit_does_not_reach_a_run_that_has_begun(file: Path):
    method = MethodSettings(coefficient=f"{file}:bare")
    given = Probabilities(PI, MU, OLD), UP, method
    before = agent_weights(*given).weights
    for edit in (lambda: file.write_text("def bare(pi):\n    return pi * 0 + 7\n"), file.unlink):
        edit()
        assert agent_weights(*given).weights.equal(before)


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
    method = MethodSettings(coefficient=f"{file}:{function}", coefficient_value=value)
    with pytest.raises(ConfigError, match=re.escape(message.format(f"{file}:{function}"))):
        _ = method.coefficient_function


def test_a_file_that_is_missing_is_an_error_when_the_coefficient_is_used():
    # A recorded configuration can be read without the file.
    method = MethodSettings(coefficient="nowhere.py:mine")
    with pytest.raises(LoadError, match=r"file: got 'nowhere\.py'"):
        _ = method.coefficient_function
