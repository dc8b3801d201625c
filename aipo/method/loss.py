"""The loss of a micro-batch: a pure function of tensors and `MethodSettings`.

Policy tokens have a ratio π/π_old and an objective (`aipo.method.objectives`). Agent tokens and distilled tokens have a
weight (`aipo.method.agent_weights`). The rows already say which token is which. With policy tokens only, the loss equals
TRL's, for every objective.

    loss = Σ_b 1/denominator_b · Σ_t term_bt
    term = objective(r, A) · c + β·r·KL      policy      r = π/π_old, c the importance correction
         = −A·w·exp(log π − sg(log π))       agent       w by coefficient and sign of A (for `echo`, A := 1)
         = −A·v·exp(log π − sg(log π))       distilled   v = distil_weight, where A > 0 only
         = −A·u·exp(log π − sg(log π))       rehearsed   u = 1 − min(π/π_first, 2); A the weight of a rehearsal
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aipo.errors import TrainError
from aipo.method.agent_weights import Probabilities, agent_weights
from aipo.method.metrics import QUANTITIES, ROLES, agent_role
from aipo.method.objectives import IMPORTANCE_MODES, OBJECTIVES, PolicyTerms, PolicyTokens
from aipo.method.settings import MethodSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Tensors of B rows and T completion tokens; log-probs in nats.

    Args:
        logprobs_B_T: log-probs by the current policy; they carry the gradient (TRL: `per_token_logps`).
        entropies_B_T: entropies of the current policy; used for metrics only.
        behaviour_logprobs_B_T: log-probs recorded while sampling: a policy token's by the inference engine (TRL:
            `sampling_per_token_logps`), an agent token's by the agent's own model. NaN where unknown.
        trainer_logprobs_B_T: log-probs recomputed by the trainer with the weights that sampled (TRL:
            `old_per_token_logps`); None when they were not computed. Used for the mismatch metric; as π_old of policy
            tokens if the importance correction is on (otherwise the behaviour log-probs are); always as π_old of agent
            tokens.
        reference_logprobs_B_T: log-probs by the reference policy (TRL: `ref_per_token_logps`), if there is a KL term.
        codes_B_T: int8, what the loss does with a token; see `aipo.method.rows.Code`.
        advantages_B_T: the advantage of each token; (B, 1) where a row has one.
        denominators_B: what each row's terms are divided by; see `aipo.method.batch.denominators`.
        agents_B_T: whose tokens they are; see `aipo.method.batch.agent_numbers`. None only where no agent has
            coefficient settings of its own.
    """

    logprobs_B_T: Tensor
    entropies_B_T: Tensor
    behaviour_logprobs_B_T: Tensor
    codes_B_T: Tensor
    advantages_B_T: Tensor
    denominators_B: Tensor
    trainer_logprobs_B_T: Tensor | None = None
    reference_logprobs_B_T: Tensor | None = None
    agents_B_T: Tensor | None = None

    @classmethod
    def of(
        cls, batch: Mapping[str, Tensor], logprobs_B_T: Tensor, entropies_B_T: Tensor, *, fresh: bool
    ) -> "LossInputs":
        """A batch (`aipo.method.batch.collate`) and its scores.

        Args:
            batch: may also hold `trainer_logprobs`, `reference_logprobs` and `agents`.
            fresh: whether the current weights are those that sampled the batch. Its trainer log-probs are then
                `logprobs_B_T`.
        """
        trainer = batch.get("trainer_logprobs")
        return cls(
            logprobs_B_T=logprobs_B_T,
            entropies_B_T=entropies_B_T,
            behaviour_logprobs_B_T=batch["behaviour_logprobs"],
            codes_B_T=batch["codes"],
            advantages_B_T=batch["advantages"],
            denominators_B=batch["denominators"],
            trainer_logprobs_B_T=trainer if trainer is not None else logprobs_B_T.detach() if fresh else None,
            reference_logprobs_B_T=batch.get("reference_logprobs"),
            agents_B_T=batch.get("agents"),
        )


