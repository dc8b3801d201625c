"""Objectives and the importance correction against literals and closed forms; TRL's own are in tests/train/test_trl_loss.py."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aipo.method.loss import LossInputs, aipo_loss
from aipo.method.objectives import IMPORTANCE_MODES, OBJECTIVES, Clip, PolicyTerms, PolicyTokens
from aipo.method.rows import Code
from kit import tiny

CLIP = Clip(0.2, 0.28)
KEEP = CLIP._replace(keeps_gradient=True)
STOPPING = sorted(name for name, one in OBJECTIVES.items() if one.stops)


def sampled(
    ratios: list[list[float]], advantages: list[float], policy: list[list[bool]] | None = None
) -> PolicyTokens:
    """Tokens with these ratios to π_old = 0.01."""
    ratio = torch.tensor(ratios, dtype=torch.float64)
    own = torch.ones_like(ratio, dtype=torch.bool) if policy is None else torch.tensor(policy)
    logprobs = (0.01 * ratio).log().requires_grad_()
    log_ratio = torch.where(own, logprobs - math.log(0.01), 0.0)
    return PolicyTokens(logprobs, log_ratio, own, torch.tensor(advantages, dtype=torch.float64)[:, None])


def gradient(made: PolicyTerms, own: PolicyTokens) -> list[list[float]]:
    loss = made.terms[own.policy].sum()
    return torch.autograd.grad(loss, own.logprobs, retain_graph=True)[0].tolist()


def numbers(tensor: Tensor) -> list[list[float]]:
    return [[pytest.approx(x) for x in row] for row in tensor.tolist()]


@pytest.mark.parametrize(
    ("clip", "gradients", "weights"),
    [
        (CLIP, [[-1.0, -2.2, 0.0], [0.0, 2.2, 3.0]], [[0.5, 1.1, 0.0], [0.0, 1.1, 1.5]]),
        # GPPO: the gradient of a clipped token is (1 ± ε)·A·∇log π
        (KEEP, [[-1.0, -2.2, -2.56], [1.6, 2.2, 3.0]], [[0.5, 1.1, 1.28], [0.8, 1.1, 1.5]]),
    ],
)
def test_ppos_clip(clip: Clip, gradients: list[list[float]], weights: list[list[float]]):
    """A = 2 and −2; ratios below, within and above [0.8, 1.28]. The value is the same."""
    own = sampled([[0.5, 1.1, 1.5], [0.5, 1.1, 1.5]], [2.0, -2.0])
    made = OBJECTIVES["dapo"].terms(own, clip)
    assert numbers(made.terms) == [[-1.0, -2.2, -2.56], [1.6, 2.2, 3.0]]
    assert numbers(torch.tensor(gradient(made, own))) == gradients
    assert numbers(made.weights) == weights
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
    cispo = OBJECTIVES["cispo"].terms
    made = cispo(own, Clip(math.inf, 0.28))
    assert numbers(made.weights) == [[0.5, 1.1, 1.28], [0.5, 1.1, 1.28]]
    assert numbers(torch.tensor(gradient(made, own))) == [[-1.0, -2.2, -2.56], [1.0, 2.2, 2.56]]
    assert made.terms[0, 0].item() == pytest.approx(-0.5 * 2 * math.log(0.005))
    assert made.clipped.tolist() == [[False, False, True], [False, False, True]]
    assert cispo(own, Clip(0.2, 0.28)).weights[0].tolist() == pytest.approx([0.8, 1.1, 1.28])


# The importance correction, and the tokens that have none

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
    made, where = IMPORTANCE_MODES[name](torch.tensor(RATIOS), 2.0)
    assert made.tolist() == torch.tensor(weights).tolist()
    assert where.int().tolist() == cut


def several(count: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=count, max_size=count)


@st.composite
def batches(draw: st.DrawFn) -> LossInputs:
    """Rows of every kind of token. What the policy did not sample has any log-prob, by sampler and trainer."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    size = rows * length
    codes = torch.tensor(draw(several(size, st.sampled_from(CODES))), dtype=torch.int8)
    known, wild = st.floats(-30.0, 0.0, width=32), st.sampled_from([math.nan, -math.inf, -400.0, 0.0, 400.0])

    def logprobs() -> Tensor:
        sampled, anything = (torch.tensor(draw(several(size, values))) for values in (known, wild))
        return torch.where(codes == Code.POLICY, sampled, anything).view(rows, length)

    return tiny.loss_inputs(
        codes.view(rows, length).tolist(),
        torch.tensor(draw(several(size, known))).view(rows, length).requires_grad_(),
        behaviour_logprobs_B_T=logprobs(),
        trainer_logprobs_B_T=logprobs(),
        advantages_B_T=torch.tensor(draw(several(rows, st.floats(-2.0, 2.0, width=32))))[:, None],
    )


@given(
    batches(),
    st.sampled_from(sorted(IMPORTANCE_MODES)),
    st.floats(1.0, 10.0, exclude_min=True),
    st.sampled_from(["zero", "pi", "same"]),
)
def test_no_correction_ever_touches_what_the_policy_did_not_sample(
    given: LossInputs, correction: str, cap: float, negative: str
):
    """Gradient and weight of agents' and of distilled tokens are, to the last bit, those without a correction."""
    how = {"coefficient": "floor", "negative": negative, "distil_weight": 0.7}
    plain, corrected = tiny.method(**how), tiny.method(**how, importance_mode=correction, importance_cap=cap)
    other = given.codes_B_T != Code.POLICY
    without, with_it = aipo_loss(given, plain), aipo_loss(given, corrected)
    assert torch.equal(without.weights_B_T[other], with_it.weights_B_T[other])
    assert torch.equal(without.sums_R_K[1:], with_it.sums_R_K[1:])  # all but the policy's
    slopes = [torch.autograd.grad(output.loss, given.logprobs_B_T)[0] for output in (without, with_it)]
    assert torch.equal(slopes[0][other], slopes[1][other])
