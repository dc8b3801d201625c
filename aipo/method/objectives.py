"""The loss of the policy's own tokens: the objective with its clip, and the importance correction.

A policy token has a ratio r = π/π_old. An objective says what happens when r leaves the bounds [1 − ε_low, 1 + ε_high].
It is one function from log-probs to loss terms, with what its paper says about bounds and averages. To add an
objective, add an entry to `OBJECTIVES`. On rows with policy tokens only, each equals TRL's.

The importance correction is for the mismatch between inference engine and trainer. An inference server computes with
other kernels, and often in other number types, than the trainer. With the same weights, its probability μ differs a
little from the trainer's π_old. π_old/μ is the importance weight that corrects this, limited by a cap C. Only policy
tokens have one: agents' tokens and distilled tokens were not sampled from μ in this context. The modes and bounds are
those of `token_truncate` and `token_mask` in TRL. Where the objective has one ratio for a row (GSPO), each token has
the mean of its row's corrections, as in TRL: a correction of its own would turn the gradient of that one ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Clip(NamedTuple):
    """Bounds 1 − low and 1 + high of the ratio. With `keeps_gradient`, a token outside has the gradient of the bound;
    otherwise it has none."""

    low: float
    high: float
    keeps_gradient: bool = False


class PolicyTokens(NamedTuple):
    """The inputs of an objective.

    Args:
        logprobs: log π, (B, T); carries the gradient.
        log_ratio: log π/π_old, (B, T); 0 on tokens that are not the policy's.
        policy: which tokens are the policy's, (B, T) bool.
        advantages: (B, T), or (B, 1) where a row has one.
    """

    logprobs: Tensor
    log_ratio: Tensor
    policy: Tensor
    advantages: Tensor


class PolicyTerms(NamedTuple):
    """The objective of each policy token; (B, T) each.

    Args:
        terms: loss terms, before they are divided by the row's denominator.
        weights: the weight of A·∇log π in the gradient of a term.
        ratios: π/π_old.
        clipped: where the clip changed a gradient.
    """

    terms: Tensor
    weights: Tensor
    ratios: Tensor
    clipped: Tensor


def ppo_clip(tokens: PolicyTokens, clip: Clip) -> PolicyTerms:
    """−min(r·A, clip(r)·A), token by token: PPO (1707.06347), equation 7; the two-sided ε: DAPO (2503.14476).

    A token that is clipped has no gradient. Where the clip keeps it, the value is the same, and the gradient that
    of the bound, (1 ± ε)·A·∇log π: GPPO (Klear-Reasoner, 2508.07629).
    """
    low, high = 1 - clip.low, 1 + clip.high
    ratio = tokens.log_ratio.exp()
    bounded = ratio.clamp(low, high)
    if clip.keeps_gradient:
        bounded = bounded.detach() * (tokens.log_ratio - tokens.log_ratio.detach()).exp()
    terms = -(ratio * tokens.advantages).minimum(bounded * tokens.advantages)
    down, up = tokens.advantages < 0, tokens.advantages > 0
    clipped = tokens.policy & (((ratio < low) & down) | ((ratio > high) & up))
    kept = bounded.detach() if clip.keeps_gradient else ratio.new_zeros(())
    return PolicyTerms(terms, kept.where(clipped, ratio.detach()), ratio, clipped)


def sequence_clip(tokens: PolicyTokens, clip: Clip) -> PolicyTerms:
    """PPO's clip of one ratio for the whole row, the geometric mean of its policy tokens' ratios: GSPO
    (2507.18071), equations 5 and 7. What agents wrote is no part of the mean.

    Each token has it as value and its own gradient (GSPO-token, equation 14), which is the same in sum where a row has one
    advantage.
    """
    count = tokens.policy.sum(-1, keepdim=True).clamp(min=1)
    mean = tokens.log_ratio.sum(-1, keepdim=True) / count
    by_token = mean.detach() + tokens.log_ratio - tokens.log_ratio.detach()
    terms = ppo_clip(tokens._replace(log_ratio=by_token), clip)
    return terms._replace(ratios=mean.exp().expand_as(tokens.log_ratio))


def cispo(tokens: PolicyTokens, clip: Clip) -> PolicyTerms:
    """−sg(clip(r))·A·log π: the weight is clipped and the gradient stays: CISPO (MiniMax-M1, 2506.13585), which
    sets no lower bound."""
    ratio = tokens.log_ratio.exp()
    weights = ratio.detach().clamp(1 - clip.low, 1 + clip.high)
    clipped = tokens.policy & (weights != ratio.detach())
    return PolicyTerms(-weights * tokens.advantages * tokens.logprobs, weights, ratio, clipped)


@dataclass(frozen=True, slots=True)
class Objective:
    """One way to learn from policy tokens.

    Args:
        terms: tokens and clip to terms.
        average: what a row's terms are divided by, see `aipo.method.batch.denominators`.
        loss_type, level: what TRL calls it: `loss_type` and `importance_sampling_level` of its `GRPOConfig`. With
            `sequence`, the ratio and the importance correction are one number for a row.
        clip_low, clip_high: default bounds; an infinite `clip_low` is none.
        stops: whether a clipped token has no gradient.
    """

    terms: Callable[[PolicyTokens, Clip], PolicyTerms]
    average: Literal["row", "tokens", "length"]
    loss_type: str
    level: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    stops: bool = True

    def trl(self, clip: Clip) -> dict[str, Any]:
        """The objective with these bounds as arguments of TRL's `GRPOConfig`."""
        # For CISPO TRL's epsilon_high is the bound itself, and it has no lower one.
        bounds = (
            {"epsilon": clip.low, "epsilon_high": clip.high}
            if self.stops
            else {"epsilon_high": 1 + clip.high}
        )
        return {"loss_type": self.loss_type, "importance_sampling_level": self.level, **bounds}


OBJECTIVES: dict[str, Objective] = {
    # GRPO (DeepSeekMath, 2402.03300): PPO's clip; every row counts the same.
    "grpo": Objective(ppo_clip, "row", "grpo", clip_high=0.2),
    # DAPO (2503.14476): PPO's clip; every token counts the same.
    "dapo": Objective(ppo_clip, "tokens", "dapo"),
    # Dr. GRPO (2503.20783): PPO's clip; divided by the longest rollout allowed.
    "dr_grpo": Objective(ppo_clip, "length", "dr_grpo", clip_high=0.2),
    # GSPO (2507.18071): one ratio for a row, clipped.
    "gspo": Objective(sequence_clip, "row", "grpo", "sequence", clip_low=3e-4, clip_high=4e-4),
    # CISPO (2506.13585): the weight is clipped, the gradient stays. The default is ScaleRL's 5 (2510.13786).
    "cispo": Objective(cispo, "tokens", "cispo", clip_low=math.inf, clip_high=4.0, stops=False),
}


def truncate(ratio: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """min(π_old/μ, C): one token cannot count more than C times; truncated importance sampling (Ionides 2008)."""
    return ratio.clamp(max=cap), ratio > cap


def mask(ratio: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """π_old/μ within [1/C, C], and 0 outside: a token on which the two disagree more teaches nothing."""
    outside = (ratio < 1 / cap) | (ratio > cap)
    return ratio.masked_fill(outside, 0.0), outside


IMPORTANCE_MODES: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "truncate": truncate,
    "mask": mask,
}
"""π_old/μ and C to the importance weight, and where C changed it; any shape, elementwise."""
