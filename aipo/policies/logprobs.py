"""Log-probs of given token ids under a network."""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel


def token_logprobs(
    logits_B_T_V: Tensor, token_ids_B_T: Tensor, *, temperature: float, forbidden_B_F: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probs of the tokens and entropies of their distributions (nats), each (B, T).

    Forbidden ids (−1 = none) have probability 0, as they had when the row was sampled.
    """
    logits = logits_B_T_V.float() / temperature
    if forbidden_B_F is not None:
        rows, vocabulary = logits.shape[0], logits.shape[-1]
        hidden = torch.zeros(rows, vocabulary + 1, dtype=torch.bool, device=logits.device)
        hidden.scatter_(1, torch.where(forbidden_B_F < 0, vocabulary, forbidden_B_F), True)
        logits = logits.masked_fill(hidden[:, None, :vocabulary], -torch.inf)
    log_pi = logits.log_softmax(-1)
    entropies = torch.special.entr(log_pi.detach().exp()).sum(-1)
    return log_pi.gather(-1, token_ids_B_T[..., None]).squeeze(-1), entropies


@torch.no_grad()
def score(
    network: PreTrainedModel,
    context_P: np.ndarray[tuple[int], np.dtype[np.int32]],
    token_ids_T: np.ndarray[tuple[int], np.dtype[np.int32]],
    forbidden_ids: tuple[int, ...] = (),
    *,
    temperature: float = 1.0,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Log-probs (nats) of `token_ids_T` after `context_P`; shape (T,)."""
    ids = torch.from_numpy(np.concatenate([context_P, token_ids_T]).astype(np.int64))[None].to(network.device)
    forbidden = torch.tensor([forbidden_ids], device=network.device) if forbidden_ids else None
    with evaluating(network):
        logits = network(input_ids=ids, use_cache=False).logits[:, len(context_P) - 1 : -1]
    scored = ids[:, len(context_P) :]
    logprobs, _ = token_logprobs(logits, scored, temperature=temperature, forbidden_B_F=forbidden)
    return logprobs[0].float().cpu().numpy()


@contextmanager
def evaluating(model: PreTrainedModel) -> Generator[None]:
    """Evaluation mode for a while; afterwards every module has the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
