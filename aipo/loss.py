"""The objective: a pure function of tensors.

Policy tokens have a ratio π/π_old and PPO's clip; agent tokens and distilled tokens have a weight
(see `aipo.coefficients`). Which token is which was decided when the rows were made; nothing is
decided here. With policy tokens alone the loss equals TRL's, for every objective in `OBJECTIVES`.

    loss = Σ_b 1/denominator_b · Σ_t term_bt
    term = −min(r·A, clip(r)·A) · c + β·r·KL    policy      r = π/π_old, c see `aipo.correction`
         = −A·w·exp(log π − sg(log π))          agent       w by coefficient and sign of A
         = −A·v·exp(log π − sg(log π))          distilled   v a number, A > 0 only
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aipo.coefficients import NEGATIVES, agent_weights, resolve
from aipo.correction import CORRECTIONS, check_correction
from aipo.errors import ConfigError, TrainError
from aipo.row import Code

ROLES = {"policy": Code.POLICY, "agent": Code.AGENT, "distilled": Code.DISTILLED}
QUANTITIES: tuple[str, ...] = (
    "tokens",
    "entropy",
    "probability",
    "weight",
    "loss",
    "ratio",
    "clip",
    "kl",
    "importance",
    "importance_squared",
    "cut",
    "drift",
    "drift_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """How tokens become a loss.

    Args:
        objective: a name in `OBJECTIVES`.
        clip_low, clip_high: the ratio is clipped to [1 − clip_low, 1 + clip_high].
        beta: weight of the KL term to the reference model; 0 = none.
        coefficient, coefficient_value: see `aipo.coefficients`; None takes the default value.
        coefficient_clip_low, coefficient_clip_high: bounds of the agents' weight; None = none.
        negatives: rule for agent tokens on rows with A < 0.
        distil_weight: weight of distilled tokens.
        correction: what C does to the correction from sampler to trainer, a name in
            `aipo.correction.CORRECTIONS`.
        importance_cap: C; a correction needs log-probs by the trainer. None = no correction.

    Raises:
        ConfigError: an unknown name or a number out of its range.
    """

    objective: str = "dapo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    beta: float = 0.0
    coefficient: str = "constant"
    coefficient_value: float | None = None
    coefficient_clip_low: float | None = None
    coefficient_clip_high: float | None = None
    negatives: str = "zero"
    distil_weight: float = 1.0
    correction: str = "truncate"
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective: got {self.objective!r}, allowed {sorted(OBJECTIVES)}")
        if self.negatives not in NEGATIVES:
            raise ConfigError(f"negatives: got {self.negatives!r}, allowed {sorted(NEGATIVES)}")
        resolve(self.coefficient, self.coefficient_value)
        for name in ("clip_low", "clip_high", "beta", "distil_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= 0")
        check_correction(self.correction, self.importance_cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Tensors of B rows and T completion tokens; log-probs in nats.

    Args:
        logprobs_B_T: of the current policy; the one that carries a gradient.
        entropies_B_T: of the current policy; for the metrics.
        behaviour_B_T: by the sampler; on agents' tokens by their own model. NaN where not known.
        trainer_B_T: by the trainer with the weights that sampled; None when not known. It tells how far
            the sampler is from the trainer, and is π_old where this is corrected (else the sampler's is).
        reference_B_T: by the reference model, when there is a KL term.
        codes_B_T: int8, see `aipo.row.Code`.
    """

    logprobs_B_T: Tensor
    entropies_B_T: Tensor
    behaviour_B_T: Tensor
    codes_B_T: Tensor
    advantages_B: Tensor
    denominators_B: Tensor
    trainer_B_T: Tensor | None = None
    reference_B_T: Tensor | None = None

    @classmethod
    def of(
        cls, batch: Mapping[str, Tensor], logprobs_B_T: Tensor, entropies_B_T: Tensor, *, fresh: bool
    ) -> "LossInputs":
        """A batch (`aipo.batch.collate`) and its scores.

        It may hold `old_per_token_logps`, by the trainer with the weights that sampled, and
        `ref_per_token_logps`. `fresh` says that these are the current weights.
        """
        old = batch.get("old_per_token_logps")
        return cls(
            logprobs_B_T=logprobs_B_T,
            entropies_B_T=entropies_B_T,
            behaviour_B_T=batch["behaviour"],
            codes_B_T=batch["codes"],
            advantages_B=batch["advantages"],
            denominators_B=batch["denominators"],
            trainer_B_T=old if old is not None else logprobs_B_T.detach() if fresh else None,
            reference_B_T=batch.get("ref_per_token_logps"),
        )