class LossOutput(NamedTuple):
    """The loss, the sums behind its metrics, and what happened to each token. Only `loss` carries a gradient.

    Args:
        loss: scalar.
        sums_R_K: float32 sums over tokens, by role (`roles_of`) and quantity (`QUANTITIES`).
        mismatch_max: largest |log π_old − log μ| of a policy token, between trainer and inference engine; 0 if unknown.
        weights_B_T: the weight of A·∇log π in the gradient. Policy tokens: importance correction × the ratio as the
            clip leaves it (0 where it stops the gradient), without the KL term. Agent, distilled and rehearsed tokens:
            their weight. 0 on all other tokens.
        pushes_B_T: |A|·weight, with A = 1 for agent tokens whose coefficient ignores the advantage.
        ratios_B_T: π/π_old of policy tokens, as the objective takes it; NaN on all other tokens.
        clipped_B_T: where the clip changed a policy token's gradient, or bounds or trust region an agent token's weight.
    """

    loss: Tensor
    sums_R_K: Tensor
    mismatch_max: Tensor
    weights_B_T: Tensor
    pushes_B_T: Tensor
    ratios_B_T: Tensor
    clipped_B_T: Tensor


class _PolicySide(NamedTuple):
    """Of policy tokens; (B, T) each."""

    terms: PolicyTerms
    kl: Tensor
    importance: Tensor
    cut: Tensor
    mismatch: Tensor


def aipo_loss(inputs: LossInputs, method: MethodSettings) -> LossOutput:
    """The loss of one micro-batch, and the sums behind its metrics.

    Raises:
        TrainError: the trainer's log-probs, or whose tokens they are, are needed and missing.
    """
    if method.agents and inputs.agents_B_T is None:
        raise TrainError("agents_B_T: got none, allowed only where method.agents is empty")
    if method.needs_trainer_logprobs and inputs.trainer_logprobs_B_T is None:
        what = "importance_cap" if method.importance_cap is not None else "π_old of agents' tokens"
        raise TrainError(f"{what}: got no log-probs by the trainer, allowed only together with them")
    roles = {name: inputs.codes_B_T == code for name, code in ROLES.items()}
    policy, agent, distilled, rehearsed = roles.values()
    trained = policy | agent | distilled | rehearsed
    advantages_B_T = inputs.advantages_B_T
    # Log-probs of untrained tokens may be NaN or −inf, which must reach neither the loss nor its gradient.
    logprobs = torch.where(trained, inputs.logprobs_B_T, 0.0)
    pi, trainer = logprobs.detach().exp(), inputs.trainer_logprobs_B_T
    pi_old = torch.full_like(pi, torch.nan) if trainer is None else trainer.exp()
    side = _policy_side(inputs, logprobs, policy, advantages_B_T, method)
    probabilities = Probabilities(pi, mu=inputs.behaviour_logprobs_B_T.exp(), pi_old=pi_old)
    agents = agent_weights(probabilities, advantages_B_T, method, inputs.agents_B_T)

    weights = torch.where(distilled, method.distil_weight * (advantages_B_T > 0), agents.weights)
    weights = torch.where(
        rehearsed, rehearsal_weights(logprobs.detach(), inputs.behaviour_logprobs_B_T), weights
    )
    advantages = torch.where(agent, agents.advantages, advantages_B_T)
    sampled = side.terms.terms * side.importance + method.beta * side.kl
    # A token that weighs nothing has no gradient, also where the policy gives it no probability (log π = −inf).
    weighed = torch.where(weights != 0, logprobs, 0.0)
    learned = -advantages * weights * (weighed - weighed.detach()).exp()
    terms = torch.where(policy, sampled, learned).masked_fill(~trained, 0.0) / inputs.denominators_B[:, None]

    with torch.no_grad():
        clipped = torch.where(policy, side.terms.clipped, agents.clipped & agent)
        weights = torch.where(policy, side.terms.weights * side.importance, weights)
        weights = weights.masked_fill(~trained, 0.0)
        pushes = advantages.abs() * weights
        known = torch.full_like(pi, float(trainer is not None))
        for number, name in enumerate(method.agents, 1):
            roles[agent_role(name)] = agent & (inputs.agents_B_T == number)
        sums = _sums(
            roles,
            tokens=torch.ones_like(pi),
            entropy=torch.where(trained, inputs.entropies_B_T, 0.0),
            probability=pi,
            weight=pushes,
            loss=terms.abs(),
            ratio=side.terms.ratios,
            clip=clipped,
            kl=torch.where(rehearsed, k3(inputs.behaviour_logprobs_B_T, logprobs), side.kl),
            importance=side.importance,
            importance_squared=side.importance.square(),
            cut=side.cut,
            mismatch=side.mismatch,
            mismatch_tokens=known,
        )
        ratios = torch.where(policy, side.terms.ratios, torch.nan)
    return LossOutput(terms.sum(), sums, side.mismatch.max(), weights, pushes, ratios, clipped)


