"""The keys and values of many contexts at once: one table of rows (contexts) and columns (tokens).

All rows end at the same column, so one decode step writes one column for every row; what lies left of a row's start is
masked. A row that joins is written with its last token at the current end; a row that leaves frees its place. Columns
move only when the end of the table is reached. What is known of a context from before (`PrefixCache`) is copied into its
row instead of being computed.

The model is called with explicit positions and a prepared mask of 4 axes, so that it builds none itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from aipo.errors import LoadError
from aipo.policies.local.prefix_cache import BLOCK, Ids, PrefixCache

# The most tokens, padding included, of one prefill call: it bounds the memory for activations.
_PREFILL_TOKENS = 1 << 14


class _Append(Cache):
    """One decode step: the new keys and values become the last column of each layer's window."""

    def __init__(self, window: Tensor) -> None:
        super().__init__(layers=[])
        self._layers = [layer.unbind() for layer in window.unbind()]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        keys, values = self._layers[layer_idx]
        keys[:, :, -1:] = key_states
        values[:, :, -1:] = value_states
        return keys, values


class _Fill(Cache):
    """A prefill: the last columns of a window over the table's rows are computed, where they are not known already."""

    def __init__(self, window: Tensor, rows: Tensor, new: Tensor) -> None:
        super().__init__(layers=[])
        self._window, self._rows, self._new = window, rows, new[:, None, :, None]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        return self._fill(key_states, layer_idx, 0), self._fill(value_states, layer_idx, 1)

    def _fill(self, states: Tensor, layer: int, part: int) -> Tensor:
        target, width = self._window[layer, part], states.shape[2]
        whole = target[self._rows]
        # Under autocast they are computed in bfloat16, which float32 holds exactly.
        whole[:, :, -width:] = torch.where(self._new, states.to(whole.dtype), whole[:, :, -width:])
        target[self._rows, :, -width:] = whole[:, :, -width:]
        return whole.to(states.dtype)