class LossOutput(NamedTuple):
    """The loss, what the metrics are made of, and what became of each token.

    Args:
        loss: scalar; the only part that carries a gradient.
        sums_R_K: float32 sums over tokens, by role (`ROLES`) and quantity (`QUANTITIES`).
        drift_max: largest |Δ log-prob| between sampler and trainer; 0 where not known.
        weights_B_T: w of A·∇log π. Policy tokens: ratio × correction, 0 where clipped or masked, without
            the KL term. Agent and distilled tokens: their coefficient. 0 on all others.
        ratios_B_T: π/π_old of policy tokens; NaN on all others.
        clipped_B_T: where the clip removed a policy token's gradient or changed an agent token's weight.
    """

    loss: Tensor
    sums_R_K: Tensor
    drift_max: Tensor
    weights_B_T: Tensor
    ratios_B_T: Tensor
    clipped_B_T: Tensor


class Policy(NamedTuple):
    """Terms of policy tokens, the weight of A·∇log π in them, the ratio, and where the clip acted; (B, T)."""

    terms: Tensor
    weights: Tensor
    ratios: Tensor
    clipped: Tensor


Objective = Callable[[Tensor, Tensor, Tensor, LossSettings], Policy]


def ppo_clip(log_ratio_B_T: Tensor, policy_B_T: Tensor, advantages_B_1: Tensor, how: LossSettings) -> Policy:
    """−min(r·A, clip(r, 1−ε_low, 1+ε_high)·A), token by token: PPO (1707.06347), equation 7; the
    two-sided ε: DAPO (2503.14476)."""
    ratio = log_ratio_B_T.exp()
    clip = ratio.clamp(1 - how.clip_low, 1 + how.clip_high)
    terms = -torch.minimum(ratio * advantages_B_1, clip * advantages_B_1)
    low, high = ratio < 1 - how.clip_low, ratio > 1 + how.clip_high
    clipped = policy_B_T & ((low & (advantages_B_1 < 0)) | (high & (advantages_B_1 > 0)))
    return Policy(terms, ratio.detach().masked_fill(clipped, 0.0), ratio, clipped)


OBJECTIVES: dict[str, Objective] = {"grpo": ppo_clip, "dapo": ppo_clip, "dr_grpo": ppo_clip}


