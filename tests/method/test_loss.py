"""The loss: literals, closed forms, and what must not reach it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aipo.errors import TrainError
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES
from aipo.method.loss import LossInputs, LossOutput, aipo_loss, k3, rehearsal_weights
from aipo.method.metrics import QUANTITIES, ROLES, check_declared, loss_metrics
from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code
from aipo.method.settings import MethodSettings
from aipo.policies.logprobs import token_logprobs
from kit import tiny

L, A, E, D, N = Code.POLICY, Code.AGENT, Code.ENV, Code.DISTILLED, Code.PROMPT
NAN = math.nan


def gradient(given: LossInputs, how: MethodSettings) -> Tensor:
    return torch.autograd.grad(aipo_loss(given, how).loss, given.logprobs_B_T)[0]


def of(output: LossOutput, role: str, quantity: str) -> float:
    return output.sums_R_K[list(ROLES).index(role), QUANTITIES.index(quantity)].item()


def test_ratio_and_clip():
    """Ratios 1.5 and 0.5 under a clip to [0.8, 1.28], for A = +1 and −1."""
    logprobs = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]])).requires_grad_()
    half = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    given = tiny.loss_inputs(
        [[L, L], [L, L]], logprobs, behaviour_logprobs_B_T=half, advantages_B_T=torch.tensor([[1.0], [-1.0]])
    )
    output = aipo_loss(given, tiny.method())
    # A=+1: −min(1.5, 1.28) − min(0.5, 0.8);  A=−1: max(1.5, 1.28) + max(0.5, 0.8)
    assert output.loss.item() == pytest.approx(-1.28 - 0.5 + 1.5 + 0.8, rel=1e-6)
    torch.testing.assert_close(gradient(given, tiny.method()), torch.tensor([[0.0, -0.5], [1.5, 0.0]]))
    sums = {"tokens": 4, "clip": 2, "ratio": 4.0, "weight": 0.5 + 1.5}
    assert {name: of(output, "policy", name) for name in sums} == pytest.approx(sums)
    torch.testing.assert_close(output.ratios_B_T, torch.tensor([[1.5, 0.5], [1.5, 0.5]]))


def test_rehearsed_tokens_are_held_to_their_first_probability():
    """As likely as before: no gradient. Half as likely: u = 1/2. Twice and ten times: −1. A = 0.5."""
    first = torch.log(torch.tensor([[0.5, 0.5, 0.25, 0.05]]))
    given = tiny.loss_inputs(
        [[Code.REHEARSED] * 4],
        torch.log(torch.tensor([[0.5, 0.25, 0.5, 0.5]])).requires_grad_(),
        behaviour_logprobs_B_T=first,
        advantages_B_T=torch.full((1, 4), 0.5),
    )
    how = tiny.method(coefficient="mask", distil_weight=0.0)
    torch.testing.assert_close(gradient(given, how), torch.tensor([[0.0, -0.25, 0.5, 0.5]]))
    # r − 1 − log r for r = 1, 1/2, 2 and 10
    kl = 0 + (0.5 - 1 + math.log(2)) + (2 - 1 - math.log(2)) + (10 - 1 - math.log(10))
    assert of(aipo_loss(given, how), "rehearsed", "kl") == pytest.approx(kl, rel=1e-6)


def test_the_gradient_of_a_rehearsal_is_that_of_the_kl():
    """Summed over all tokens of a small vocabulary, as often as the first policy samples them."""
    first = torch.tensor([0.5, 0.3, 0.2]).log()
    logits = torch.tensor([0.1, -0.2, 0.05], requires_grad=True)
    logprobs = logits.log_softmax(-1)
    kl = (first.exp() * (first - logprobs)).sum()
    estimate = -(first.exp() * rehearsal_weights(logprobs.detach(), first) * logprobs).sum()
    torch.testing.assert_close(
        *(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (estimate, kl))
    )


def test_what_is_not_trained_may_be_anything():
    """NaN and −inf on prompt, env, context and padding reach neither the loss nor its gradient."""
    logprobs = torch.tensor([[-1.0, -math.inf, NAN, NAN, -1.0]], requires_grad=True)
    given = tiny.loss_inputs(
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


def mixed() -> LossInputs:
    """Three rows with tokens of every kind; ratios leave every clip, and the trainer's π_old is not the sampler's."""
    torch.manual_seed(0)
    logprobs = (-3 * torch.rand(3, 8)).requires_grad_()
    return tiny.loss_inputs(
        MIXED,
        logprobs,
        behaviour_logprobs_B_T=logprobs.detach() - 0.4 * torch.randn(3, 8),
        trainer_logprobs_B_T=logprobs.detach() - 0.4 * torch.randn(3, 8),
        advantages_B_T=torch.tensor([[0.7], [-1.3], [2.0]]),
        denominators_B=torch.tensor([3.0, 2.0, 5.0]),
    )


def check_told(given: LossInputs, how: MethodSettings) -> LossOutput:
    """What is told of each token is what its gradient is: ∂loss/∂log π · denominator. Clipped tokens are counted, and
    the value of an agent's term is −A·w, too."""
    output = aipo_loss(given, how)
    slopes = gradient(given, how) * given.denominators_B[:, None]
    torch.testing.assert_close(output.pushes_B_T, slopes.abs())
    agents = given.codes_B_T == A
    for role, code in ROLES.items():
        assert of(output, role, "clip") == output.clipped_B_T[given.codes_B_T == code].sum()
    values = (output.pushes_B_T / given.denominators_B[:, None])[agents]
    assert of(output, "agent", "loss") == pytest.approx(values.sum().item(), rel=1e-5)
    held = torch.where(agents & (how.coefficient == "echo"), 1.0, given.advantages_B_T)
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
    agents = {"coefficient": coefficient, "coefficient_trust": trust, "negative": negative}
    output = check_told(given, tiny.method(**agents, importance_cap=1.3, distil_weight=0.4))
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
    given = tiny.loss_inputs([[A], [A], [A]], logprobs, advantages_B_T=torch.tensor([[2.0], [0.0], [-2.0]]))
    how = tiny.method(coefficient="echo", coefficient_value=0.25, negative="same")
    torch.testing.assert_close(gradient(given, how), torch.full((3, 1), -0.25))
    output = aipo_loss(given, how)
    assert of(output, "agent", "weight") == pytest.approx(0.75)
    signed = tiny.method(coefficient="echo", coefficient_value=0.25)
    torch.testing.assert_close(gradient(given, signed), torch.tensor([[-0.25], [-0.25], [0.0]]))


