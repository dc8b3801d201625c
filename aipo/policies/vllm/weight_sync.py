"""Keeps the policy servers' weights those of the trainer.

Every optimiser step only marks that the weights have moved; they are pushed once, before the next
rollouts. After every push each server is probed, and a server that was away gets the weights, and a
probe, before it serves again. A push that goes wrong stops the run: what is sampled with other weights
than the trainer believes is off-policy, and nobody would notice.
"""

import asyncio

import openai
from transformers import PreTrainedModel

from aipo.errors import PolicyError
from aipo.policies.vllm.client import Server
from aipo.policies.vllm.policy import VLLMPolicy
from aipo.policies.vllm.probe import difference, shaken
from aipo.policies.vllm.transport import Transport, refusal
from aipo.util.event_loop import LOOP

_FINE, _COARSE = 1e-3, 0.1  # nats


class WeightSync:
    """Pushes the weights of `network` to the servers of `policy`.

    Args:
        network: the trainer's; it must not move during `refresh` and while rollouts run.
        transport: how weights travel.
        tolerance: largest mean |Δ log-prob| (nats) of a probe, see `tolerance_of`.
    """

    def __init__(
        self,
        policy: VLLMPolicy,
        network: PreTrainedModel,
        transport: Transport,
        *,
        tolerance: float,
    ) -> None:
        self._policy, self._network, self._transport = policy, network, transport
        self._tolerance = tolerance
        self._wanted = 0
        self._pushed: int | None = None
        self._taken = 0
        self._probing = asyncio.Lock()
        policy.pool.restore = self.restore

    def advance(self, version: int) -> None:
        """Says that the trainer's weights are now those after `version` optimiser steps."""
        self._wanted = version

    def refresh(self) -> None:
        """Brings the servers up to date; the first time, checks that they follow at all.

        Raises:
            PolicyError: no server, one that refuses, or one whose log-probs are not the trainer's.
        """
        LOOP.run(self._refresh())

    async def restore(self, url: str) -> None:
        """Brings one server up to date that was away; for `ServerPool.restore`.

        Raises:
            PolicyError: it refuses, or its log-probs are not the trainer's.
            openai.APIConnectionError: it is gone again.
            TimeoutError: it hangs.
        """
        brought = 0
        while brought != self._taken:
            brought = self._taken
            try:
                await self._bring(self._policy.pool.server(url), "after it was away")
            except PolicyError:
                if brought == self._taken:
                    raise  # else the weights have moved on meanwhile

    async def _refresh(self) -> None:
        pool = self._policy.pool
        pool.check()
        if self._pushed is None:
            await pool.meet()
            with shaken(self._network):
                self._take()
                await self._bring_all("when every weight was shaken, to see whether it follows")
        if self._pushed != self._wanted:
            self._take()
            await self._bring_all(f"after the push of version {self._wanted}")
            self._pushed = self._wanted
            self._policy.advance(self._wanted)

    def _take(self) -> None:
        self._transport.take(self._network, self._wanted)
        self._taken += 1

    async def _bring_all(self, when: str) -> None:
        pool = self._policy.pool
        living = [server for server in pool.servers if server.up]
        for server in living:
            try:
                await self._bring(server, when)
            except (openai.APIConnectionError, TimeoutError):
                pool.take_out(server)
        await pool.someone()

    async def _bring(self, server: Server, when: str) -> None:
        async with asyncio.timeout(self._policy.pool.deadline):
            await self._transport.load(server)
            try:
                model, positions = await self._policy.served_by(server)
                async with self._probing:
                    gap = await difference(server, model, positions, self._network, self._policy.tokenizer)
            except openai.APIStatusError as error:
                raise await refusal(server, "a probe", error) from error
        if not gap.mean <= self._tolerance:
            raise PolicyError(
                f"weights of {server.url} {when}: got log-probs that differ from the trainer's by {gap.mean:.2g} on "
                f"average (at most {gap.largest:.2g}), allowed {self._tolerance:g} (policy.vllm.tolerance). It has "
                "not taken the weights in, or computes otherwise. Look at: another model or tokenizer than "
                "policy.model; tied embeddings on a CPU build of vLLM, which reloads them wrongly without a word; "
                "a server without --logprobs-mode processed_logprobs; other types of numbers (--dtype, "
                "policy.dtype); quantisation. `aipo doctor` checks these."
            )


def tolerance_of(*types: str | None) -> float:
    """The largest mean |Δ log-prob| (nats) that is taken for the same weights, where these types of numbers meet."""
    fine = all(kind is None or kind.removeprefix("torch.") == "float32" for kind in types)
    return _FINE if fine else _COARSE
