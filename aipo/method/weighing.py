"""Weighing: what becomes of a coefficient's weight before it reaches the loss.

Bounds keep it within limits, the sign of the advantage decides by a rule, and a trust region takes it away from
tokens that have moved enough. A was estimated with π_old, so an agent's token is pushed no further once π has left
[π_old/(1 + ε), π_old·(1 + ε)] on the side to which it is pushed, as PPO's clip does with the policy's own. π_old of
agents' tokens is the trainer's, by the weights that sampled the generation: nobody sampled these tokens from it.

Another rule for A < 0 is one more entry in `NEGATIVES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aipo.errors import ConfigError
from aipo.method.coefficients import COEFFICIENTS, Coefficient, Known

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Negative:
    """A rule for rows with A < 0.

    Args:
        weight: π, w and the rule's value to the weight there; elementwise.
        text: one line for people.
        value: default of the value that `weight` takes; None when it takes none.
        values: the least and the largest one that makes sense.
    """

    weight: Callable[[Tensor, Tensor, float], Tensor]
    text: str
    value: float | None = None
    values: tuple[float, float] = (0.0, 1.0)


NEGATIVES: dict[str, Negative] = {
    # The sign of the advantage is the filter that protects from agents that err (measured on the miniature).
    "zero": Negative(lambda pi, weight, _: weight.new_zeros(weight.shape), "0: learned where A > 0 alone"),
    "pi": Negative(lambda pi, weight, _: pi, "π: pushed down where the policy would say it itself"),
    "floor": Negative(lambda pi, weight, value: pi.clamp(min=value), "max(π, value)", value=0.1),
    "same": Negative(lambda pi, weight, _: weight, "the weight that it has where A > 0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """How agents' tokens are weighed.

    Args:
        coefficient, coefficient_value: a name in `COEFFICIENTS`, and its value; None takes its default. A run has the
            coefficient of its configuration, `mask` unless it names one; here it is the plainest that teaches.
        coefficient_clip_low, coefficient_clip_high: bounds of w where A ≥ 0; None is the coefficient's own, or none.
        coefficient_trust: ε of the trust region; None = no limit.
        negative, negative_value: a name in `NEGATIVES`, and its value; None takes its default.

    Raises:
        ConfigError: an unknown name, a number out of its range, or one that nothing would heed.
    """

    coefficient: str = "constant"
    coefficient_value: float | None = None
    coefficient_clip_low: float | None = None
    coefficient_clip_high: float | None = None
    coefficient_trust: float | None = None
    negative: str = "zero"
    negative_value: float | None = None

    def __post_init__(self) -> None:
        _number("coefficient", self.coefficient, COEFFICIENTS, self.coefficient_value)
        _number("negative", self.negative, NEGATIVES, self.negative_value)
        if self.coefficient == "mask" and self.negative in ("pi", "floor"):
            raise ConfigError(
                f"negative: got {self.negative!r} with coefficient 'mask', which teaches nothing, allowed 'zero', 'same', "
                "or a coefficient that teaches something"
            )
        self._check_bounds()
        trust = self.coefficient_trust
        if trust is not None and (not trust > 0 or self.coefficient == "mask"):
            raise ConfigError(
                f"coefficient_trust: got {trust:g} with coefficient {self.coefficient!r}, allowed > 0 with a "
                "coefficient that teaches something, or none (null)"
            )

    def _check_bounds(self) -> None:
        given = [
            bound for bound in (self.coefficient_clip_low, self.coefficient_clip_high) if bound is not None
        ]
        low, high = self.bounds
        if not all(bound >= 0 for bound in given) or (low is not None and high is not None and low > high):
            raise ConfigError(
                f"coefficient_clip: got {[low, high]} for coefficient {self.coefficient!r}, allowed 0 <= low <= high"
            )
        if given and self.coefficient == "mask":
            raise ConfigError(
                f"coefficient_clip: got {[low, high]} with coefficient 'mask', allowed none (null)"
            )

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Bounds of w where A ≥ 0: those that are given, else the coefficient's own; None is no bound."""
        chosen, low, high = self.chosen, self.coefficient_clip_low, self.coefficient_clip_high
        return chosen.clip_low if low is None else low, chosen.clip_high if high is None else high

    @property
    def chosen(self) -> Coefficient:
        return COEFFICIENTS[self.coefficient]

    @property
    def needs_old(self) -> bool:
        """Whether π_old of agents' tokens has to be known."""
        return self.chosen.needs_old or self.coefficient_trust is not None


class Weighed(NamedTuple):
    """Weights of agents' tokens, what they multiply besides ∇log π (the advantage, or 1), and where the bounds or
    the trust region changed a weight; no gradient, (B, T) but for the advantages, (B, 1)."""

    weights: Tensor
    advantages: Tensor
    clipped: Tensor


def agent_weights(known: Known, advantages_B_1: Tensor, how: Weighing) -> Weighed:
    """What agents' tokens are worth; everything in `known` is (B, T)."""
    chosen = how.chosen
    raw = chosen.weight(known, _number("coefficient", how.coefficient, COEFFICIENTS, how.coefficient_value))
    low, high = how.bounds
    weights = raw if low is None and high is None else raw.clamp(low, high)
    unknown, below = raw.isnan(), advantages_B_1 < 0
    clipped = (weights != raw) & ~below

    rule = NEGATIVES[how.negative].weight
    value = _number("negative", how.negative, NEGATIVES, how.negative_value)
    weights = rule(known.pi, weights, value).where(below, weights)
    held = advantages_B_1 if chosen.signed else advantages_B_1.new_ones(advantages_B_1.shape)
    if how.coefficient_trust is not None:
        reach = 1 + how.coefficient_trust
        left = (known.pi < known.old / reach).where(held < 0, known.pi > known.old * reach)
        clipped = clipped | (left & (weights != 0))
        weights = weights.masked_fill(left, 0.0)
    return Weighed(weights.masked_fill(unknown, 0.0), held, clipped & ~unknown)


def _number(
    what: str, name: str, registry: Mapping[str, Coefficient] | Mapping[str, Negative], value: float | None
) -> float:
    """`value`, or the default of what is called `name`; 0 where it takes none.

    Raises:
        ConfigError: an unknown name, a value out of its range, or one for what takes none.
    """
    if name not in registry:
        raise ConfigError(f"{what}: got {name!r}, allowed {sorted(registry)}")
    chosen = registry[name]
    if value is None:
        return chosen.value or 0.0
    least, most = chosen.values
    if chosen.value is None:
        taking = sorted(name for name, one in registry.items() if one.value is not None)
        raise ConfigError(
            f"{what}_value: got {value:g} with {name!r}, which takes none, allowed with {taking}"
        )
    if not least <= value <= most:
        raise ConfigError(f"{what}_value: got {value:g} with {name!r}, allowed {least:g} to {most:g}")
    return value
