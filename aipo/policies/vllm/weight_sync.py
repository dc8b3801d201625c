"""Weight synchronisation: pushes the trainer's weights to the policy servers, and verifies that they arrived.

Weights that have changed are pushed once, before the next rollouts, and to a server that was away before it serves
again. After every push a probe follows: the server samples a few tokens, the trainer scores them, and the log-probs
have to agree. Else the run stops: its rollouts would silently be off-policy.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import httpx2
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from aipo.errors import PolicyError
from aipo.policies.base import SampleRequest
from aipo.policies.logprobs import score
from aipo.policies.tokenizer import HFTokenizer
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.completions import answer_of, request_body
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.transport import DiskTransport, NCCLTransport, refusal
from aipo.util.event_loop import LOOP

_FINE, _COARSE = 1e-3, 0.1  # nats
_TEXT = "How many positive divisors does 360 have? Reason step by step.\n"
_TOKENS = 16
_NOISE = 0.1


class WeightSync:
    """Pushes the weights of `network` to the servers of `policy`.

    Args:
        network: the trainer's; it must not change during `push` and while rollouts run.
        transport: how weights travel.
        tolerance: largest mean |Δ log-prob| (nats) of a probe, see `tolerance_of`.
    """

    def __init__(
        self,
        policy: VLLMPolicy,
        network: PreTrainedModel,
        transport: DiskTransport | NCCLTransport,
        *,
        tolerance: float,
    ) -> None:
        self._policy, self._network, self._transport = policy, network, transport
        self._tolerance = tolerance
        self._version = 0
        self._pushed: int | None = None
        self._exports = 0
        self._probing = asyncio.Lock()
        policy.pool.restore = self.restore

    def advance(self, version: int) -> None:
        """Says that the trainer's weights are now those after `version` optimizer steps."""
        self._version = version

    def push(self) -> None:
        """Pushes the weights to every server, if they have changed. The first time it also pushes perturbed weights,
        to verify that the servers follow at all.

        Raises:
            PolicyError: no server, one that refuses, or one whose log-probs are not the trainer's.
        """
        LOOP.run(self._push())

    async def restore(self, url: str) -> None:
        """Pushes the weights to one server that was away; for `ServerPool.restore`.

        Raises:
            PolicyError: it refuses, or its log-probs are not the trainer's.
            httpx2.TransportError: it is gone again.
            TimeoutError: it hangs.
        """
        loaded = 0
        while loaded != self._exports:
            loaded = self._exports
            try:
                await self._push_to(self._policy.pool.server(url), "after it was away")
            except PolicyError:
                if loaded == self._exports:
                    raise  # else there are newer weights by now

    async def _push(self) -> None:
        pool = self._policy.pool
        pool.check()
        if self._pushed is None:
            await pool.check_servers()
            with perturbed(self._network):
                self._export()
                await self._push_to_all("when every weight was perturbed, to see whether it follows")
        if self._pushed != self._version:
            self._export()
            await self._push_to_all(f"after the push of version {self._version}")
            self._pushed = self._version
            self._policy.advance(self._version)

    def _export(self) -> None:
        self._transport.export(self._network, self._version)
        self._exports += 1

    async def _push_to_all(self, when: str) -> None:
        pool = self._policy.pool
        for server in [server for server in pool.servers if server.up]:
            try:
                await self._push_to(server, when)
            except (httpx2.TransportError, TimeoutError):
                pool.take_out(server)
        await pool.wait_for_any()

    async def _push_to(self, server: Server, when: str) -> None:
        async with asyncio.timeout(self._policy.pool.deadline):
            await self._transport.load(server)
            try:
                model, positions = await self._policy.served_by(server)
                async with self._probing:
                    gap = await measure_gap(server, model, positions, self._network, self._policy.tokenizer)
            except httpx2.HTTPStatusError as error:
                raise await refusal(server, "a probe", error) from error
        if not gap.mean <= self._tolerance:
            raise PolicyError(
                f"weights of {server.url} {when}: got log-probs that differ from the trainer's by {gap.mean:.2g} on "
                f"average (at most {gap.largest:.2g}), allowed {self._tolerance:g} (policy.vllm.tolerance). It has "
                "not loaded the weights, or computes otherwise. Look at: another model or tokenizer than "
                "policy.model; tied embeddings on a CPU build of vLLM, which reloads them wrongly without a word (`aipo serve` "
                "serves a copy that it reloads rightly); "
                "a server without --logprobs-mode processed_logprobs; other types of numbers (--dtype, "
                "policy.dtype); quantisation. `aipo doctor` checks these."
            )


def tolerance_of(*types: str | None) -> float:
    """The largest mean |Δ log-prob| (nats) that is taken for the same weights, where these types of numbers meet."""
    fine = all(kind is None or kind.removeprefix("torch.") == "float32" for kind in types)
    return _FINE if fine else _COARSE


class LogprobGap(NamedTuple):
    """Mean and largest |Δ log-prob| (nats) between sampler and trainer over a probe's tokens."""

    mean: float
    largest: float

    @classmethod
    def between(cls, trainer_T: npt.NDArray[np.float32], sampler_T: npt.NDArray[np.float32]) -> "LogprobGap":
        """The gap of two scorings of the same tokens.

        Raises:
            PolicyError: the trainer's are not finite.
        """
        gaps = np.abs(trainer_T - sampler_T)
        if not np.isfinite(gaps).all():
            raise PolicyError("probe: got log-probs of the trainer that are not finite, allowed numbers")
        return cls(float(gaps.mean()), float(gaps.max()))


async def measure_gap(
    server: Server, model: str, positions: int, network: PreTrainedModel, tokenizer: HFTokenizer
) -> LogprobGap:
    """Samples a few tokens at the server, at temperature 1 and without the end token, and scores them with
    `network`.

    Args:
        model, positions: what is served, and its longest context.

    Raises:
        PolicyError: an answer that could not be trained on.
        httpx2.HTTPError: there is none.
    """
    context = np.array(tokenizer.encode_prompt(_TEXT)[-(positions - _TOKENS) :], np.int32)
    request = SampleRequest(context, max_tokens=_TOKENS, forbidden_ids=(tokenizer.eos_id,))
    answer = answer_of(
        await server.ask("v1/completions", request_body(model, request)),
        request,
        vocabulary=int(network.config.get_text_config(decoder=True).vocab_size),
        where=f"{server.url} (a probe)",
    )
    trainer = score(network, context, answer.token_ids, request.forbidden_ids)
    return LogprobGap.between(trainer, answer.logprobs)


@contextmanager
def perturbed(network: PreTrainedModel) -> Generator[None]:
    """Changes every weight by about a tenth of itself; afterwards all are bit for bit what they were.

    A server whose log-probs do not follow has not loaded some weights. Training alone moves weights too
    little for a probe to see that.
    """
    original = [parameter.detach().cpu().clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.mul_(1 + _NOISE * noise)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(network.parameters(), original, strict=True):
                parameter.copy_(before)
