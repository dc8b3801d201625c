"""The weight of agents' tokens in the policy gradient: coefficient, bounds, sign rule, trust region.

An agent wrote the token, so it was not sampled from the policy and has no ratio π/π_old to clip. Its loss term is
−A · w · exp(log π − sg(log π)): the value is −A·w and the gradient −A·w·∇log π. The weight w carries no gradient.
It is made in four steps:

1. The *coefficient* makes w from probabilities: a function in `COEFFICIENTS`, or a user's `file.py:function`.
2. *Bounds* limit w where A ≥ 0.
3. A *sign rule* (`NEGATIVES`) replaces w where A < 0.
4. A *trust region* sets w to 0 for tokens that have moved enough. A was estimated with π_old, so a token is pushed
   no further once π has left [π_old/(1 + ε), π_old·(1 + ε)] in the direction of the push, as PPO's clip does for the
   policy's own tokens. π_old of agents' tokens is the trainer's, with the weights that sampled.

AIPO's paper (2605.08401) does not give its formula. Its abstract claims a coefficient and a clip for agents' tokens
against two problems:

*Off-policy bias.* A is estimated for what the policy samples, and w = 1 follows A·∇log π as if the policy had sampled
the token. The ratio π/μ corrects this, or π where the agent's own probability μ is unknown and taken to be 1. The
further w is from it, the larger the bias.
*Vanishing gradient.* On logits, ∇log π is 1 − π for the token itself, so that it moves by w·(1 − π). With w = π
nothing moves where π is about 0, which is exactly what the policy does not know yet.

`power` with its bounds is the smallest family between the two: w = max(c, π^α), the gradient of (π^α − 1)/α. α = 1
corrects in full, α → 0 is log-likelihood. c keeps every token moving, and since w ≤ 1 no token outweighs one of the
policy's own. c = 0 and α = 1 is `pi`, any c and α = 1 `floor`, α = 0 `constant` 1.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aipo.errors import ConfigError
from aipo.util.imports import load, users_code

if TYPE_CHECKING:
    from torch import Tensor

    from aipo.method.settings import CoefficientSettings, MethodSettings

# 1. Coefficients. An argument's name says what it is: `pi`, the policy's probability of the token; `mu`, the agent's
# own; `pi_old`, the policy's when the rollout was sampled; `advantage`; `value`, the number `method.coefficient_value`.


def mask(pi: Tensor) -> Tensor:
    """w = 0: agents' own tokens are context only, as in ARPO (2507.19849) and SituatedThinker (2505.19300)."""
    return pi.new_zeros(pi.shape)


def proportional(pi: Tensor) -> Tensor:
    """w = π: the gradient of ratio π/1, a behaviour probability of 1 as LUFFY (2504.14945) assumes it,
    without its shaping. Vanishes exactly where the policy has something to learn."""
    return pi


def luffy(pi: Tensor, value: float) -> Tensor:
    """w = γ·π/(π + γ)²: the gradient of LUFFY's shaping π/(π + γ) (2504.14945). Largest at π = γ, where it is ¼."""
    return value * pi / (pi + value).square()


def rlplus(pi: Tensor, pi_old: Tensor) -> Tensor:
    """w = 2π/(π_old + ω) · √(1 − π) with ω = ½(π_old + 1): RL-PLUS (2508.00222), whose behaviour probability is midway
    between π_old and ω, and whose advantage favours what is unlikely."""
    return 2 * pi / (1.5 * pi_old + 0.5) * (1 - pi).clamp(min=0).sqrt()


def floor(pi: Tensor, value: float) -> Tensor:
    """w = max(π, c): as `pi`, but a token that the policy finds unlikely still counts c."""
    return pi.clamp(min=value)


def power(pi: Tensor, value: float) -> Tensor:
    """w = π^α, and at least c, the lower bound: between `constant` 1 (α = 0) and `pi` (α = 1)."""
    return pi.pow(value)


def constant(pi: Tensor, value: float) -> Tensor:
    """w = c: log-likelihood, signed by the advantage; with A = 1 the cross-entropy of SFT. Without regard to the
    advantage it is ECHO's (2605.24517), an auxiliary loss on what the environment said."""
    return pi.new_full(pi.shape, value)


