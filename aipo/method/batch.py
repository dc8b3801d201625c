"""Batches: rows become padded tensors, and every row gets its denominator.

The layout is TRL's: prompts padded on the left, everything after the prompt (`completion`) on the
right. The loss is a sum of terms, each divided by its row's denominator. Denominators count policy
tokens of sampled rows only, whatever agents wrote, so that all coefficients share the same policy
gradient, or agents' tokens as well (`union`); distilled rows do not count and carry the denominator of the row
that they stem from.

Rows with advantage 0 and no KL term are dead compute. They may be dropped before batching, because
the denominators come from `Totals`, which counts them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code, Row


@dataclass(frozen=True, slots=True)
class Totals:
    """Scored sampled rows of one generation, and the policy's and agents' tokens in them."""

    rows: int
    policy_tokens: int
    agent_tokens: int

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Totals":
        counted = [row for row in rows if row.kind == "sampled"]
        return cls(len(counted), sum(r.policy_tokens for r in counted), sum(r.agent_tokens for r in counted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one optimiser step averages over: `share` of the generation's rows and tokens.

    TRL divides by the rows of a micro-batch and the number of micro-batches; a share of the whole
    generation is the same number when rows divide evenly, and the only fair one when they do not.
    """

    totals: Totals
    share: float
    max_completion_length: int


COUNTS: dict[str, Callable[[Row | Totals], int]] = {
    "policy": lambda of: of.policy_tokens,
    "union": lambda of: of.policy_tokens + of.agent_tokens,
}
"""Which tokens of a row's trace, or of all of them, an average is over; see `aipo.method.objectives.DENOMINATORS`."""

AVERAGES: dict[str, Callable[[int, int, Window], float]] = {
    "row": lambda own, _, window: own * window.totals.rows * window.share,
    "tokens": lambda _, every, window: every * window.share,
    "length": lambda _, __, window: window.max_completion_length * window.totals.rows * window.share,
}
"""Tokens of the row's trace, tokens of all rows and the window to what the row's terms are divided by.

row: mean over a row's tokens, then over rows (GRPO). tokens: mean over all tokens (DAPO). length: over the longest
completion allowed, so that length has no say (Dr. GRPO).
"""


def alive(rows: Iterable[Row], *, beta: float, signed: bool = True) -> list[Row]:
    """Rows that have a gradient under a KL term of weight `beta`, and a coefficient of agents' tokens that is
    `signed`, which is that it multiplies with the advantage."""
    return [
        row
        for row in rows
        if row.advantage != 0 or beta > 0 or (not signed and (row.codes_T == Code.AGENT).any())
    ]


def denominators(
    rows: Sequence[Row], objective: str, window: Window, *, counted: str = "policy"
) -> npt.NDArray[np.float32]:
    """One number > 0 for each row; shape (B,). `objective` and `counted` are names in `aipo.method.objectives`."""
    count, average = COUNTS[counted], AVERAGES[OBJECTIVES[objective].average]
    every = count(window.totals)
    return np.array([max(average(count(row), every, window), 1e-6) for row in rows], np.float32)


def collate(
    rows: Sequence[Row], denominators_B: npt.NDArray[np.float32], *, pad_id: int
) -> dict[str, Tensor]:
    """Rows as tensors; B rows, P prompt tokens, T completion tokens, F forbidden ids.

    Returns:
        `prompt_ids`, `prompt_mask` (B, P) and `completion_ids`, `completion_mask` (B, T): int64.
        `codes` (B, T) int8: see `aipo.method.rows.Code`; padding is PROMPT, which never trains.
        `behaviour` (B, T) float32: log-probs (nats), NaN where unknown.
        `advantages`, `denominators` (B,) float32.
        `forbidden` (B, F) int64, padded with -1: only when a row forbids something.

        No rows give one row of padding, so that a step in which nothing is learned is a step too.
    """
    if not rows:
        return _inert(pad_id)
    starts = [row.prompt_tokens for row in rows]
    prompts = [row.token_ids_T[:start] for row, start in zip(rows, starts, strict=True)]
    pairs = list(zip(rows, starts, strict=True))
    batch = {
        "prompt_ids": _pad(prompts, pad_id, np.int64, left=True),
        "prompt_mask": _pad([np.ones(len(p)) for p in prompts], 0, np.int64, left=True),
        "completion_ids": _pad([row.token_ids_T[start:] for row, start in pairs], pad_id, np.int64),
        "completion_mask": _pad([np.ones(len(row) - start) for row, start in pairs], 0, np.int64),
        "codes": _pad([row.codes_T[start:] for row, start in pairs], Code.PROMPT, np.int8),
        "behaviour": _pad([row.logprobs_T[start:] for row, start in pairs], np.nan, np.float32),
        "advantages": np.array([row.advantage for row in rows], np.float32),
        "denominators": denominators_B,
    }
    if any(row.forbidden_ids for row in rows):
        batch["forbidden"] = _pad([np.array(row.forbidden_ids) for row in rows], -1, np.int64)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _pad(
    arrays: Sequence[npt.NDArray[np.generic]], value: float, dtype: type[np.generic], *, left: bool = False
) -> npt.NDArray[np.generic]:
    padded = np.full((len(arrays), max(map(len, arrays))), value, dtype)
    for out, array in zip(padded, arrays, strict=True):
        out[slice(len(out) - len(array), None) if left else slice(len(array))] = array
    return padded


def _inert(pad_id: int) -> dict[str, Tensor]:
    ids, ones = torch.full((1, 1), pad_id), torch.ones(1, 1, dtype=torch.int64)
    return {
        "prompt_ids": ids,
        "prompt_mask": ones,
        "completion_ids": ids,
        "completion_mask": torch.zeros_like(ones),
        "codes": torch.zeros(1, 1, dtype=torch.int8),
        "behaviour": torch.full((1, 1), torch.nan),
        "advantages": torch.zeros(1),
        "denominators": torch.ones(1),
    }
