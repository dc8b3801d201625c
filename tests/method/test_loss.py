"""The loss: literals, closed forms, and what must not reach it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aipo.errors import TrainError
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES
from aipo.method.loss import QUANTITIES, ROLES, LossInputs, LossOutput, aipo_loss, k3
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code
from aipo.method.settings import MethodSettings
from aipo.policies.logprobs import token_logprobs
from kit import tiny

L, A, E, D, N = Code.POLICY, Code.AGENT, Code.ENV, Code.DISTILLED, Code.PROMPT
NAN = math.nan


def inputs(codes: list[list[int]], logprobs: Tensor, **changes: object) -> LossInputs:
    rows = len(codes)
    made: dict = {
        "logprobs_B_T": logprobs,
        "entropies_B_T": torch.zeros_like(logprobs.detach()),
        "behaviour_logprobs_B_T": logprobs.detach(),
        "codes_B_T": torch.tensor(codes, dtype=torch.int8),
        "advantages_B": torch.ones(rows),
        "denominators_B": torch.ones(rows),
    }
    return LossInputs(**(made | changes))


def gradient(given: LossInputs, how: MethodSettings) -> Tensor:
    return torch.autograd.grad(aipo_loss(given, how).loss, given.logprobs_B_T)[0]


def of(output: LossOutput, role: str, quantity: str) -> float:
    return output.sums_R_K[list(ROLES).index(role), QUANTITIES.index(quantity)].item()


def test_ratio_and_clip():
    """Ratios 1.5 and 0.5 under a clip to [0.8, 1.28], for A = +1 and −1."""
    logprobs = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]])).requires_grad_()
    half = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    given = inputs(
        [[L, L], [L, L]], logprobs, behaviour_logprobs_B_T=half, advantages_B=torch.tensor([1.0, -1.0])
    )
    output = aipo_loss(given, tiny.method())
    # A=+1: −min(1.5, 1.28) − min(0.5, 0.8);  A=−1: max(1.5, 1.28) + max(0.5, 0.8)
    assert output.loss.item() == pytest.approx(-1.28 - 0.5 + 1.5 + 0.8, rel=1e-6)
    torch.testing.assert_close(gradient(given, tiny.method()), torch.tensor([[0.0, -0.5], [1.5, 0.0]]))
    assert of(output, "policy", "tokens") == 4
    assert of(output, "policy", "clip") == 2
    assert of(output, "policy", "ratio") == pytest.approx(4.0)
    assert of(output, "policy", "weight") == pytest.approx(0.5 + 1.5)
    torch.testing.assert_close(output.weights_B_T, torch.tensor([[0.0, 0.5], [1.5, 0.0]]))
    torch.testing.assert_close(output.ratios_B_T, torch.tensor([[1.5, 0.5], [1.5, 0.5]]))
    assert output.clipped_B_T.tolist() == [[True, False], [False, True]]


def test_every_row_is_divided_by_its_denominator():
    logprobs = torch.full((2, 2), -1.0, requires_grad=True)
    given = inputs([[L, L], [L, N]], logprobs, denominators_B=torch.tensor([4.0, 10.0]))
    assert aipo_loss(given, tiny.method()).loss.item() == pytest.approx(-2 / 4 - 1 / 10)


def test_what_is_not_trained_may_be_anything():
    """NaN and −inf on prompt, env, context and padding reach neither the loss nor its gradient."""
    logprobs = torch.tensor([[-1.0, -math.inf, NAN, NAN, -1.0]], requires_grad=True)
    given = inputs(
        [[L, E, Code.CONTEXT, N, A]],
        logprobs,
        behaviour_logprobs_B_T=torch.tensor([[-1.0, NAN, NAN, NAN, NAN]]),
        entropies_B_T=torch.tensor([[0.5, NAN, NAN, NAN, 0.25]]),
        reference_logprobs_B_T=torch.tensor([[-1.0, NAN, NAN, -math.inf, NAN]]),
        trainer_logprobs_B_T=torch.tensor([[-1.0, NAN, NAN, NAN, NAN]]),
    )
    how = tiny.method(beta=0.1, importance_cap=2.0)
    output = aipo_loss(given, how)
    assert output.loss.item() == pytest.approx(-2.0)
    assert output.sums_R_K.isfinite().all() and output.mismatch_max.item() == 0
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-1.0, 0.0, 0.0, 0.0, -1.0]]))


MIXED = [[L, L, L, A, A, L, N, N], [L, A, E, L, L, L, L, N], [Code.CONTEXT, D, D, D, N, N, N, N]]


def mixed(**changes: object) -> LossInputs:
    """Three rows with tokens of every kind; ratios leave every clip, and the trainer's π_old is not the sampler's."""
    torch.manual_seed(0)
    logprobs = (-3 * torch.rand(3, 8)).requires_grad_()
    made: dict = {
        "behaviour_logprobs_B_T": logprobs.detach() - 0.4 * torch.randn(3, 8),
        "trainer_logprobs_B_T": logprobs.detach() - 0.4 * torch.randn(3, 8),
        "advantages_B": torch.tensor([0.7, -1.3, 2.0]),
        "denominators_B": torch.tensor([3.0, 2.0, 5.0]),
    }
    return inputs(MIXED, logprobs, **(made | changes))


def check_told(given: LossInputs, how: MethodSettings) -> LossOutput:
    """What is told of each token is what its gradient is: ∂loss/∂log π · denominator."""
    output = aipo_loss(given, how)
    slopes = gradient(given, how) * given.denominators_B[:, None]
    torch.testing.assert_close(output.pushes_B_T, slopes.abs())
    agents = given.codes_B_T == A
    held = torch.where(agents & (how.coefficient == "echo"), 1.0, given.advantages_B[:, None])
    torch.testing.assert_close(-held * output.weights_B_T, slopes)
    assert torch.equal(output.ratios_B_T.isnan(), given.codes_B_T != L)
    assert not any(told.requires_grad for told in output[1:])
    return output


@pytest.mark.parametrize(
    ("coefficient", "negative"),
    [
        ("mask", "zero"),
        *((name, rule) for name in sorted(COEFFICIENTS) if name != "mask" for rule in sorted(NEGATIVES)),
    ],
)
def test_what_is_told_of_each_token_is_what_its_gradient_is(coefficient: str, negative: str):
    """For every kind of token, the clip, the trust region and the correction included."""
    given = mixed()
    trust = None if coefficient == "mask" else 0.1
    how = tiny.method(
        coefficient=coefficient,
        coefficient_trust=trust,
        negative=negative,
        importance_cap=1.3,
        distil_weight=0.4,
    )
    output = check_told(given, how)
    policy = given.codes_B_T == L
    assert output.clipped_B_T[policy].any() and not output.weights_B_T[output.clipped_B_T & policy].any()


@pytest.mark.parametrize("cap", [None, 1.3])
@pytest.mark.parametrize(
    ("objective", "keeps"),
    [(name, keeps) for name, one in OBJECTIVES.items() for keeps in (False, True)[: 1 + one.stops]],
)
def test_what_is_told_of_policy_tokens_is_what_their_gradient_is(
    objective: str, keeps: bool, cap: float | None
):
    how = tiny.method(
        objective=objective, clip_low=0.1, clip_high=0.1, clip_keeps_gradient=keeps, importance_cap=cap
    )
    output = check_told(mixed(), how)
    assert output.clipped_B_T.any()
    kept = keeps or not OBJECTIVES[objective].stops
    assert bool(output.weights_B_T[output.clipped_B_T].all()) == kept


@pytest.mark.parametrize("coefficient", sorted(COEFFICIENTS))
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_all_coefficients_share_the_policy_gradient(coefficient: str, objective: str):
    """Whatever agents wrote, the ratio of a sequence included."""
    given = mixed()
    policy = given.codes_B_T == L
    how: dict = {"objective": objective, "clip_low": 0.5, "clip_high": 0.3}
    masked = gradient(given, tiny.method(**how, coefficient="mask"))
    rule = "zero" if coefficient == "mask" else "same"
    other = gradient(given, tiny.method(**how, coefficient=coefficient, negative=rule))
    assert torch.equal(masked[policy], other[policy])
    assert masked[policy].any() and not masked[given.codes_B_T == A].any()
    if coefficient != "mask":
        assert other[given.codes_B_T == A].all()


def test_a_coefficient_without_regard_to_the_advantage_learns_from_all_rows():
    """Advantages 2, 0 and −2: the cross-entropy is the same on all of them, and on two where A < 0 teaches nothing."""
    logprobs = torch.full((3, 1), -3.0, requires_grad=True)
    given = inputs([[A], [A], [A]], logprobs, advantages_B=torch.tensor([2.0, 0.0, -2.0]))
    how = tiny.method(coefficient="echo", coefficient_value=0.25, negative="same")
    torch.testing.assert_close(gradient(given, how), torch.full((3, 1), -0.25))
    output = aipo_loss(given, how)
    assert of(output, "agent", "weight") == pytest.approx(0.75)
    signed = tiny.method(coefficient="echo", coefficient_value=0.25)
    torch.testing.assert_close(gradient(given, signed), torch.tensor([[-0.25], [-0.25], [0.0]]))


def test_the_trust_region_stops_agents_tokens_where_the_advantage_pushes():
    """π_old = 0.4, ε = ½: up to 0.6 where A > 0, down to 0.267 where A < 0; policy tokens know nothing of it."""
    pi = torch.tensor([[0.59, 0.61, 0.2, 0.61], [0.61, 0.27, 0.26, 0.26]])
    logprobs = pi.log().requires_grad_()
    given = inputs(
        [[A, A, A, L], [A, A, A, L]],
        logprobs,
        advantages_B=torch.tensor([2.0, -2.0]),
        trainer_logprobs_B_T=torch.full((2, 4), math.log(0.4)),
    )
    how = tiny.method(coefficient_trust=0.5, negative="same")
    torch.testing.assert_close(
        gradient(given, how), torch.tensor([[-2.0, 0.0, -2.0, -2.0], [2.0, 2.0, 0.0, 2.0]])
    )
    output = aipo_loss(given, how)
    assert output.clipped_B_T.tolist() == [[False, True, False, False], [False, False, True, False]]


@pytest.mark.parametrize("how", [{"coefficient": "rlplus"}, {"coefficient_trust": 0.5}], ids=str)
def test_what_takes_pi_old_of_agents_tokens_is_refused_without_it(how: dict):
    given = inputs([[A]], torch.full((1, 1), -1.0, requires_grad=True))
    with pytest.raises(TrainError, match="π_old of agents' tokens: got no log-probs by the trainer"):
        aipo_loss(given, tiny.method(**how))


def test_distilled_tokens_are_learned_on_rows_with_a_positive_advantage_only():
    logprobs = torch.full((2, 2), -3.0, requires_grad=True)
    given = inputs(
        [[D, D], [D, D]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((2, 2), NAN),
        advantages_B=torch.tensor([2.0, -2.0]),
    )
    how = tiny.method(distil_weight=0.25, coefficient="mask")
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-0.5, -0.5], [0.0, 0.0]]))
    output = aipo_loss(given, how)
    assert of(output, "distilled", "weight") == pytest.approx(1.0)
    assert of(output, "distilled", "probability") == pytest.approx(4 * math.exp(-3), rel=1e-6)


def test_the_coefficients_clip_is_counted_on_agent_tokens():
    logprobs = torch.log(torch.tensor([[0.5, 0.01, 0.01]])).requires_grad_()
    given = inputs([[L, A, A]], logprobs)
    output = aipo_loss(given, tiny.method(coefficient="pi", coefficient_clip_low=0.1))
    assert of(output, "agent", "clip") == 2
    assert of(output, "agent", "weight") == pytest.approx(0.2)
    assert of(output, "policy", "clip") == 0
    torch.testing.assert_close(output.weights_B_T, torch.tensor([[1.0, 0.1, 0.1]]))
    assert output.clipped_B_T.tolist() == [[False, True, True]]


def test_kl_is_the_k3_estimator_on_policy_tokens():
    logprobs = torch.log(torch.tensor([[0.5, 0.5]])).requires_grad_()
    reference = torch.log(torch.tensor([[0.25, 0.25]]))
    given = inputs([[L, A]], logprobs, reference_logprobs_B_T=reference, advantages_B=torch.zeros(1))
    # Δ = log ½: ½ − log ½ − 1 = 0.193147
    expected = 0.5 + math.log(2) - 1
    output = aipo_loss(given, tiny.method(beta=2.0))
    assert output.loss.item() == pytest.approx(2 * expected, rel=1e-5)
    assert of(output, "policy", "kl") == pytest.approx(expected, rel=1e-5)
    # d/dlogπ of r·k3 at r = 1 is k3 + 1 − e^Δ = −Δ = log 2, and nothing on the agent's token
    expected_gradient = torch.tensor([[2 * math.log(2), 0.0]])
    torch.testing.assert_close(gradient(given, tiny.method(beta=2.0)), expected_gradient)


@given(st.floats(-8, -1e-3), st.floats(-8, -1e-3))
def test_k3_is_never_negative(a: float, b: float):
    assert k3(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)).item() >= -1e-12


def test_the_truncated_correction_from_sampler_to_trainer():
    """μ = ¼ everywhere; the trainer says ½ and 1/8: weights min(2, 1.5) and min(½, 1.5)."""
    logprobs = torch.log(torch.tensor([[0.5, 0.125, 0.5]])).requires_grad_()
    given = inputs(
        [[L, L, A]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 3), math.log(0.25)),
        trainer_logprobs_B_T=logprobs.detach(),
    )
    output = aipo_loss(given, tiny.method(importance_cap=1.5))
    torch.testing.assert_close(
        gradient(given, tiny.method(importance_cap=1.5)), torch.tensor([[-1.5, -0.5, -1.0]])
    )
    assert (of(output, "policy", "importance"), of(output, "policy", "cut")) == (pytest.approx(2.0), 1)
    # without the option the ratios are to the sampler: 2, which the clip removes, and ½
    torch.testing.assert_close(gradient(given, tiny.method()), torch.tensor([[0.0, -0.5, -1.0]]))


def test_the_masked_correction_from_sampler_to_trainer():
    """μ = ¼; the trainer says 0.3, ½, 0.2 and 1/8: 1.2 and 0.8 count, 2 and ½ are outside [1/1.5, 1.5]."""
    logprobs = torch.log(torch.tensor([[0.3, 0.5, 0.2, 0.125, 0.5, 0.5]])).requires_grad_()
    given = inputs(
        [[L, L, L, L, A, D]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 6), math.log(0.25)),
        trainer_logprobs_B_T=logprobs.detach(),
        reference_logprobs_B_T=logprobs.detach(),
        advantages_B=torch.tensor([2.0]),
    )
    how = tiny.method(importance_mode="mask", importance_cap=1.5, beta=0.5)
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-2.4, 0.0, -1.6, 0.0, -2.0, -2.0]]))
    output = aipo_loss(given, how)
    torch.testing.assert_close(output.weights_B_T, torch.tensor([[1.2, 0.0, 0.8, 0.0, 1.0, 1.0]]))
    assert not output.clipped_B_T.any()  # no ratio was clipped
    assert (of(output, "policy", "cut"), of(output, "agent", "cut")) == (2, 0)
    assert of(output, "policy", "importance") == pytest.approx(1.2 + 0.8)
    assert of(output, "policy", "importance_squared") == pytest.approx(1.44 + 0.64)


def test_a_masked_token_keeps_its_kl():
    """As in TRL: the correction is of the sampler, which the KL to the reference knows nothing of."""
    logprobs = torch.log(torch.tensor([[0.5]])).requires_grad_()
    given = inputs(
        [[L]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 1), math.log(0.01)),
        trainer_logprobs_B_T=logprobs.detach(),
        reference_logprobs_B_T=torch.log(torch.tensor([[0.25]])),
    )
    how = tiny.method(importance_mode="mask", importance_cap=2.0, beta=2.0)
    # d/dlogπ of r·k3 at r = 1 is log 2, as without a correction
    torch.testing.assert_close(gradient(given, how), torch.tensor([[2 * math.log(2)]]))


def test_a_correction_without_the_trainers_log_probs_is_refused():
    given = inputs([[L]], torch.full((1, 1), -1.0, requires_grad=True))
    with pytest.raises(TrainError, match="importance_cap: got no log-probs by the trainer"):
        aipo_loss(given, tiny.method(importance_cap=2.0))


def test_drift_is_reported_where_it_is_known():
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    behaviour = torch.tensor([[-1.25, -1.0]])
    unknown = aipo_loss(inputs([[L, L]], logprobs, behaviour_logprobs_B_T=behaviour), tiny.method())
    assert (of(unknown, "policy", "mismatch_tokens"), unknown.mismatch_max.item()) == (0, 0)
    known = aipo_loss(
        inputs([[L, L]], logprobs, behaviour_logprobs_B_T=behaviour, trainer_logprobs_B_T=logprobs.detach()),
        tiny.method(),
    )
    assert (of(known, "policy", "mismatch_tokens"), known.mismatch_max.item()) == (2, 0.25)
    assert of(known, "policy", "mismatch") == pytest.approx(0.25)
    # measured, but not used: π_old is still the sampler's
    assert of(known, "policy", "ratio") == pytest.approx(math.exp(0.25) + 1)


def test_forbidden_ids_have_no_probability():
    """Against a plain softmax over the ids that are allowed."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, requires_grad=True)
    ids = torch.tensor([[0, 1, 4], [0, 1, 2]])
    forbidden = torch.tensor([[2, 3], [-1, -1]])
    logprobs, entropies = token_logprobs(logits, ids, temperature=0.7, forbidden_B_F=forbidden)
    for row, allowed in enumerate(([0, 1, 4], [0, 1, 2, 3, 4])):
        p = (logits[row][:, allowed] / 0.7).softmax(-1)
        for t in range(3):
            expected = p[t, allowed.index(int(ids[row, t]))].log()
            torch.testing.assert_close(logprobs[row, t], expected)
        torch.testing.assert_close(entropies[row], -(p * p.log()).sum(-1))
    (grad,) = torch.autograd.grad(logprobs.sum(), logits)
    assert grad.isfinite().all()
    assert not grad[0, :, [2, 3]].any()


def test_a_token_that_is_forbidden_itself_leaves_gradients_finite():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    logprobs, _ = token_logprobs(
        logits, torch.tensor([[0, 2]]), temperature=1.0, forbidden_B_F=torch.tensor([[2]])
    )
    assert logprobs.tolist()[0][1] == -math.inf
    output = aipo_loss(inputs([[L, N]], logprobs), tiny.method())
    (grad,) = torch.autograd.grad(output.loss, logits)
    assert grad.isfinite().all()


def test_without_forbidden_ids_it_is_a_plain_log_softmax():
    logits = torch.randn(1, 2, 3)
    logprobs, _ = token_logprobs(logits, torch.tensor([[0, 2]]), temperature=1.0, forbidden_B_F=None)
    expected = logits.log_softmax(-1)
    assert torch.equal(logprobs[0], torch.stack([expected[0, 0, 0], expected[0, 1, 2]]))
