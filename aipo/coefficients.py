"""Coefficients: what an agent-provided token is worth to the policy gradient.

A token that an agent wrote was not sampled from the policy, so there is no ratio π/π_old to clip.
Its term in the loss is −A · w · exp(log π − sg(log π)): the value is −A·w and the gradient is
−A·w·∇log π, for any weight w of the current probability π. A coefficient is one function π, μ → w, where μ
is the probability that the agent's own model gave the token, NaN where that is not known; the weight itself
carries no gradient. Another coefficient (`luffy`, `rlplus`) is one more entry in `COEFFICIENTS`.

What AIPO's paper (2605.08401) uses is not known: its abstract speaks of a coefficient and a clip
against off-policy bias and vanishing gradients. These are the candidates, and the choice is made by
measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aipo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One way to weigh agent tokens.

    Args:
        weight: π, μ and the coefficient's value to w; any shape, elementwise. NaN = not known, and then 0.
        text: one line for people.
        value: default of the value that `weight` takes; None when it takes none.
        clip_high: default of the upper bound.
        needs_mu: whether agents' log-probs have to be recorded.
    """

    weight: Callable[[Tensor, Tensor, float], Tensor]
    text: str
    value: float | None = None
    clip_high: float | None = None
    needs_mu: bool = False


def mask(pi: Tensor, mu: Tensor, _: float) -> Tensor:
    """w = 0: agent tokens are context only, as in ARPO (2507.19849) and SituatedThinker (2505.19300)."""
    return torch.zeros_like(pi)


def proportional(pi: Tensor, mu: Tensor, _: float) -> Tensor:
    """w = π: the gradient of ratio π/1, a behaviour probability of 1 as LUFFY (2504.14945) assumes it,
    without its shaping. Vanishes exactly where the policy has something to learn."""
    return pi


def floor(pi: Tensor, mu: Tensor, value: float) -> Tensor:
    """w = max(π, c): as `pi`, but a token that the policy finds unlikely still counts c."""
    return pi.clamp(min=value)


def constant(pi: Tensor, mu: Tensor, value: float) -> Tensor:
    """w = c: log-likelihood, signed by the advantage; with A = 1 the cross-entropy of SFT."""
    return torch.full_like(pi, value)


def ratio(pi: Tensor, mu: Tensor, _: float) -> Tensor:
    """w = π/μ: the importance ratio of off-policy learning, where μ is known. Bounded from above, or a token that
    the agent's model found unlikely would outweigh all others."""
    return pi / mu


COEFFICIENTS: dict[str, Coefficient] = {
    "mask": Coefficient(mask, "0: agent tokens teach nothing"),
    "pi": Coefficient(proportional, "π: vanishes on what the policy does not know"),
    "floor": Coefficient(floor, "max(π, value)", value=0.3),
    "constant": Coefficient(constant, "value, whatever π is", value=1.0),
    "ratio": Coefficient(ratio, "π/μ, at most 2 or the clip's upper bound", clip_high=2.0, needs_mu=True),
}

NEGATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "zero": lambda pi, weight: torch.zeros_like(weight),
    "pi": lambda pi, weight: pi,
    "same": lambda pi, weight: weight,
}
"""π and w to the weight on rows with A < 0. `zero`: the sign of the advantage is the filter that
protects from agents that err (measured on the miniature)."""


def agent_weights(
    pi_B_T: Tensor,
    advantages_B_1: Tensor,
    *,
    mu_B_T: Tensor | None = None,
    coefficient: str,
    value: float | None = None,
    negatives: str = "zero",
    clip_low: float | None = None,
    clip_high: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights of agent tokens, and where the clip changed them; both (B, T), no gradient.

    Args:
        pi_B_T: current probabilities.
        mu_B_T: by the agents' own models, NaN where not known; None = nowhere known.
        value: of the coefficient; None takes its default.
        clip_low, clip_high: bounds of w on rows with A > 0; None is the coefficient's own bound, or none.

    Raises:
        ConfigError: an unknown name, or a value for a coefficient that takes none.
    """
    chosen, number = resolve(coefficient, value)
    if negatives not in NEGATIVES:
        raise ConfigError(f"negatives: got {negatives!r}, allowed {sorted(NEGATIVES)}")
    pi = pi_B_T.detach()
    mu = torch.full_like(pi, torch.nan) if mu_B_T is None else mu_B_T.detach()
    raw = chosen.weight(pi, mu, number)
    high = chosen.clip_high if clip_high is None else clip_high
    weight = raw if clip_low is None and high is None else raw.clamp(clip_low, high)
    unknown = raw.isnan()
    clipped = (weight != raw) & (advantages_B_1 > 0) & ~unknown
    signed = torch.where(advantages_B_1 < 0, NEGATIVES[negatives](pi, weight), weight)
    return signed.masked_fill(unknown, 0.0), clipped


def resolve(coefficient: str, value: float | None) -> tuple[Coefficient, float]:
    """The coefficient of that name, and `value` or its default.

    Raises:
        ConfigError: an unknown name, or a value for a coefficient that takes none.
    """
    if coefficient not in COEFFICIENTS:
        raise ConfigError(f"coefficient: got {coefficient!r}, allowed {sorted(COEFFICIENTS)}")
    chosen = COEFFICIENTS[coefficient]
    if value is not None and chosen.value is None:
        raise ConfigError(
            f"value of coefficient {coefficient!r}: got {value}, allowed none, it takes no value"
        )
    return chosen, value if value is not None else chosen.value or 0.0