def aipo_loss(inputs: LossInputs, how: LossSettings) -> LossOutput:
    """The loss of one micro-batch, and the sums behind its metrics.

    Raises:
        TrainError: a correction, and no log-probs by the trainer.
    """
    roles = {name: inputs.codes_B_T == code for name, code in ROLES.items()}
    policy, agent, distilled = roles.values()
    trained = policy | agent | distilled
    advantages = inputs.advantages_B[:, None]
    # What is not trained may be NaN or −inf; it must reach neither the loss nor its gradient.
    logprobs = torch.where(trained, inputs.logprobs_B_T, 0.0)
    behaviour = torch.where(policy, inputs.behaviour_B_T, 0.0)
    trainer = behaviour if inputs.trainer_B_T is None else torch.where(policy, inputs.trainer_B_T, 0.0)
    old, importance, cut = behaviour, torch.ones_like(behaviour), torch.zeros_like(policy)
    if how.importance_cap is not None:
        if inputs.trainer_B_T is None:
            raise TrainError(
                "importance_cap: got no log-probs by the trainer, allowed a cap together with them"
            )
        old = trainer
        importance, cut = CORRECTIONS[how.correction]((trainer - behaviour).exp(), how.importance_cap)

    own = OBJECTIVES[how.objective](torch.where(policy, logprobs - old, 0.0), policy, advantages, how)
    kl = torch.zeros_like(old)
    if inputs.reference_B_T is not None:
        # With the ratio in front, its gradient is that of the KL itself: DeepSeek-V3.2 (2512.02556), as in TRL.
        kl = own.ratios * k3(logprobs, torch.where(policy, inputs.reference_B_T, logprobs.detach()))

    pi = logprobs.detach().exp()
    weights, clipped = agent_weights(
        pi,
        advantages,
        mu_B_T=inputs.behaviour_B_T.exp(),
        coefficient=how.coefficient,
        value=how.coefficient_value,
        negatives=how.negatives,
        clip_low=how.coefficient_clip_low,
        clip_high=how.coefficient_clip_high,
    )
    weights = torch.where(distilled, how.distil_weight * (advantages > 0), weights)
    given = -advantages * weights * (logprobs - logprobs.detach()).exp()
    sampled = own.terms * importance + how.beta * kl
    terms = torch.where(policy, sampled, given).masked_fill(~trained, 0.0) / inputs.denominators_B[:, None]

    with torch.no_grad():
        clipped = torch.where(policy, own.clipped, clipped & agent)
        weights = torch.where(policy, own.weights * importance, weights).masked_fill(~trained, 0.0)
        drift = (trainer - behaviour).abs()
        known = torch.full_like(drift, float(inputs.trainer_B_T is not None))
        sums = _sums(
            roles,
            tokens=torch.ones_like(drift),
            entropy=torch.where(trained, inputs.entropies_B_T, 0.0),
            probability=pi,
            weight=advantages.abs() * weights,
            loss=terms.abs(),
            ratio=own.ratios,
            clip=clipped,
            kl=kl,
            importance=importance,
            importance_squared=importance.square(),
            cut=cut,
            drift=drift,
            drift_tokens=known,
        )
        ratios = torch.where(policy, own.ratios, torch.nan)
    return LossOutput(terms.sum(), sums, drift.max(), weights, ratios, clipped)


def k3(logprobs_B_T: Tensor, reference_B_T: Tensor) -> Tensor:
    """Schulman's unbiased estimator of KL(π‖π_ref), token by token: e^Δ − Δ − 1, Δ = log π_ref − log π."""
    delta = reference_B_T - logprobs_B_T
    return delta.exp() - delta - 1


def token_logprobs(
    logits_B_T_V: Tensor, token_ids_B_T: Tensor, *, temperature: float, forbidden_B_F: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probs of the tokens and entropies of their distributions (nats), each (B, T).

    Forbidden ids (−1 = none) have probability 0, as they had when the row was sampled.
    """
    logits = logits_B_T_V.float() / temperature
    if forbidden_B_F is not None:
        rows, vocabulary = logits.shape[0], logits.shape[-1]
        hidden = torch.zeros(rows, vocabulary + 1, dtype=torch.bool, device=logits.device)
        hidden.scatter_(1, torch.where(forbidden_B_F < 0, vocabulary, forbidden_B_F), True)
        logits = logits.masked_fill(hidden[:, None, :vocabulary], -torch.inf)
    log_pi = logits.log_softmax(-1)
    entropies = torch.special.entr(log_pi.detach().exp()).sum(-1)
    return log_pi.gather(-1, token_ids_B_T[..., None]).squeeze(-1), entropies


def _sums(roles: dict[str, Tensor], **quantities_B_T: Tensor) -> Tensor:
    assert tuple(quantities_B_T) == QUANTITIES
    stacked_K_N = torch.stack([q.flatten().float() for q in quantities_B_T.values()])
    masks_R_N = torch.stack([mask.flatten().float() for mask in roles.values()])
    return masks_R_N @ stacked_K_N.T
