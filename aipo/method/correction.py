"""The correction from sampler to trainer: what a policy token is worth that the trainer would have sampled
more, or less, often.

A server computes with other kernels, and often with other types of numbers, than the trainer. Even with the
same weights its μ is then not quite the trainer's π_old, and π_old/μ is the importance weight that makes up
for it, kept within a cap C. Policy tokens alone have one: what an agent wrote, and what is distilled, was not
sampled from μ in this context. The names and bounds are those of `token_truncate` and `token_mask` in TRL.
"""

from collections.abc import Callable

from torch import Tensor

from aipo.errors import ConfigError


def truncate(ratio: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """min(π_old/μ, C): one token cannot count more than C times; truncated importance sampling (Ionides 2008)."""
    return ratio.clamp(max=cap), ratio > cap


def mask(ratio: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """π_old/μ within [1/C, C], and 0 outside: a token on which the two disagree more teaches nothing."""
    outside = (ratio < 1 / cap) | (ratio > cap)
    return ratio.masked_fill(outside, 0.0), outside


CORRECTIONS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "truncate": truncate,
    "mask": mask,
}
"""π_old/μ and C to the weight c, and where C changed it; any shape, elementwise."""


def check_correction(correction: str, cap: float | None) -> None:
    """Refuses a correction that cannot be meant.

    Raises:
        ConfigError: an unknown name, or a cap that is out of its range.
    """
    if correction not in CORRECTIONS:
        raise ConfigError(f"correction: got {correction!r}, allowed {sorted(CORRECTIONS)}")
    if cap is not None and not cap > 0:
        raise ConfigError(f"importance_cap: got {cap}, allowed > 0 or None")
    if correction == "mask" and not (cap is not None and cap > 1):
        raise ConfigError(f"importance_cap: got {cap}, allowed > 1 where the correction is a mask")
