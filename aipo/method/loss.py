"""The objective: a pure function of tensors.

Policy tokens have a ratio π/π_old and an objective (see `aipo.method.objectives`); agent tokens and distilled tokens
have a weight (see `aipo.method.coefficients` and `aipo.method.weighing`). Which token is which was decided when the rows were
made; nothing is decided here. With policy tokens alone the loss equals TRL's, for every objective.

    loss = Σ_b 1/denominator_b · Σ_t term_bt
    term = objective(r, A) · c + β·r·KL      policy      r = π/π_old, c see `aipo.method.correction`
         = −A·w·exp(log π − sg(log π))       agent       w by coefficient and sign of A (for `echo`, A := 1)
         = −A·v·exp(log π − sg(log π))       distilled   v a number, A > 0 only
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aipo.errors import ConfigError, TrainError
from aipo.method.coefficients import Known
from aipo.method.correction import CORRECTIONS, check_correction
from aipo.method.objectives import OBJECTIVES, Clip, Sampled, check_denominator, clip_of
from aipo.method.rows import Code
from aipo.method.weighing import Weighing, agent_weights

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
    "mismatch",
    "mismatch_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings(Weighing):
    """How tokens become a loss; how agents' tokens do is `aipo.method.weighing.Weighing`.

    Args:
        objective: a name in `aipo.method.objectives.OBJECTIVES`.
        clip_low, clip_high: the ratio is clipped to [1 − clip_low, 1 + clip_high]; None is the objective's own.
        clip_keeps_gradient: a token that is clipped keeps the bound's gradient.
        denominator: whose tokens averages count, a name in `aipo.method.objectives.DENOMINATORS`.
        beta: weight of the KL term to the reference model; 0 = none.
        distil_weight: weight of distilled tokens.
        importance_mode: what C does to the correction from sampler to trainer, a name in
            `aipo.method.correction.CORRECTIONS`.
        importance_cap: C; a correction needs log-probs by the trainer. None = no correction.

    Raises:
        ConfigError: an unknown name, a number out of its range, or settings that contradict each other.
    """

    objective: str = "dapo"
    clip_low: float | None = None
    clip_high: float | None = None
    clip_keeps_gradient: bool = False
    denominator: str = "policy"
    beta: float = 0.0
    distil_weight: float = 1.0
    importance_mode: str = "truncate"
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        Weighing.__post_init__(self)
        _ = self.clip  # refused here where it cannot be
        check_denominator(self.objective, self.denominator)
        for name in ("beta", "distil_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= 0")
        check_correction(self.importance_mode, self.importance_cap)

    @property
    def clip(self) -> Clip:
        """The bounds of policy tokens' ratio."""
        return clip_of(self.objective, self.clip_low, self.clip_high, keeps_gradient=self.clip_keeps_gradient)

    @property
    def needs_trainer(self) -> bool:
        """Whether the trainer's log-probs, by the weights that sampled, have to be known in every step."""
        return self.importance_cap is not None or self.needs_old


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Tensors of B rows and T completion tokens; log-probs in nats.

    Args:
        logprobs_B_T: of the current policy; the one that carries a gradient.
        entropies_B_T: of the current policy; for the metrics.
        behaviour_B_T: by the sampler; on agents' tokens by their own model. NaN where not known.
        trainer_B_T: by the trainer with the weights that sampled; None when not known. It tells how far
            the sampler is from the trainer, and is π_old of policy tokens where this is corrected (else the
            sampler's is), and of agents' tokens always.
        reference_B_T: by the reference model, when there is a KL term.
        codes_B_T: int8, see `aipo.method.rows.Code`.
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
        """A batch (`aipo.method.batch.collate`) and its scores.

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
        mismatch_max: largest |Δ log-prob| between sampler and trainer; 0 where not known.
        weights_B_T: w of A·∇log π. Policy tokens: what the objective leaves of the ratio × correction, 0 where
            masked, without the KL term. Agent and distilled tokens: their weight. 0 on all others.
        pushes_B_T: |A|·w, with A = 1 for agents' tokens that are learned without regard to it.
        ratios_B_T: π/π_old of policy tokens, as the objective takes it; NaN on all others.
        clipped_B_T: where the clip changed a policy token's gradient or an agent token's weight.
    """

    loss: Tensor
    sums_R_K: Tensor
    mismatch_max: Tensor
    weights_B_T: Tensor
    pushes_B_T: Tensor
    ratios_B_T: Tensor
    clipped_B_T: Tensor


def aipo_loss(inputs: LossInputs, how: LossSettings) -> LossOutput:
    """The loss of one micro-batch, and the sums behind its metrics.

    Raises:
        TrainError: log-probs by the trainer are needed, and there are none.
    """
    if how.needs_trainer and inputs.trainer_B_T is None:
        what = "importance_cap" if how.importance_cap is not None else "π_old of agents' tokens"
        raise TrainError(f"{what}: got no log-probs by the trainer, allowed only together with them")
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
        old = trainer
        importance, cut = CORRECTIONS[how.importance_mode]((trainer - behaviour).exp(), how.importance_cap)

    log_ratio = torch.where(policy, logprobs - old, 0.0)
    own = OBJECTIVES[how.objective].terms(Sampled(logprobs, log_ratio, policy, advantages), how.clip)
    kl = torch.zeros_like(old)
    if inputs.reference_B_T is not None:
        # With the ratio in front, its gradient is that of the KL itself: DeepSeek-V3.2 (2512.02556), as in TRL.
        kl = own.ratios * k3(logprobs, torch.where(policy, inputs.reference_B_T, logprobs.detach()))

    pi = logprobs.detach().exp()
    given = agent_weights(_known(pi, inputs), advantages, how)
    weights = torch.where(distilled, how.distil_weight * (advantages > 0), given.weights)
    advantages = torch.where(agent, given.advantages, advantages)
    sampled = own.terms * importance + how.beta * kl
    learned = -advantages * weights * (logprobs - logprobs.detach()).exp()
    terms = torch.where(policy, sampled, learned).masked_fill(~trained, 0.0) / inputs.denominators_B[:, None]

    with torch.no_grad():
        clipped = torch.where(policy, own.clipped, given.clipped & agent)
        weights = torch.where(policy, own.weights * importance, weights).masked_fill(~trained, 0.0)
        pushes = advantages.abs() * weights
        drift = (trainer - behaviour).abs()
        known = torch.full_like(drift, float(inputs.trainer_B_T is not None))
        sums = _sums(
            roles,
            tokens=torch.ones_like(drift),
            entropy=torch.where(trained, inputs.entropies_B_T, 0.0),
            probability=pi,
            weight=pushes,
            loss=terms.abs(),
            ratio=own.ratios,
            clip=clipped,
            kl=kl,
            importance=importance,
            importance_squared=importance.square(),
            cut=cut,
            mismatch=drift,
            mismatch_tokens=known,
        )
        ratios = torch.where(policy, own.ratios, torch.nan)
    return LossOutput(terms.sum(), sums, drift.max(), weights, pushes, ratios, clipped)


def _known(pi_B_T: Tensor, inputs: LossInputs) -> Known:
    old = torch.full_like(pi_B_T, torch.nan) if inputs.trainer_B_T is None else inputs.trainer_B_T.exp()
    return Known(pi=pi_B_T, mu=inputs.behaviour_B_T.exp(), old=old)


def k3(logprobs_B_T: Tensor, reference_B_T: Tensor) -> Tensor:
    """Schulman's unbiased estimator of KL(π‖π_ref), token by token: e^Δ − Δ − 1, Δ = log π_ref − log π."""
    delta = reference_B_T - logprobs_B_T
    return delta.exp() - delta - 1


def _sums(roles: dict[str, Tensor], **quantities_B_T: Tensor) -> Tensor:
    assert tuple(quantities_B_T) == QUANTITIES
    stacked_K_N = torch.stack([q.flatten().float() for q in quantities_B_T.values()])
    masks_R_N = torch.stack([mask.flatten().float() for mask in roles.values()])
    return masks_R_N @ stacked_K_N.T