def test_each_agents_tokens_are_weighed_and_counted_by_its_own_settings():
    """Two of verify's, which weigh 0.25, one of knowledge's, masked, and one of an agent without settings of its own."""
    logprobs = torch.full((1, 5), -1.0, requires_grad=True)
    given = tiny.loss_inputs([[L, A, A, A, A]], logprobs, agents_B_T=torch.tensor([[0, 1, 1, 2, 0]]))
    verify = {"coefficient": "constant", "coefficient_value": 0.25}
    how = tiny.method(agents={"verify": verify, "knowledge": {"coefficient": "mask"}})
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-1.0, -0.25, -0.25, 0.0, -1.0]]))
    output = aipo_loss(given, how)
    metrics = loss_metrics(output.sums_R_K.tolist(), 0.0, how)
    check_declared(metrics)
    expected = {
        "tokens/agent": 4,
        "tokens/agent/verify": 2,
        "tokens/agent/knowledge": 1,
        "weight/agent": 1.5 / 4,
        "weight/agent/verify": 0.25,
        "weight/agent/knowledge": 0.0,
        "probability/agent/verify": math.exp(-1),
        "clip/agent/verify": 0.0,
        "loss_share/policy": 1 / 2.5,
        "loss_share/agent": 1.5 / 2.5,
        "loss_share/agent/verify": 0.5 / 2.5,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(TrainError, match="agents_B_T: got none, allowed only where"):
        aipo_loss(replace(given, agents_B_T=None), how)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"coefficient": "rlplus"}, "π_old of agents' tokens"),
        ({"coefficient_trust": 0.5}, "π_old of agents' tokens"),
        ({"importance_cap": 2.0}, "importance_cap"),
    ],
    ids=str,
)
def test_what_needs_the_trainers_log_probs_is_refused_without_them(how: dict, what: str):
    given = tiny.loss_inputs([[A]], torch.full((1, 1), -1.0, requires_grad=True))
    with pytest.raises(TrainError, match=f"{what}: got no log-probs by the trainer"):
        aipo_loss(given, tiny.method(**how))


