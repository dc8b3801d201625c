"""The ledger: writes down, while a generation is trained, what the loss does with each of its rows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from aipo.method.loss import LossOutput
from aipo.method.rows import Row
from aipo.trace.token_stats import TokenStats
from aipo.train.ranks import SINGLE_PROCESS, Ranks

OnTokenStats = Callable[[int, Sequence[TokenStats]], None]
"""Called with a generation and all its token_stats, when it has been trained."""


class TokenStatsRecorder:
    """Knows which rows are in which micro-batch, and what became of them.

    Args:
        on_token_stats: who wants to know, on rank 0; None = nobody, and nothing is kept.
        ranks: among which the rows are dealt out.
    """

    def __init__(self, on_token_stats: OnTokenStats | None, ranks: Ranks = SINGLE_PROCESS) -> None:
        self._on_token_stats, self._ranks = on_token_stats, ranks
        self._dealt: list[Sequence[Row]] = []
        self._noted: list[tuple[int, Tensor]] = []
        self._stats: list[TokenStats] = []

    def deal(self, batches: Sequence[Sequence[Row]]) -> None:
        """The generation's rows, by micro-batch."""
        self._dealt, self._noted, self._stats = list(batches), [], []

    def note(self, batch: int, output: LossOutput) -> None:
        """Keeps what the loss did with micro-batch `batch`; nothing leaves the device yet."""
        if self._on_token_stats is not None:
            facts = torch.stack([output.weights_B_T, output.ratios_B_T, output.clipped_B_T.float()])
            self._noted.append((batch, facts))

    def end_step(self, generation: int, update: int) -> None:
        """Makes token_stats of what one optimiser step was made of; one transfer per micro-batch."""
        for batch, facts in self._noted:
            facts_3_B_T = facts.cpu().numpy()
            for b, row in enumerate(self._dealt[batch]):
                self._stats.append(_stats_of_row(row, facts_3_B_T[:, b], generation, update))
        self._noted = []

    def close(self, generation: int) -> None:
        """The generation has been trained."""
        if (tell := self._on_token_stats) is not None:
            token_stats = self._ranks.gather(self._stats)
            self._ranks.on_main(lambda: tell(generation, token_stats))
        self._stats = []


def _stats_of_row(
    row: Row, facts_3_T: np.ndarray[tuple[int, int], np.dtype[np.float32]], generation: int, update: int
) -> TokenStats:
    start = row.prompt_tokens
    weights, ratios, clipped = facts_3_T[:, : len(row) - start]
    return TokenStats(
        trace_id=row.trace_id,
        kind=row.kind,
        step=generation,
        update=update,
        segments_T=row.segments_T[start:],
        codes_T=row.codes_T[start:],
        weights_T=weights,
        ratios_T=ratios,
        clipped_T=clipped > 0,
        advantage=row.advantage,
    )
