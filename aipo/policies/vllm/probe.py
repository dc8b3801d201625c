"""A probe: does a server have the trainer's weights? A few tokens are sampled there and scored here."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from aipo.errors import PolicyError
from aipo.policies.base import SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.completions import answer_of, request_body

TEXT = "How many positive divisors does 360 have? Reason step by step.\n"
TOKENS = 16
NOISE = 0.1


class Difference(NamedTuple):
    """Mean and largest |Δ log-prob| (nats) between server and trainer over the probe's tokens."""

    mean: float
    largest: float


async def difference(
    server: Server, model: str, positions: int, network: PreTrainedModel, tokenizer: HFTokenizer
) -> Difference:
    """Samples `TOKENS` tokens at the server, at temperature 1 and with the end token forbidden, and scores
    them with `network`.

    Args:
        model, positions: what is served, and its longest context.

    Raises:
        PolicyError: an answer that could not be trained on.
        openai.APIError: none.
    """
    context = np.array(tokenizer.encode_prompt(TEXT)[-(positions - TOKENS) :], np.int32)
    request = SampleRequest(context, max_tokens=TOKENS, forbidden_ids=(tokenizer.eos_id,))
    answer = answer_of(
        await server.ask("v1/completions", request_body(model, request)),
        request,
        vocabulary=int(network.config.get_text_config(decoder=True).vocab_size),
        where=f"{server.url} (a probe)",
    )
    own = score(network, context, answer.token_ids, request.forbidden_ids)
    gaps = np.abs(own - answer.logprobs)
    if not np.isfinite(gaps).all():
        raise PolicyError(
            f"probe of {server.url}: got log-probs of the trainer that are not finite, allowed numbers"
        )
    return Difference(float(gaps.mean()), float(gaps.max()))


@contextmanager
def shaken(network: PreTrainedModel) -> Generator[None]:
    """Every weight off by a tenth of itself for a while; afterwards all are bit for bit what they were.

    A server that does not follow this has not taken some weights in, which no probe could see while they
    have hardly moved.
    """
    kept = [parameter.detach().cpu().clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.mul_(1 + NOISE * noise)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(network.parameters(), kept, strict=True):
                parameter.copy_(before)