def _policy_side(
    inputs: LossInputs, logprobs: Tensor, policy: Tensor, advantages_B_T: Tensor, method: MethodSettings
) -> _PolicySide:
    """Objective, KL term and importance correction of policy tokens."""
    logprobs = torch.where(policy, logprobs, 0.0)
    behaviour = torch.where(policy, inputs.behaviour_logprobs_B_T, 0.0)
    trainer = inputs.trainer_logprobs_B_T
    trainer = behaviour if trainer is None else torch.where(policy, trainer, 0.0)
    old, importance, cut = behaviour, torch.ones_like(behaviour), torch.zeros_like(policy)
    if method.importance_cap is not None:
        old = trainer
        correct = IMPORTANCE_MODES[method.importance_mode]
        importance, cut = correct((trainer - behaviour).exp(), method.importance_cap)
        if OBJECTIVES[method.objective].level == "sequence":
            importance = row_mean(importance, policy)

    log_ratio = torch.where(policy, logprobs - old, 0.0)
    tokens = PolicyTokens(logprobs, log_ratio, policy, advantages_B_T)
    terms = OBJECTIVES[method.objective].terms(tokens, method.clip)
    kl = torch.zeros_like(old)
    if inputs.reference_logprobs_B_T is not None:
        # With the ratio in front, its gradient is that of the KL itself: DeepSeek-V3.2 (2512.02556), as in TRL.
        reference = torch.where(policy, inputs.reference_logprobs_B_T, logprobs.detach())
        kl = terms.ratios * k3(logprobs, reference)
    return _PolicySide(terms, kl, importance, cut, (trainer - behaviour).abs())


def row_mean(values_B_T: Tensor, counted_B_T: Tensor) -> Tensor:
    """The mean over the counted tokens of a row, for each of its tokens; (B, T)."""
    total = torch.where(counted_B_T, values_B_T, 0.0).sum(-1, keepdim=True)
    return (total / counted_B_T.sum(-1, keepdim=True).clamp(min=1)).expand_as(values_B_T)


def rehearsal_weights(logprobs_B_T: Tensor, first_B_T: Tensor) -> Tensor:
    """u = 1 − π/π_first of tokens that were sampled from π_first, in [−1, 1].

    u·∇log π is an estimate of −∇KL(π_first‖π) that is 0 where nothing has changed: the gradient of k3 with the two policies
    exchanged. Without the bound of 2 on the ratio it would be unbiased; a rare token that has become likely would then weigh
    more than all others together.

    Args:
        logprobs_B_T, first_B_T: log-probs of the policy and of the policy before training; (B, T), nats.
    """
    return 1 - (logprobs_B_T - first_B_T).exp().clamp(max=2.0)


def k3(logprobs_B_T: Tensor, reference_B_T: Tensor) -> Tensor:
    """Schulman's unbiased estimator of KL(π‖π_ref) from tokens of π, one by one: e^Δ − Δ − 1, Δ = log π_ref − log π."""
    delta = reference_B_T - logprobs_B_T
    return delta.exp() - delta - 1


def _sums(roles: dict[str, Tensor], **quantities_B_T: Tensor) -> Tensor:
    assert tuple(quantities_B_T) == QUANTITIES
    stacked_K_N = torch.stack([q.flatten().float() for q in quantities_B_T.values()])
    masks_R_N = torch.stack([mask.flatten().float() for mask in roles.values()])
    return masks_R_N @ stacked_K_N.T