def test_distilled_tokens_are_learned_on_rows_with_a_positive_advantage_only():
    logprobs = torch.full((2, 2), -3.0, requires_grad=True)
    how = {"behaviour_logprobs_B_T": torch.full((2, 2), NAN), "advantages_B_T": torch.tensor([[2.0], [-2.0]])}
    given = tiny.loss_inputs([[D, D], [D, D]], logprobs, **how)
    how = tiny.method(distil_weight=0.25, coefficient="mask")
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-0.5, -0.5], [0.0, 0.0]]))
    output = aipo_loss(given, how)
    assert of(output, "distilled", "weight") == pytest.approx(1.0)
    assert of(output, "distilled", "probability") == pytest.approx(4 * math.exp(-3), rel=1e-6)


def test_kl_is_the_k3_estimator_on_policy_tokens():
    logprobs = torch.log(torch.tensor([[0.5, 0.5]])).requires_grad_()
    reference = torch.log(torch.tensor([[0.25, 0.25]]))
    given = tiny.loss_inputs(
        [[L, A]], logprobs, reference_logprobs_B_T=reference, advantages_B_T=torch.zeros(1, 1)
    )
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


@pytest.mark.parametrize(
    ("mode", "cap", "weights", "cut"),
    [
        ("truncate", 1.5, [1.2, 1.5, 0.8, 0.5], 1),
        ("mask", 1.5, [1.2, 0.0, 0.8, 0.0], 2),
        ("truncate", None, [1.2, 0.0, 0.8, 0.5], 0),  # ratios to the sampler, of which PPO's clip removes 2
    ],
)
def test_the_correction_from_sampler_to_trainer(mode: str, cap: float | None, weights: list[float], cut: int):
    """μ = ¼; the trainer says 0.3, ½, 0.2 and 1/8, which is 1.2, 2, 0.8 and ½ times as much."""
    logprobs = torch.log(torch.tensor([[0.3, 0.5, 0.2, 0.125, 0.5, 0.5]])).requires_grad_()
    given = tiny.loss_inputs(
        [[L, L, L, L, A, D]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 6), math.log(0.25)),
        trainer_logprobs_B_T=logprobs.detach(),
        reference_logprobs_B_T=logprobs.detach(),
        advantages_B_T=torch.tensor([[2.0]]),
    )
    how = tiny.method(importance_mode=mode, importance_cap=cap, beta=0.5)
    output = aipo_loss(given, how)
    expected = torch.tensor([[*weights, 1.0, 1.0]])
    torch.testing.assert_close(output.weights_B_T, expected)
    torch.testing.assert_close(gradient(given, how), -2 * expected)
    assert output.clipped_B_T.any() == (cap is None)
    assert (of(output, "policy", "cut"), of(output, "agent", "cut")) == (cut, 0)
    importance = weights if cap else [1.0] * 4
    assert of(output, "policy", "importance") == pytest.approx(sum(importance))
    assert of(output, "policy", "importance_squared") == pytest.approx(sum(w * w for w in importance))


