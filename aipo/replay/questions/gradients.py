"""Gradients of many losses that share their forward passes.

A loss sees the model through log-probs alone, so its gradient is a product of the model's Jacobian with
∂loss/∂log-probs. Losses that treat some tokens alike share this product: a grid of coefficients has one
gradient of its policy tokens, not one for each setting.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


class Gradients:
    """Sums of gradients over micro-batches, under keys; each is kept once, whoever shares it.

    Args:
        parameters: with respect to which; P numbers in all.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._history: dict[Hashable, tuple[bytes, ...]] = {}
        self._sums: dict[tuple[bytes, ...], Tensor] = {}
        self._batches = 0

    def add(self, logprobs_B_T: Tensor, slopes: Mapping[Key, Tensor]) -> None:
        """Adds a micro-batch.

        Args:
            logprobs_B_T: with their graph, which is left standing.
            slopes: ∂loss/∂log-probs of each key, (B, T).
        """
        self._batches += 1
        flows: dict[bytes, Tensor] = {}
        for key, slope_B_T in slopes.items():
            if not slope_B_T.any():
                continue
            digest = self._digest(slope_B_T)
            if digest not in flows:
                flows[digest] = self._flow(logprobs_B_T, slope_B_T)
            before = self._history.get(key, ())
            after = (*before, digest)
            if after not in self._sums:
                known = self._sums.get(before)
                self._sums[after] = flows[digest] if known is None else known + flows[digest]
            self._history[key] = after
        needed = set(self._history.values())
        self._sums = {history: total for history, total in self._sums.items() if history in needed}

    def of(self, key: Hashable) -> Tensor | None:
        """The gradient of a key, (P,); None where it is 0 because nothing was added."""
        history = self._history.get(key)
        return None if history is None else self._sums[history]

    def _digest(self, slope_B_T: Tensor) -> bytes:
        values = slope_B_T.detach().cpu().numpy().tobytes()
        return hashlib.blake2b(values, digest_size=16, salt=self._batches.to_bytes(8, "big")).digest()

    def _flow(self, logprobs_B_T: Tensor, slope_B_T: Tensor) -> Tensor:
        found = cast(
            Sequence[Tensor | None],
            torch.autograd.grad(
                logprobs_B_T, self._parameters, slope_B_T, retain_graph=True, allow_unused=True
            ),
        )
        pairs = zip(found, self._parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().float() for g, p in pairs])


def norm(gradient: Tensor | None) -> float:
    """‖g‖₂."""
    return 0.0 if gradient is None else float(gradient.norm())


def share(part: Tensor | None, total: Tensor | None) -> float | None:
    """g_part · g / ‖g‖²: how much of the step is this part's doing. Shares add up to 1; one may be negative.

    None where there is no step.
    """
    if total is None or not (squared := float(total.square().sum())):
        return None
    return 0.0 if part is None else float((part * total).sum()) / squared
