"""Sampling: from logits to one token per row, with its log-prob and entropy.

The random numbers of a request depend on its seed and on how many tokens it has, on nothing else: how
requests are batched does not show. They come from SplitMix64 (Steele, Lea, Flood 2014, "Fast
splittable pseudorandom number generators"), which is counted, not stepped, hence one array
operation for all rows.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Sampled(NamedTuple):
    """Token ids, their log-probabilities and the entropies (nats) of the distributions; shape (B,)."""

    tokens_B: npt.NDArray[np.int64]
    logprobs_B: npt.NDArray[np.float32]
    entropies_B: npt.NDArray[np.float32]


def uniforms(seeds_B: npt.NDArray[np.uint64], counts_B: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Number `count` of the stream of `seed`, for each row; in [0, 1)."""
    state = _mix(seeds_B) + (counts_B.astype(np.uint64) + np.uint64(1)) * _GAMMA
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(
    logits_B_V: Tensor,
    temperatures_B: npt.NDArray[np.float64],
    uniforms_B: npt.NDArray[np.float64],
    forbidden_B_V: Tensor | None = None,
) -> Sampled:
    """Inverts the cumulative distribution of softmax(logits / temperature) at `uniforms_B`.

    Where `forbidden_B_V` is true the probability is 0. A row with NaN or +inf logits has a NaN
    log-probability; it is the caller's to refuse.
    """
    device = logits_B_V.device
    scaled_B_V = logits_B_V.float() / torch.from_numpy(temperatures_B)[:, None].to(device, torch.float32)
    if forbidden_B_V is not None:
        scaled_B_V = scaled_B_V.masked_fill(forbidden_B_V, -torch.inf)
    logprobs_B_V = torch.log_softmax(scaled_B_V, dim=-1)
    probs_B_V = logprobs_B_V.exp()
    # In float64 the sum does not lose the tail of a large vocabulary.
    cumulative_B_V = probs_B_V.cumsum(-1, dtype=torch.float64)
    goal_B_1 = torch.from_numpy(uniforms_B)[:, None].to(device) * cumulative_B_V[:, -1:]
    tokens_B_1 = torch.searchsorted(cumulative_B_V, goal_B_1, right=True)
    tokens_B_1.clamp_(max=logits_B_V.shape[1] - 1)  # NaN compares with nothing and would run over the end
    logprobs_B = logprobs_B_V.gather(1, tokens_B_1)[:, 0]
    entropies_B = torch.special.entr(probs_B_V).sum(-1)
    return Sampled(tokens_B_1[:, 0].cpu().numpy(), logprobs_B.cpu().numpy(), entropies_B.cpu().numpy())


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