def ratio(pi: Tensor, mu: Tensor) -> Tensor:
    """w = π/μ: the importance ratio of off-policy learning, where μ is known. Bounded from above, or a token that
    the agent's model found unlikely would outweigh all others."""
    return pi / mu


class Probabilities(NamedTuple):
    """Probabilities of agents' tokens; (B, T) each, NaN where unknown.

    Args:
        pi: by the policy as it is now.
        mu: by the agent's own model.
        pi_old: by the policy as it was when the rollouts were sampled.
    """

    pi: Tensor
    mu: Tensor
    pi_old: Tensor


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One way to weigh agents' tokens.

    Args:
        weight: makes w, token by token, from those of `ARGUMENTS` that it names; NaN counts as 0.
        value: its argument `value`; None when it has none.
        values: the least and the largest value allowed.
        clip_low, clip_high: default bounds of w.
        signed: whether w multiplies A·∇log π. Otherwise it multiplies ∇log π, whatever the advantage is.
    """

    weight: Callable[..., Tensor]
    value: float | None = None
    values: tuple[float, float] = (0.0, math.inf)
    clip_low: float | None = None
    clip_high: float | None = None
    signed: bool = True

    def __call__(self, probabilities: Probabilities, advantages_B_T: Tensor) -> Tensor:
        """w before bounds and sign rule, (B, T)."""
        values = {**probabilities._asdict(), "advantage": advantages_B_T, "value": self.value}
        return self.weight(**{name: values[name] for name in _arguments(self.weight)})

    @property
    def needs_mu(self) -> bool:
        """Whether agents' log-probs by their own model have to be recorded."""
        return "mu" in _arguments(self.weight)

    @property
    def needs_old(self) -> bool:
        """Whether rows have to be scored with the weights that sampled them."""
        return "pi_old" in _arguments(self.weight)


ARGUMENTS = (*Probabilities._fields, "advantage", "value")
"""What a coefficient's function may ask for, by the name of an argument."""

COEFFICIENTS: dict[str, Coefficient] = {
    "mask": Coefficient(mask),
    "pi": Coefficient(proportional),
    "luffy": Coefficient(luffy, value=0.1, values=(1e-6, math.inf)),
    "rlplus": Coefficient(rlplus),
    "floor": Coefficient(floor, value=0.3, values=(0.0, 1.0)),
    "power": Coefficient(power, value=0.5, values=(0.0, 1.0), clip_low=0.1),
    "constant": Coefficient(constant, value=1.0),
    "echo": Coefficient(constant, value=0.05, signed=False),
    "ratio": Coefficient(ratio, clip_high=2.0),
}


@cache
def _arguments(weight: Callable[..., Tensor]) -> tuple[str, ...]:
    return tuple(inspect.signature(weight).parameters)


def is_file_name(coefficient: str) -> bool:
    """Whether a coefficient is a user's function, `file.py:function`, and not one of `COEFFICIENTS`."""
    return ":" in coefficient


def coefficient_of(name: str, value: float | None) -> Coefficient:
    """A coefficient with its value: one of `COEFFICIENTS`, or a user's function `file.py:function`.

    A user's function is imported once in a process: an edit of its file takes effect in the next run.

    Args:
        value: replaces the coefficient's own value unless it is None.

    Raises:
        LoadError: there is no such file or function, or its code fails.
        ConfigError: an unknown name, a function that cannot be a coefficient, a value out of its range, or one that it
            does not take.
    """
    if not is_file_name(name) and name not in COEFFICIENTS:
        raise ConfigError(f"coefficient: got {name!r}, allowed {sorted(COEFFICIENTS)} or 'file.py:function'")
    coefficient = _load_coefficient(name) if is_file_name(name) else COEFFICIENTS[name]
    if value is None:
        return coefficient
    if coefficient.value is None:
        takers = sorted(other for other, one in COEFFICIENTS.items() if one.value is not None)
        raise ConfigError(
            f"coefficient_value: got {value:g} with {name!r}, which takes none, allowed with {takers}"
        )
    least, most = coefficient.values
    if not least <= value <= most:
        raise ConfigError(f"coefficient_value: got {value:g} with {name!r}, allowed {least:g} to {most:g}")
    return replace(coefficient, value=value)


