"""Batches: rows become padded tensors, and every row gets its denominator.

The layout is TRL's: prompts padded on the left, everything after the prompt (`completion`) on the right. The loss is a
sum of terms, each divided by its row's denominator. Denominators count policy tokens of sampled rows only, so that all
coefficients share the same policy gradient. With `method.denominator=union` they count agents' tokens, too. Distilled
and exchanged rows do not count; they have the denominator of the sampled row of their trace.

Rows with advantage 0 and no KL term have no gradient. They may be dropped before batching, because the denominators
come from `TokenTotals`, which counts them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aipo.method.objectives import OBJECTIVES
from aipo.method.rows import Code, Row, check_agent_logprobs
from aipo.method.settings import MethodSettings
from aipo.trace import Role


@dataclass(frozen=True, slots=True)
class TokenTotals:
    """Number of scored rollouts of one rollout step that have sampled rows, and of the policy's and agents' tokens in
    them."""

    rows: int
    policy_tokens: int
    agent_tokens: int

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "TokenTotals":
        counted = [
            row for row in rows if row.kind == "sampled" and row.counts
        ]  # each with its trace's tokens
        return cls(len(counted), sum(r.policy_tokens for r in counted), sum(r.agent_tokens for r in counted))


COUNTS: dict[str, Callable[[Row | TokenTotals], int]] = {
    "policy": lambda tokens: tokens.policy_tokens,
    "union": lambda tokens: tokens.policy_tokens + tokens.agent_tokens,
}
"""Which tokens `method.denominator` counts, of one row's trace or of all."""


def with_gradient(rows: Iterable[Row], method: MethodSettings) -> list[Row]:
    """Rows that have a gradient: an advantage, a KL term, or agents' tokens whose coefficient ignores the advantage.

    Raises:
        TrainError: the coefficient needs log-probs that an agent's tokens do not have.
    """

    def teaches(row: Row) -> bool:
        unsigned = not all(method.of_agent(name).coefficient_function.signed for name in row.agents)
        return method.beta > 0 or bool(row.advantages_T.any()) or unsigned

    teaching = list(filter(teaches, rows))
    check_agent_logprobs(teaching, method.needs_mu)
    return teaching


def agent_numbers(rows: Sequence[Row], method: MethodSettings) -> npt.NDArray[np.int64]:
    """Whose tokens those after the prompt are; (B, T): from 1 the number of an agent in `method.agents`, 0 for others."""
    numbers = {name: number for number, name in enumerate(method.agents, 1)}

    def of_row(row: Row) -> npt.NDArray[np.int64]:
        by_segment = np.array([numbers.get(s.source, 0) * (s.role is Role.AGENT) for s in row.segments])
        return by_segment[row.segments_T[row.prompt_tokens :]]

    return _pad([*map(of_row, rows)] or [np.zeros(1)], 0, np.int64).astype(np.int64)


def advantages(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """The advantages of the tokens after the prompt, 0 behind a row's end; (B, T)."""
    of_rows = [row.advantages_T[row.prompt_tokens :] for row in rows]
    return _pad(of_rows or [np.zeros(1)], 0, np.float32).astype(np.float32)


def denominators(
    rows: Sequence[Row],
    method: MethodSettings,
    totals: TokenTotals,
    *,
    minibatches: int,
    max_completion_length: int,
) -> npt.NDArray[np.float32]:
    """The denominator of each row's loss terms, > 0; shape (B,).

    An optimizer step trains 1/`minibatches` of the rollout step's rows and averages over that share of its tokens. TRL
    divides by the rows of a micro-batch and the number of micro-batches. That is the same number when rows divide
    evenly, and gives rows unequal weight when they do not.

    Args:
        totals: of the whole rollout step.
        minibatches: optimizer steps per pass over the rollout step.
        max_completion_length: the longest rollout allowed, after its prompt.
    """
    count = COUNTS[method.denominator]
    match OBJECTIVES[method.objective].average:
        case "row":  # the mean over a row's tokens, then over rows (GRPO)
            whole = [count(row) * totals.rows for row in rows]
        case "tokens":  # the mean over all tokens (DAPO)
            whole = [count(totals)] * len(rows)
        case _:  # "length", of the longest completion allowed: a row's own does not matter (Dr. GRPO)
            whole = [max_completion_length * totals.rows] * len(rows)
    return np.maximum(np.array(whole) * (1 / minibatches), 1e-6).astype(np.float32)


def collate(
    rows: Sequence[Row], denominators_B: npt.NDArray[np.float32], *, pad_id: int
) -> dict[str, Tensor]:
    """Rows as tensors; B rows, P prompt tokens, T completion tokens, F suppressed ids.

    Returns:
        `prompt_ids`, `prompt_mask` (B, P) and `completion_ids`, `completion_mask` (B, T): int64.
        `codes` (B, T) int8: see `aipo.method.rows.Code`; padding is PROMPT, which never trains.
        `behaviour_logprobs` (B, T) float32: nats, NaN where unknown.
        `advantages` (B, T) float32; `denominators` (B,) float32.
        `forbidden` (B, F) int64, padded with -1: only when a row has suppressed ids.

        Without rows it is one row of padding, so that an optimizer step without rows works, too.
    """
    if not rows:
        return _padding_row(pad_id)
    places = [(row, row.prompt_tokens) for row in rows]
    logprobs = [row.behaviour_logprobs_T[start:] for row, start in places]
    batch = {
        "prompt_ids": _pad([row.token_ids_T[:start] for row, start in places], pad_id, np.int64, left=True),
        "prompt_mask": _pad([np.ones(start) for _, start in places], 0, np.int64, left=True),
        "completion_ids": _pad([row.token_ids_T[start:] for row, start in places], pad_id, np.int64),
        "completion_mask": _pad([np.ones(len(row) - start) for row, start in places], 0, np.int64),
        "codes": _pad([row.codes_T[start:] for row, start in places], Code.PROMPT, np.int8),
        "behaviour_logprobs": _pad(logprobs, np.nan, np.float32),
        "advantages": advantages(rows),
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


def _padding_row(pad_id: int) -> dict[str, Tensor]:
    integers = {"prompt_ids": pad_id, "prompt_mask": 1, "completion_ids": pad_id, "completion_mask": 0}
    return {
        **{name: torch.full((1, 1), value) for name, value in integers.items()},
        "codes": torch.full((1, 1), Code.PROMPT, dtype=torch.int8),
        "behaviour_logprobs": torch.full((1, 1), torch.nan),
        "advantages": torch.zeros(1, 1),
        "denominators": torch.ones(1),
    }
