"""Requests that are being continued together: one row of the table each, one token each per step."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from aipo.errors import PolicyError
from aipo.policies.base import Completion, SampleRequest
from aipo.policies.local.kv_cache import KVTable
from aipo.policies.local.prefix_cache import Ids, PrefixCache
from aipo.policies.local.sampling import sample, uniforms
from aipo.policies.local.stop_strings import completes, may_complete
from aipo.policies.tokenizer import HFTokenizer

_STATE = np.dtype(
    [(name, "i8") for name in ("newest", "count", "limit", "forbidden", "stop")]
    + [("seed", "u8"), ("temperature", "f8")]
)
_TOKEN = np.dtype([("id", "i4"), ("logprob", "f4"), ("entropy", "f4")])


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that has not ended. `limit`: the most tokens that the model's positions and the request allow."""

    request: SampleRequest
    limit: int
    done: asyncio.Future[Completion]


@dataclass(slots=True)
class VocabularyMasks:
    """One row of booleans over the vocabulary for each distinct setting; row 0 is all false."""

    rows_G_V: torch.Tensor
    _index: dict[tuple[object, ...], int] = field(default_factory=lambda: {(): 0})

    def index(self, key: tuple[object, ...], ids: Callable[[], Iterable[int]]) -> int:
        """The row of `key`; a new one is true at `ids()`."""
        if key not in self._index:
            row = torch.zeros_like(self.rows_G_V[:1])
            row[0, list(ids())] = True
            self.rows_G_V = torch.cat([self.rows_G_V, row])
            self._index[key] = len(self._index)
        return self._index[key]


class Decoder:
    """Steps a batch of requests; results and errors go to the requests' futures.

    Args:
        model: in evaluation mode.
        tokenizer: gives the end token and the text for stop strings.
        max_rows: the most requests at a time.
        version: of the weights, for the completions.
        prefixes: what is known of contexts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: HFTokenizer,
        max_rows: int,
        version: int,
        prefixes: PrefixCache,
    ) -> None:
        self._tokenizer, self._version = tokenizer, version
        self.table = KVTable(model, max_rows, prefixes)
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        self._forbidden = VocabularyMasks(torch.zeros((1, vocabulary), dtype=torch.bool, device=model.device))
        self._stops = VocabularyMasks(torch.zeros((1, vocabulary), dtype=torch.bool))
        self._requests: list[PendingRequest | None] = [None] * max_rows
        self._state = np.zeros(max_rows, _STATE)
        self._written = np.zeros((max_rows, 64), _TOKEN)

    @property
    def requests(self) -> list[PendingRequest]:
        return [r for r in self._requests if r is not None]

    def join(self, requests: Sequence[PendingRequest]) -> None:
        """Gives every request a row; at most `table.room` of them."""
        rows = self.table.admit([np.array(r.request.token_ids, np.int64) for r in requests])
        for row, pending in zip(rows.tolist(), requests, strict=True):
            self._requests[row] = pending
            request = pending.request
            forbidden = self._forbidden.index(request.forbidden_ids, lambda r=request: r.forbidden_ids)
            stop = self._stops.index(
                request.stop, lambda r=request: may_complete(r.stop, self._tokenizer.texts)
            )
            newest, seed = request.token_ids[-1], request.seed & (2**64 - 1)
            self._state[row] = (newest, 0, pending.limit, forbidden, stop, seed, request.temperature)
        lack = max(r.limit for r in requests) - self._written.shape[1]
        if lack > 0:
            self._written = np.pad(self._written, ((0, 0), (0, lack)))

    def step(self) -> None:
        """One token for every request; those that are finished leave."""
        self._leave([row for row, r in enumerate(self._requests) if r is not None and r.done.done()])
        count = self.table.rows
        if not count:
            return
        state, rows = self._state[:count], np.arange(count)
        drawn = sample(
            self.table.forward(state["newest"]),
            state["temperature"],
            uniforms(state["seed"], state["count"]),
            self._forbidden_rows(state["forbidden"]),
        )
        written = self._written[:count]
        for name, values in zip(("id", "logprob", "entropy"), drawn, strict=True):
            written[name][rows, state["count"]] = values
        state["newest"] = drawn.tokens_B
        state["count"] += self.table.taken  # a free row stays at 0, so that it never outgrows `written`
        maybe_over = (
            (drawn.tokens_B == self._tokenizer.eos_id)
            | (state["count"] >= state["limit"])
            | self._stops.rows_G_V.numpy()[state["stop"], drawn.tokens_B]
            | ~np.isfinite(drawn.logprobs_B + drawn.entropies_B)
        )
        self._leave(
            [row for row in np.flatnonzero(maybe_over & self.table.taken).tolist() if self._settle(row)]
        )
        self._compact()

    def _settle(self, row: int) -> bool:
        """Is the request of `row` over? If so, its future gets the result."""
        pending, count = self._requests[row], int(self._state["count"][row])
        assert pending is not None
        written = self._written[row, :count]
        if not np.isfinite(written["logprob"][-1] + written["entropy"][-1]):
            self.table.wipe(row)
            pending.done.set_exception(
                PolicyError(
                    f"log-probability: got {written['logprob'][-1]} (the model's logits are not finite), allowed a "
                    f"finite number, at token {count - 1} after a context of {len(pending.request.token_ids)} tokens, "
                    f"policy version {self._version}"
                )
            )
            return True
        finish = self._finish(pending, written["id"])
        if finish is None:
            return False
        pending.done.set_result(
            Completion(
                token_ids=written["id"].copy(),
                logprobs=written["logprob"].copy(),
                entropies=written["entropy"].copy(),
                finish=finish,
                policy_version=self._version,
            )
        )
        return True

    def _finish(
        self, pending: PendingRequest, token_ids: npt.NDArray[np.int32]
    ) -> Literal["stop", "eos", "length"] | None:
        if token_ids[-1] == self._tokenizer.eos_id:
            return "eos"
        stop = pending.request.stop
        if stop and completes(stop, token_ids, self._tokenizer):
            return "stop"
        return "length" if len(token_ids) >= pending.limit else None

    def _forbidden_rows(self, index_B: npt.NDArray[np.int64]) -> torch.Tensor | None:
        if not index_B.any():
            return None
        table = self._forbidden.rows_G_V
        return table[torch.from_numpy(index_B).to(table.device)]

    def _leave(self, rows: list[int]) -> None:
        if not rows:
            return
        self.table.release(rows, [self._context(row) for row in rows])
        self._state[rows] = 0
        for row in rows:
            self._requests[row] = None

    def _context(self, row: int) -> Ids:
        """The ids of a row, all but its last token, which the model has not seen; none where it did not end well."""
        pending = self._requests[row]
        if pending is None or pending.done.cancelled() or pending.done.exception():
            return np.zeros(0, np.int64)
        written = self._written["id"][row, : self._state["count"][row]]
        return np.concatenate([pending.request.token_ids, written[:-1]]).astype(np.int64)

    def _compact(self) -> None:
        sources, targets = self.table.compact()
        self._state[targets], self._written[targets] = self._state[sources], self._written[sources]
        self._state[sources] = 0
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            self._requests[target], self._requests[source] = self._requests[source], None