@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_one_ratio_for_a_row_has_one_correction_for_it(mode: str):
    """π_old/μ is 2 and ½; with the cap 1.5 it is 1.5 and ½, or 0 and 0: the mean is 1, or 0."""
    logprobs = torch.log(torch.tensor([[0.5, 0.125, 0.5]])).requires_grad_()
    given = tiny.loss_inputs(
        [[L, L, A]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 3), math.log(0.25)),
        trainer_logprobs_B_T=logprobs.detach(),
    )
    how = tiny.method(objective="gspo", coefficient="mask", importance_mode=mode, importance_cap=1.5)
    mean = {"truncate": 1.0, "mask": 0.0}[mode]
    torch.testing.assert_close(aipo_loss(given, how).weights_B_T, torch.tensor([[mean, mean, 0.0]]))
    torch.testing.assert_close(gradient(given, how), torch.tensor([[-mean, -mean, 0.0]]))


@pytest.mark.parametrize("objective", ["dapo", "gspo", "cispo"])
@pytest.mark.parametrize("coefficient", ["mask", "pi", "power"])
def test_an_agents_token_that_the_policy_could_not_write_breaks_nothing(objective: str, coefficient: str):
    """Its log-prob is −inf. Of `power` the lower bound is taken away, or the token would have to be learned."""
    logprobs = torch.tensor([[-1.0, -math.inf]], requires_grad=True)
    given = tiny.loss_inputs([[L, A]], logprobs, reference_logprobs_B_T=logprobs.detach())
    bounds = {"coefficient_clip_low": 0.0} if coefficient == "power" else {}
    how = tiny.method(objective=objective, coefficient=coefficient, beta=0.1, **bounds)
    output = aipo_loss(given, how)
    assert output.loss.isfinite() and output.sums_R_K.isfinite().all()
    assert gradient(given, how)[0, 1] == 0 and gradient(given, how).isfinite().all()


def test_a_masked_token_keeps_its_kl():
    """As in TRL: the correction is of the sampler, which the KL to the reference knows nothing of."""
    logprobs = torch.log(torch.tensor([[0.5]])).requires_grad_()
    given = tiny.loss_inputs(
        [[L]],
        logprobs,
        behaviour_logprobs_B_T=torch.full((1, 1), math.log(0.01)),
        trainer_logprobs_B_T=logprobs.detach(),
        reference_logprobs_B_T=torch.log(torch.tensor([[0.25]])),
    )
    how = tiny.method(importance_mode="mask", importance_cap=2.0, beta=2.0)
    # d/dlogπ of r·k3 at r = 1 is log 2, as without a correction
    torch.testing.assert_close(gradient(given, how), torch.tensor([[2 * math.log(2)]]))


def test_the_mismatch_is_reported_where_it_is_known():
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    behaviour = torch.tensor([[-1.25, -1.0]])
    unknown = aipo_loss(tiny.loss_inputs([[L, L]], logprobs, behaviour_logprobs_B_T=behaviour), tiny.method())
    assert (of(unknown, "policy", "mismatch_tokens"), unknown.mismatch_max.item()) == (0, 0)
    scored = {"behaviour_logprobs_B_T": behaviour, "trainer_logprobs_B_T": logprobs.detach()}
    known = aipo_loss(tiny.loss_inputs([[L, L]], logprobs, **scored), tiny.method())
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
    ids, forbidden = torch.tensor([[0, 2]]), torch.tensor([[2]])
    logprobs, _ = token_logprobs(logits, ids, temperature=1.0, forbidden_B_F=forbidden)
    assert logprobs.tolist()[0][1] == -math.inf
    output = aipo_loss(tiny.loss_inputs([[L, N]], logprobs), tiny.method())
    (grad,) = torch.autograd.grad(output.loss, logits)
    assert grad.isfinite().all()
