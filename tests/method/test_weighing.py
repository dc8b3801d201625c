"""Weighing: bounds, rules for A < 0 and the trust region, against literals."""

import math
import re
from pathlib import Path

import pytest
import torch

from aipo.errors import ConfigError
from aipo.method.coefficients import COEFFICIENTS, Known
from aipo.method.weighing import NEGATIVES, Weighed, Weighing, agent_weights

PI = torch.tensor([[0.001, 0.05, 0.5, 1.0]])
MU = torch.tensor([[0.002, 0.01, 0.5, torch.nan]])
UP, LEVEL, DOWN = (torch.tensor([[advantage]]) for advantage in (1.0, 0.0, -1.0))


def weighed(
    advantages: torch.Tensor, *, mu: torch.Tensor = MU, old: torch.Tensor = PI, **how: object
) -> Weighed:
    return agent_weights(Known(PI, mu, old), advantages, Weighing(**how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("zero", None, [0, 0, 0, 0]),
        ("pi", None, [0.001, 0.05, 0.5, 1]),
        ("floor", None, [0.1, 0.1, 0.5, 1]),
        ("floor", 0.02, [0.02, 0.05, 0.5, 1]),
        ("same", None, [0.3, 0.3, 0.5, 1]),
    ],
)
def test_weights_where_the_advantage_is_negative(rule: str, value: float | None, expected: list[float]):
    made = weighed(DOWN, coefficient="floor", negative=rule, negative_value=value)
    torch.testing.assert_close(made.weights, torch.tensor([expected], dtype=torch.float32))
    assert made.advantages.tolist() == [[-1.0]]
    for other in (UP, LEVEL):  # the rule has no say there
        kept = weighed(other, coefficient="floor", negative=rule, negative_value=value).weights
        torch.testing.assert_close(kept, torch.tensor([[0.3, 0.3, 0.5, 1]]))


def test_every_row_has_its_own_sign():
    made = agent_weights(Known(*(PI[:, :2].expand(2, 2),) * 3), torch.tensor([[2.0], [-2.0]]), Weighing())
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


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"coefficient": "sft"}, "coefficient: got 'sft', allowed"),
        (
            {"coefficient": "pi", "coefficient_value": 0.1},
            "coefficient_value: got 0.1 with 'pi', which takes none",
        ),
        ({"coefficient": "power", "coefficient_value": 1.5}, "got 1.5 with 'power', allowed 0 to 1"),
        ({"coefficient": "luffy", "coefficient_value": 0.0}, "got 0 with 'luffy', allowed 1e-06 to inf"),
        ({"coefficient": "constant", "coefficient_value": -1.0}, "got -1 with 'constant', allowed 0 to inf"),
        (
            {"coefficient_clip_low": 2.0, "coefficient_clip_high": 1.0},
            "coefficient_clip: got [2.0, 1.0] for coefficient 'constant', allowed 0 <= low <= high",
        ),
        ({"coefficient_clip_high": -1.0}, "coefficient_clip: got [None, -1.0]"),
        ({"coefficient_clip_low": math.nan}, "coefficient_clip: got [nan, None]"),
        # Against the coefficient's own other bound.
        ({"coefficient": "ratio", "coefficient_clip_low": 3.0}, "coefficient_clip: got [3.0, 2.0]"),
        ({"coefficient": "power", "coefficient_clip_high": 0.05}, "coefficient_clip: got [0.1, 0.05]"),
        (
            {"coefficient": "mask", "coefficient_clip_low": 0.5},
            "coefficient_clip: got [0.5, None] with coeff",
        ),
        ({"coefficient": "mask", "negative": "pi"}, "negative: got 'pi' with coefficient 'mask'"),
        ({"negative": "drop"}, "negative: got 'drop', allowed"),
        (
            {"negative_value": 0.1},
            "negative_value: got 0.1 with 'zero', which takes none, allowed with ['floor']",
        ),
        ({"coefficient_trust": 0.0}, "coefficient_trust: got 0 with coefficient 'constant', allowed > 0"),
        (
            {"coefficient_trust": 1.0, "coefficient": "mask"},
            "coefficient_trust: got 1 with coefficient 'mask'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(how: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Weighing(**how)  # type: ignore[arg-type]


def test_what_needs_pi_old():
    assert not Weighing().needs_old
    assert Weighing(coefficient="rlplus").needs_old
    assert Weighing(coefficient_trust=0.5).needs_old


def test_every_rule_has_a_line_of_text():
    assert all(rule.text for rule in NEGATIVES.values())


def test_the_picture_shows_every_coefficient_and_rule():
    picture = (Path(__file__).parents[1] / "benchmarks" / "weights.png").read_bytes()
    text = picture.index(b"tEXtCharts\0")  # a chunk is its length, its kind and its data
    length = int.from_bytes(picture[text - 4 : text])
    titles = set(picture[text + 4 : text + 4 + length].decode().partition("\0")[2].splitlines())
    assert titles == {
        *(f"{name}, A > 0" for name in COEFFICIENTS),
        *(f"A < 0, rule {name}" for name in NEGATIVES if name != "same"),
    }