@cache
def _load_coefficient(name: str) -> Coefficient:
    import torch

    function = load(name).function
    parameters = inspect.signature(function).parameters
    if unknown := sorted(parameters.keys() - set(ARGUMENTS)):
        raise ConfigError(f"arguments of coefficient {name}: got {unknown}, allowed {list(ARGUMENTS)}")
    value = parameters["value"].default if "value" in parameters else None
    if "value" in parameters and not isinstance(value, float | int):
        raise ConfigError(f"argument `value` of coefficient {name}: got no default, allowed a number")
    coefficient = Coefficient(function, value=value, values=(-math.inf, math.inf))
    pi, advantages = torch.tensor([[0.01, 0.5, 1.0]] * 2), torch.tensor([[1.0], [-1.0]])
    with users_code(f"coefficient {name}"):
        trial: Any = coefficient(Probabilities(pi, pi, pi), advantages)
    got = f"{trial.dtype} of shape {list(trial.shape)}" if isinstance(trial, torch.Tensor) else repr(trial)
    if not isinstance(trial, torch.Tensor) or trial.shape != pi.shape or not trial.is_floating_point():
        raise ConfigError(
            f"weights of coefficient {name}: got {got}, allowed floating-point numbers of the shape of `pi`, "
            f"{list(pi.shape)}"
        )
    return coefficient


NEGATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # Agents' tokens are learned only where A > 0. The sign of the advantage is the filter that protects from agents
    # that err (measured on the miniature).
    "zero": lambda pi, weights: weights.new_zeros(weights.shape),
    # A token is pushed down as far as the policy would write it itself.
    "pi": lambda pi, weights: pi,
    # The published prototype of AIPO's authors.
    "floor": lambda pi, weights: pi.clamp(min=0.1),
    "same": lambda pi, weights: weights,
}
"""3. Sign rules: π and w to the weight where A < 0."""


class AgentWeights(NamedTuple):
    """The weights of agents' tokens; they carry no gradient.

    Args:
        weights: w, (B, T).
        advantages: what w multiplies besides ∇log π: the advantage, or 1; (B, 1) or (B, T).
        clipped: where the bounds or the trust region changed w, (B, T).
    """

    weights: Tensor
    advantages: Tensor
    clipped: Tensor


def agent_weights(
    probabilities: Probabilities,
    advantages_B_T: Tensor,
    method: MethodSettings,
    agents_B_T: Tensor | None = None,
) -> AgentWeights:
    """Weights of agents' tokens under a method, each token's by the settings of its agent.

    Args:
        agents_B_T: whose tokens they are, see `aipo.method.batch.agent_numbers`; None only where no agent has settings
            of its own.
    """
    weights = _weights(probabilities, advantages_B_T, method)
    if agents_B_T is not None:
        for number, settings in enumerate(method.agents.values(), 1):
            own = _weights(probabilities, advantages_B_T, settings)
            theirs = agents_B_T == number
            weights = AgentWeights(*(a.where(theirs, b) for a, b in zip(own, weights, strict=True)))
    return weights


def _weights(
    probabilities: Probabilities, advantages_B_T: Tensor, settings: CoefficientSettings
) -> AgentWeights:
    """Coefficient, bounds, sign rule, trust region."""
    coefficient = settings.coefficient_function
    raw = coefficient(probabilities, advantages_B_T)
    low, high = settings.coefficient_bounds
    weights = raw if low is None and high is None else raw.clamp(low, high)
    unknown, negative = raw.isnan(), advantages_B_T < 0
    clipped = (weights != raw) & ~negative

    weights = NEGATIVES[settings.negative](probabilities.pi, weights).where(negative, weights)
    advantages = advantages_B_T if coefficient.signed else advantages_B_T.new_ones(advantages_B_T.shape)
    if settings.coefficient_trust is not None:
        pi, pi_old, most = probabilities.pi, probabilities.pi_old, 1 + settings.coefficient_trust
        moved_out = (pi < pi_old / most).where(advantages < 0, pi > pi_old * most)
        clipped = clipped | (moved_out & (weights != 0))
        weights = weights.masked_fill(moved_out, 0.0)
    return AgentWeights(weights.masked_fill(unknown, 0.0), advantages, clipped & ~unknown)
