"""Objectives: what a policy's own token is worth to the policy gradient.

A policy token has a ratio r = π/π_old, and an objective says what becomes of it where it leaves its bounds
[1 − ε_low, 1 + ε_high]. An objective is one function from log-probs to terms, and what its paper says about
bounds and averages. Another one is one more entry in `OBJECTIVES`. With policy tokens alone each is TRL's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aipo.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

DENOMINATORS = ("policy", "union")
"""Whose tokens averages count: the policy's, or the agents' as well."""


class Clip(NamedTuple):
    """Bounds 1 − low and 1 + high of the ratio. `keeps_gradient` says that a token outside has the gradient of the
    bound, and not none."""

    low: float
    high: float
    keeps_gradient: bool = False


class Sampled(NamedTuple):
    """What an objective is told: log π, which carries the gradient, log π/π_old (0 where no policy token is) and
    which tokens are the policy's, (B, T) each; and the advantages, (B, 1)."""

    logprobs: Tensor
    log_ratio: Tensor
    policy: Tensor
    advantages: Tensor


class Terms(NamedTuple):
    """Terms of policy tokens, the weight of A·∇log π in them, the ratio, and where the clip acted; (B, T)."""

    terms: Tensor
    weights: Tensor
    ratios: Tensor
    clipped: Tensor


def ppo_clip(own: Sampled, clip: Clip) -> Terms:
    """−min(r·A, clip(r)·A), token by token: PPO (1707.06347), equation 7; the two-sided ε: DAPO (2503.14476).

    A token that is clipped has no gradient. Where the clip keeps it, the value is the same, and the gradient that
    of the bound, (1 ± ε)·A·∇log π: GPPO (Klear-Reasoner, 2508.07629).
    """
    low, high = 1 - clip.low, 1 + clip.high
    ratio = own.log_ratio.exp()
    bounded = ratio.clamp(low, high)
    if clip.keeps_gradient:
        bounded = bounded.detach() * (own.log_ratio - own.log_ratio.detach()).exp()
    terms = -(ratio * own.advantages).minimum(bounded * own.advantages)
    down, up = own.advantages < 0, own.advantages > 0
    clipped = own.policy & (((ratio < low) & down) | ((ratio > high) & up))
    kept = bounded.detach() if clip.keeps_gradient else ratio.new_zeros(())
    return Terms(terms, kept.where(clipped, ratio.detach()), ratio, clipped)


def sequence_clip(own: Sampled, clip: Clip) -> Terms:
    """PPO's clip of one ratio for the whole row, the geometric mean of its policy tokens' ratios: GSPO
    (2507.18071), equations 5 and 7. What agents wrote is no part of the mean.

    Each token has it as value and its own gradient (GSPO-token, equation 14), which is the same in sum because a
    row has one advantage.
    """
    tokens = own.policy.sum(-1, keepdim=True).clamp(min=1)
    mean = own.log_ratio.sum(-1, keepdim=True) / tokens
    by_token = mean.detach() + own.log_ratio - own.log_ratio.detach()
    made = ppo_clip(own._replace(log_ratio=by_token), clip)
    return made._replace(ratios=mean.exp().expand_as(own.log_ratio))


def cispo(own: Sampled, clip: Clip) -> Terms:
    """−sg(clip(r))·A·log π: the weight is clipped and the gradient stays: CISPO (MiniMax-M1, 2506.13585), which
    sets no lower bound."""
    ratio = own.log_ratio.exp()
    weights = ratio.detach().clamp(1 - clip.low, 1 + clip.high)
    clipped = own.policy & (weights != ratio.detach())
    return Terms(-weights * own.advantages * own.logprobs, weights, ratio, clipped)


def _ppo_of_trl(loss_type: str, level: str = "token") -> Callable[[Clip], dict[str, Any]]:
    return lambda clip: {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "epsilon": clip.low,
        "epsilon_high": clip.high,
    }


@dataclass(frozen=True, slots=True)
class Objective:
    """One way to learn from policy tokens.

    Args:
        terms: tokens and clip to terms.
        text: one line for people.
        average: what a row's terms are divided by, see `aipo.method.batch.AVERAGES`.
        trl: what TRL calls it, and these bounds: arguments of its `GRPOConfig`.
        clip_low, clip_high: default bounds; an infinite `clip_low` is none.
        stops: whether its clip takes gradients away; only then there is one to keep.
    """

    terms: Callable[[Sampled, Clip], Terms]
    text: str
    average: Literal["row", "tokens", "length"]
    trl: Callable[[Clip], dict[str, Any]]
    clip_low: float = 0.2
    clip_high: float = 0.28
    stops: bool = True


OBJECTIVES: dict[str, Objective] = {
    "grpo": Objective(
        ppo_clip, "PPO's clip, every row alike (2402.03300)", "row", _ppo_of_trl("grpo"), clip_high=0.2
    ),
    "dapo": Objective(ppo_clip, "PPO's clip, every token alike (2503.14476)", "tokens", _ppo_of_trl("dapo")),
    "dr_grpo": Objective(
        ppo_clip,
        "PPO's clip, by the longest rollout allowed (2503.20783)",
        "length",
        _ppo_of_trl("dr_grpo"),
        clip_high=0.2,
    ),
    "gspo": Objective(
        sequence_clip,
        "one ratio for a row, clipped (2507.18071)",
        "row",
        _ppo_of_trl("grpo", "sequence"),
        clip_low=3e-4,
        clip_high=4e-4,
    ),
    "cispo": Objective(
        cispo,
        "the weight is clipped, the gradient stays (2506.13585)",
        "tokens",
        # TRL's epsilon_high is the bound itself, and it has no lower one. The default is ScaleRL's 5 (2510.13786).
        lambda clip: {
            "loss_type": "cispo",
            "importance_sampling_level": "token",
            "epsilon_high": 1 + clip.high,
        },
        clip_low=math.inf,
        clip_high=4.0,
        stops=False,
    ),
}


def clip_of(objective: str, low: float | None, high: float | None, *, keeps_gradient: bool) -> Clip:
    """The bounds of an objective's ratio; None takes its own.

    Raises:
        ConfigError: an unknown objective, or bounds that it cannot have.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective: got {objective!r}, allowed {sorted(OBJECTIVES)}")
    chosen = OBJECTIVES[objective]
    for name, value in (("clip_low", low), ("clip_high", high)):
        if value is not None and not value >= 0:
            raise ConfigError(f"{name}: got {value}, allowed >= 0")
    if keeps_gradient and not chosen.stops:
        raise ConfigError(
            f"clip_keeps_gradient: got true with objective {objective!r}, whose clip takes no gradient away, "
            f"allowed with {sorted(name for name, one in OBJECTIVES.items() if one.stops)}"
        )
    return Clip(
        chosen.clip_low if low is None else low, chosen.clip_high if high is None else high, keeps_gradient
    )


def check_denominator(objective: str, denominator: str) -> None:
    """Refuses a count of tokens that cannot be meant.

    Raises:
        ConfigError: an unknown name, or a union where no tokens are counted.
    """
    if denominator not in DENOMINATORS:
        raise ConfigError(f"denominator: got {denominator!r}, allowed {list(DENOMINATORS)}")
    if denominator == "union" and OBJECTIVES[objective].average == "length":
        raise ConfigError(
            f"denominator: got 'union' with objective {objective!r}, which counts no tokens, allowed 'policy'"
        )
