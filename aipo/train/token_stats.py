"""Records, while the rows of a rollout step are trained, what the loss does with each of their tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from aipo.method.loss import LossInputs, LossOutput
from aipo.method.rows import Row
from aipo.trace.token_stats import TokenStats
from aipo.train.ranks import SINGLE_PROCESS, Ranks

OnTokenStats = Callable[[int, Sequence[TokenStats]], None]
"""Called with a rollout step and all its token stats, after its training."""


class TokenStatsRecorder:
    """Keeps the loss's outputs of each micro-batch, and makes token stats of them.

    Args:
        on_token_stats: receives the token stats, on rank 0; None = nothing is kept.
        ranks: the processes among which the rows are dealt out.
        signed: whether the advantage counts for agents' tokens; see `aipo.method.agent_weights.Coefficient`.
    """

    def __init__(
        self, on_token_stats: OnTokenStats | None, ranks: Ranks = SINGLE_PROCESS, *, signed: bool = True
    ) -> None:
        self._on_token_stats, self._ranks, self._signed = on_token_stats, ranks, signed
        self._dealt: list[Sequence[Row]] = []
        self._outputs: list[tuple[int, Tensor]] = []
        self._stats: list[TokenStats] = []

    def deal(self, batches: Sequence[Sequence[Row]]) -> None:
        """Starts a rollout step with its rows, by micro-batch."""
        self._dealt, self._outputs, self._stats = list(batches), [], []

    def record(self, batch: int, inputs: LossInputs, output: LossOutput) -> None:
        """Keeps what the loss did with micro-batch `batch`; nothing leaves the device yet."""
        if self._on_token_stats is not None:
            pushes_B_T = output.pushes_B_T / inputs.denominators_B[:, None]
            facts = (
                output.weights_B_T,
                output.ratios_B_T,
                output.clipped_B_T,
                inputs.logprobs_B_T,
                pushes_B_T,
            )
            self._outputs.append((batch, torch.stack([fact.detach().float() for fact in facts])))

    def end_step(self, rollout_step: int, optimizer_step: int) -> None:
        """Makes token stats of one optimizer step's micro-batches; one transfer from the device for each."""
        for batch, facts in self._outputs:
            facts_5_B_T = facts.cpu().numpy()
            for b, row in enumerate(self._dealt[batch]):
                self._stats.append(self._stats_of_row(row, facts_5_B_T[:, b], rollout_step, optimizer_step))
        self._outputs = []

    def close(self, rollout_step: int) -> None:
        """Hands over the token stats after a rollout step's training."""
        if (on_token_stats := self._on_token_stats) is not None:
            token_stats = self._ranks.gather(self._stats)
            self._ranks.on_main(lambda: on_token_stats(rollout_step, token_stats))
        self._stats = []

    def _stats_of_row(
        self,
        row: Row,
        facts_5_T: np.ndarray[tuple[int, int], np.dtype[np.float32]],
        rollout_step: int,
        optimizer_step: int,
    ) -> TokenStats:
        start = row.prompt_tokens
        weights, ratios, clipped, logprobs, pushes = facts_5_T[:, : len(row) - start]
        return TokenStats(
            trace_id=row.trace_id,
            kind=row.kind,
            step=rollout_step,
            optimizer_step=optimizer_step,
            segments_T=row.segments_T[start:],
            codes_T=row.codes_T[start:],
            weights_T=weights,
            ratios_T=ratios,
            clipped_T=clipped > 0,
            advantage=row.advantage,
            logprobs_T=logprobs,
            agent_advantage=row.advantage if self._signed else 1.0,
            push=float(np.abs(pushes).sum()),
        )
