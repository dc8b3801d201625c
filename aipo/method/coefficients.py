"""Coefficients: what an agent-provided token is worth to the policy gradient.

A token that an agent wrote was not sampled from the policy, so there is no ratio π/π_old to clip.
Its term in the loss is −A · w · exp(log π − sg(log π)): the value is −A·w and the gradient is
−A·w·∇log π, for any weight w of what is known of the token; the weight itself carries no gradient. A
coefficient is one such function, and another one is one more entry in `COEFFICIENTS`. Bounds, the rule for A < 0
and the trust region are in `aipo.method.weighing`.

What AIPO's paper (2605.08401) uses is not known. Its abstract claims a coefficient and a clip for agents'
tokens against two ills, which in these terms are:

*Off-policy bias.* A is estimated for what the policy samples, and A·∇log π (w = 1) follows it as if the policy had
sampled the token. What corrects this is the ratio π/μ, or π where μ, the agent's own probability, is unknown and
taken to be 1. The further w is from it, the larger the bias.
*Vanishing gradient.* On logits, ∇log π is 1 − π for the token itself, so that it moves by w·(1 − π). With w = π
nothing moves where π is about 0, which is exactly what the policy does not know yet.

`power` with its bounds is the smallest family between the two: w = max(c, π^α), the gradient of (π^α − 1)/α. α = 1
corrects in full, α → 0 is log-likelihood; c keeps every token moving, and since w ≤ 1 no token outweighs one of
the policy's own. c = 0 and α = 1 is `pi`, any c and α = 1 `floor`, α = 0 `constant` 1.
The clip that goes with it is the trust region of `aipo.method.weighing`. On the miniature no coefficient was measured to be
better beside distilled rows than `mask`, the default, with which agents' own tokens teach nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Known(NamedTuple):
    """Probabilities of agents' tokens; one shape, NaN where not known.

    Args:
        pi: by the policy as it is.
        mu: by the agent's own model.
        old: by the policy as it was when the generation was sampled.
    """

    pi: Tensor
    mu: Tensor
    old: Tensor


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One way to weigh agent tokens.

    Args:
        weight: what is known of tokens, and the coefficient's value, to w; elementwise. NaN = not known, and then 0.
        text: one line for people.
        value: default of the value that `weight` takes; None when it takes none.
        values: the least and the largest one that makes sense.
        clip_low, clip_high: default bounds of w.
        needs_mu: whether agents' log-probs have to be recorded.
        needs_old: whether rows have to be scored by the weights that sampled.
        signed: whether the weight is of A·∇log π; else of ∇log π, whatever the advantage is.
    """

    weight: Callable[[Known, float], Tensor]
    text: str
    value: float | None = None
    values: tuple[float, float] = (0.0, math.inf)
    clip_low: float | None = None
    clip_high: float | None = None
    needs_mu: bool = False
    needs_old: bool = False
    signed: bool = True


def mask(known: Known, _: float) -> Tensor:
    """w = 0: agents' own tokens are context only, as in ARPO (2507.19849) and SituatedThinker (2505.19300)."""
    return known.pi.new_zeros(known.pi.shape)


def proportional(known: Known, _: float) -> Tensor:
    """w = π: the gradient of ratio π/1, a behaviour probability of 1 as LUFFY (2504.14945) assumes it,
    without its shaping. Vanishes exactly where the policy has something to learn."""
    return known.pi


def luffy(known: Known, gamma: float) -> Tensor:
    """w = γ·π/(π + γ)²: the gradient of LUFFY's shaping π/(π + γ) (2504.14945). Largest at π = γ, where it is ¼."""
    return gamma * known.pi / (known.pi + gamma).square()


def rlplus(known: Known, _: float) -> Tensor:
    """w = 2π/(π_old + ω) · √(1 − π) with ω = ½(π_old + 1): RL-PLUS (2508.00222), whose behaviour probability is midway
    between π_old and ω, and whose advantage favours what is unlikely."""
    return 2 * known.pi / (1.5 * known.old + 0.5) * (1 - known.pi).clamp(min=0).sqrt()


def floor(known: Known, value: float) -> Tensor:
    """w = max(π, c): as `pi`, but a token that the policy finds unlikely still counts c."""
    return known.pi.clamp(min=value)


def power(known: Known, alpha: float) -> Tensor:
    """w = π^α, and at least c, the lower bound: between `constant` 1 (α = 0) and `pi` (α = 1)."""
    return known.pi.pow(alpha)


def constant(known: Known, value: float) -> Tensor:
    """w = c: log-likelihood, signed by the advantage; with A = 1 the cross-entropy of SFT. Without regard to the
    advantage it is ECHO's (2605.24517), an auxiliary loss on what the environment said."""
    return known.pi.new_full(known.pi.shape, value)


def ratio(known: Known, _: float) -> Tensor:
    """w = π/μ: the importance ratio of off-policy learning, where μ is known. Bounded from above, or a token that
    the agent's model found unlikely would outweigh all others."""
    return known.pi / known.mu


COEFFICIENTS: dict[str, Coefficient] = {
    "mask": Coefficient(mask, "0: agents' own tokens teach nothing"),
    "pi": Coefficient(proportional, "π: vanishes on what the policy does not know"),
    "luffy": Coefficient(luffy, "γπ/(π+γ)², γ the value", value=0.1, values=(1e-6, math.inf)),
    "rlplus": Coefficient(rlplus, "2π/(1.5π_old+.5)·√(1−π)", needs_old=True),
    "floor": Coefficient(floor, "max(π, value)", value=0.3, values=(0.0, 1.0)),
    "power": Coefficient(
        power, "π^value, at least 0.1 or the clip's lower bound", value=0.5, values=(0.0, 1.0), clip_low=0.1
    ),
    "constant": Coefficient(constant, "value, whatever π is", value=1.0),
    "echo": Coefficient(
        constant, "value, whatever π is and, with the rule `same`, the advantage", value=0.05, signed=False
    ),
    "ratio": Coefficient(ratio, "π/μ, at most 2 or the clip's upper bound", clip_high=2.0, needs_mu=True),
}
