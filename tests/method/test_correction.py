"""Corrections: weights against literals, and the tokens that have none."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aipo.errors import ConfigError
from aipo.method.correction import CORRECTIONS, check_correction
from aipo.method.loss import LossInputs, LossSettings, aipo_loss
from aipo.method.rows import Code

CODES = [Code.PROMPT, Code.POLICY, Code.AGENT, Code.ENV, Code.CONTEXT, Code.DISTILLED]
RATIOS = [0.0, 0.25, 0.49, 0.5, 1.0, 2.0, 2.01, 8.0, math.inf]


@pytest.mark.parametrize(
    ("name", "weights", "cut"),
    [
        ("truncate", [0, 0.25, 0.49, 0.5, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1]),
        ("mask", [0, 0, 0, 0.5, 1, 2, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_weights_under_a_cap_of_two(name: str, weights: list[float], cut: list[int]):
    made, where = CORRECTIONS[name](torch.tensor(RATIOS), 2.0)
    assert made.tolist() == torch.tensor(weights).tolist()
    assert where.int().tolist() == cut


@pytest.mark.parametrize(
    ("correction", "cap", "message"),
    [
        ("clip", 2.0, r"correction: got 'clip', allowed \['mask', 'truncate'\]"),
        ("truncate", 0.0, "importance_cap: got 0.0, allowed > 0 or None"),
        ("truncate", math.nan, "importance_cap: got nan, allowed > 0 or None"),
        ("mask", None, "importance_cap: got None, allowed > 1 where the correction is a mask"),
        ("mask", 1.0, "importance_cap: got 1.0, allowed > 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(correction: str, cap: float | None, message: str):
    with pytest.raises(ConfigError, match=message):
        check_correction(correction, cap)


def numbers(count: int, values: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=count, max_size=count)


@st.composite
def batches(draw: st.DrawFn) -> LossInputs:
    """Rows of every kind of token. What the policy did not sample has any log-prob, by sampler and trainer."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    size = rows * length
    codes = torch.tensor(
        draw(st.lists(st.sampled_from(CODES), min_size=size, max_size=size)), dtype=torch.int8
    )
    known, wild = st.floats(-30.0, 0.0, width=32), st.sampled_from([math.nan, -math.inf, -400.0, 0.0, 400.0])

    def logprobs() -> Tensor:
        sampled, anything = (torch.tensor(draw(numbers(size, values))) for values in (known, wild))
        return torch.where(codes == Code.POLICY, sampled, anything).view(rows, length)

    return LossInputs(
        logprobs_B_T=torch.tensor(draw(numbers(size, known))).view(rows, length).requires_grad_(),
        entropies_B_T=torch.zeros(rows, length),
        behaviour_B_T=logprobs(),
        trainer_B_T=logprobs(),
        codes_B_T=codes.view(rows, length),
        advantages_B=torch.tensor(draw(numbers(rows, st.floats(-2.0, 2.0, width=32)))),
        denominators_B=torch.ones(rows),
    )


@given(
    batches(),
    st.sampled_from(sorted(CORRECTIONS)),
    st.floats(1.0, 10.0, exclude_min=True),
    st.sampled_from(["zero", "pi", "same"]),
)
def test_no_correction_ever_touches_what_the_policy_did_not_sample(
    given: LossInputs, correction: str, cap: float, negative: str
):
    """Gradient and weight of agents' and of distilled tokens are, to the last bit, those without a correction."""
    plain = LossSettings(coefficient="floor", negative=negative, distil_weight=0.7)
    corrected = LossSettings(
        coefficient="floor",
        negative=negative,
        distil_weight=0.7,
        importance_mode=correction,
        importance_cap=cap,
    )
    other = given.codes_B_T != Code.POLICY
    without, with_it = aipo_loss(given, plain), aipo_loss(given, corrected)
    assert torch.equal(without.weights_B_T[other], with_it.weights_B_T[other])
    assert torch.equal(without.sums_R_K[1:], with_it.sums_R_K[1:])  # all but the policy's
    slopes = [torch.autograd.grad(output.loss, given.logprobs_B_T)[0] for output in (without, with_it)]
    assert torch.equal(slopes[0][other], slopes[1][other])


@given(batches(), st.sampled_from(sorted(CORRECTIONS)), st.floats(1.0, 10.0, exclude_min=True))
def test_a_policy_token_counts_as_often_as_its_correction_says(
    given: LossInputs, correction: str, cap: float
):
    """On the first pass the weight of a policy token is its correction: at most C, and by a mask, if it counts at
    all, at least 1/C."""
    policy = given.codes_B_T == Code.POLICY
    fresh = LossInputs(
        logprobs_B_T=given.logprobs_B_T,
        entropies_B_T=given.entropies_B_T,
        behaviour_B_T=given.behaviour_B_T,
        trainer_B_T=given.logprobs_B_T.detach(),
        codes_B_T=given.codes_B_T,
        advantages_B=given.advantages_B,
        denominators_B=given.denominators_B,
    )
    output = aipo_loss(fresh, LossSettings(importance_mode=correction, importance_cap=cap))
    ratios = (given.logprobs_B_T.detach() - given.behaviour_B_T).exp()[policy]
    expected, _ = CORRECTIONS[correction](ratios, cap)
    weights = output.weights_B_T[policy]
    assert torch.equal(weights, expected)
    assert (weights <= cap).all()
    if correction == "mask":
        assert ((weights == 0) | (weights >= torch.tensor(1 / cap, dtype=torch.float32))).all()