class KVTable:
    """Rows 0 .. `rows` - 1 take part in a step; a free row among them computes and is ignored.

    Args:
        model: one that passes `check_model`.
        max_rows: the most rows.
        prefixes: what is known of contexts; for these weights.
    """

    def __init__(self, model: PreTrainedModel, max_rows: int, prefixes: PrefixCache) -> None:
        layers, two, heads, width = _shape(model)
        self._model, self._max_rows, self._prefixes = model, max_rows, prefixes
        self._masked = torch.finfo(model.dtype).min
        self._kv = torch.zeros((layers, two, 0, heads, 0, width), dtype=model.dtype, device=model.device)
        self._mask = self._kv.new_zeros((0, 1, 1, 0))
        self._taken = np.zeros(0, bool)
        self._start = np.zeros(0, np.int64)
        self._begin = self._end = 0
        self.rows = 0

    def __len__(self) -> int:
        """How many rows are taken."""
        return int(self._taken.sum())

    @property
    def room(self) -> int:
        return self._max_rows - len(self)

    def admit(self, prompts: Sequence[Ids]) -> Ids:
        """Gives each prompt a row and fills it with all but its last token, which the next step takes.

        Returns the rows, in the order of `prompts`.
        """
        if not len(self):
            self._begin = self._end = 0
        self._reserve(len(self) + len(prompts), max(map(len, prompts)))
        rows = np.flatnonzero(~self._taken)[: len(prompts)]
        lengths = np.array([len(p) - 1 for p in prompts])
        self._taken[rows] = True
        self._start[rows] = self._end - lengths
        self._write_mask(rows)
        self._measure()
        # Equal prompts (a group's) are computed once.
        first = {prompt.tobytes(): i for i, prompt in reversed([*enumerate(prompts)])}
        source = np.array([first[prompt.tobytes()] for prompt in prompts])
        single = np.unique(source)
        missing = np.array([lengths[i] - self._restore(prompts[i][:-1], int(rows[i])) for i in single])
        order = np.argsort(missing, kind="stable")
        while order.size and missing[order[-1]]:
            # The longest first: each call is as wide as its first, and the short ones share the last.
            count = max(1, _PREFILL_TOKENS // int(missing[order[-1]]))
            chunk, order = order[-count:], order[:-count]
            self._prefill([prompts[i] for i in single[chunk]], rows[single[chunk]], missing[chunk])
        equal = source != np.arange(len(prompts))
        self._copy(rows[source[equal]], rows[equal])
        for i in single:
            self._keep(int(rows[i]), prompts[i][:-1])
        return rows

    def forward(self, tokens_B: Ids) -> Tensor:
        """Appends one token to each row; returns the logits of the next, shape (`rows`, V)."""
        if self._end == self._kv.shape[4]:
            self._reserve(self.rows, 0)
        positions = torch.from_numpy(((self._end - self._start[: self.rows]) * self.taken)[:, None])
        self._end += 1
        window = slice(self._begin, self._end)
        output = self._model(
            input_ids=torch.from_numpy(tokens_B[:, None]).to(self._kv.device),
            position_ids=positions.to(self._kv.device),
            # A copy: CUDA's attention kernels fault on a mask that begins within 16 bytes.
            attention_mask=self._mask[: self.rows, :, :, window].clone(),
            past_key_values=_Append(self._kv[:, :, : self.rows, :, window]),
            use_cache=True,
        )
        return output.logits[:, -1]

    @property
    def taken(self) -> npt.NDArray[np.bool_]:
        """Which of the `rows` are taken."""
        return self._taken[: self.rows]

    def release(self, rows: Sequence[int], contexts: Sequence[Ids]) -> None:
        """Frees rows.

        Args:
            contexts: the ids of each row, as far as the model has seen them; no ids: nothing is kept of the row.
        """
        for row, context in zip(rows, contexts, strict=True):
            self._keep(row, context)
        self._taken[rows] = False
        self._measure()

    def wipe(self, row: int) -> None:
        """Forgets a row that holds NaN, which no mask would keep from the next one there."""
        self._kv[:, :, row] = 0

    def compact(self) -> tuple[Ids, Ids]:
        """Moves the last rows into free ones where many are free; returns (sources, targets)."""
        count = len(self)
        if 8 * (self.rows - count) <= self.rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sources = np.flatnonzero(self._taken[count:]) + count
        targets = np.flatnonzero(~self._taken[:count])
        self._copy(sources, targets)
        self._start[targets] = self._start[sources]
        self._write_mask(targets)
        self._taken[targets], self._taken[sources] = True, False
        self._measure()
        return sources, targets

    def _copy(self, sources: Ids, targets: Ids) -> None:
        live = slice(self._begin, self._end)
        self._kv[:, :, targets, :, live] = self._kv[:, :, sources, :, live]

    def _restore(self, ids: Ids, row: int) -> int:
        """Copies what is known of a context into its row; returns of how many tokens."""
        places = self._prefixes.match(ids)
        if not places:
            return 0
        states = self._prefixes.read(places)
        start = int(self._start[row])
        self._kv[:, :, row, :, start : start + states.shape[3]] = states
        return states.shape[3]

    def _keep(self, row: int, ids: Ids) -> None:
        """Lets the cache know a row's context; it may become a quarter as large as the table."""
        start = int(self._start[row])
        states = self._kv[:, :, row, :, start : start + len(ids)]
        try:
            self._prefixes.write(ids, states, self._kv.shape[2] * self._kv.shape[4] // (4 * BLOCK))
        except torch.OutOfMemoryError:  # rollouts go on without what it knew
            self._prefixes.clear()

    def _prefill(self, prompts: Sequence[Ids], rows: Ids, missing: Ids) -> None:
        """One forward pass over the last `missing` tokens of each prompt but for its very last, left-padded."""
        lengths = np.array([len(p) - 1 for p in prompts])
        width, reach = int(missing.max()), int(lengths.max())
        ids = np.zeros((len(prompts), width), np.int64)
        for row, prompt, count in zip(ids, prompts, missing, strict=True):
            row[width - count :] = prompt[len(prompt) - 1 - count : -1]
        device = self._kv.device
        start = torch.from_numpy(reach - lengths)[:, None].to(device)
        column = torch.arange(reach, device=device)
        query = column[-width:]
        seen = (column <= query[:, None]) & (column >= start)[:, None, None]
        mask = self._mask.new_full(seen.shape, self._masked).masked_fill_(seen, 0)
        new = query >= torch.from_numpy(reach - missing)[:, None].to(device)
        window = self._kv[:, :, :, :, self._end - reach : self._end]
        self._model(
            input_ids=torch.from_numpy(ids).to(device),
            position_ids=(query - start).clamp_(min=0),
            attention_mask=mask,
            past_key_values=_Fill(window, torch.from_numpy(rows).to(device), new),
            use_cache=True,
            logits_to_keep=1,
        )

    def _reserve(self, rows: int, longest: int) -> None:
        """Makes room for `rows` rows, for a prompt of `longest` tokens before the end and a column after it."""
        have_rows, have_columns = self._kv.shape[2], self._kv.shape[4]
        live = self._end - self._begin
        width = max(live, longest)
        slack = max(64, width // 2)
        if rows > have_rows or width + slack // 2 > have_columns:
            have_rows = max(have_rows, min(self._max_rows, 1 << (rows - 1).bit_length()))
            have_columns = max(have_columns, width + slack)
            self._move(width, have_rows, have_columns)
        elif longest > self._end or self._end == have_columns:
            self._move(width, have_rows, have_columns)

    def _move(self, end: int, rows: int, columns: int) -> None:
        """Lets the live columns end at `end`, in a table of the given size."""
        live = self._kv[:, :, :, :, self._begin : self._end].clone()
        if (rows, columns) != (self._kv.shape[2], self._kv.shape[4]):
            layers, two, _, heads, _, width = self._kv.shape
            self._kv = self._kv.new_zeros((layers, two, rows, heads, columns, width))
            self._mask = self._mask.new_zeros((rows, 1, 1, columns))
            self._taken = np.pad(self._taken, (0, rows - len(self._taken)))
            self._start = np.pad(self._start, (0, rows - len(self._start)))
        self._kv[:, :, : live.shape[2], :, end - live.shape[4] : end] = live
        self._start += end - self._end
        self._begin, self._end = end - live.shape[4], end
        self._write_mask(np.arange(rows))

    def _write_mask(self, rows: Ids) -> None:
        before = torch.arange(self._mask.shape[3]) < torch.from_numpy(self._start[rows, None])
        mask = self._mask.new_zeros(before.shape).masked_fill_(before.to(self._mask.device), self._masked)
        self._mask[rows] = mask[:, None, None]

    def _measure(self) -> None:
        taken = np.flatnonzero(self._taken)
        self.rows = int(taken[-1]) + 1 if taken.size else 0
        self._begin = int(self._start[taken].min()) if taken.size else self._end


def prefix_cache(model: PreTrainedModel) -> PrefixCache:
    """An empty cache for contexts of this model."""
    return PrefixCache(_shape(model), torch.zeros(0, dtype=model.dtype, device=model.device))


def _shape(model: PreTrainedModel) -> tuple[int, int, int, int]:
    """Of the keys and values of one token: (layers, 2, heads, width)."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, 2, heads, width


def check_model(model: PreTrainedModel) -> None:
    """Refuses a model that the table cannot serve.

    Raises:
        LoadError: layers that do not attend to the whole context, or an attention implementation that takes no
            prepared mask.
    """
    kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    if kinds - {DynamicLayer.__name__}:
        raise LoadError(f"cache layers of the policy: got {sorted(kinds)}, allowed full attention only")
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        raise LoadError(
            "rope_type of the policy: got 'longrope', whose keys depend on the longest row of a batch"
        )
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise LoadError(
            f"attn_implementation of the policy: got {attention!r}, allowed 'sdpa' or 'eager' (a prepared mask)"
        )
