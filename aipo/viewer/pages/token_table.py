"""The data behind the token view: everything that is known of each token, small enough to lie in a page.

Numbers have five significant digits; what was not recorded is null, never 0. The page's script (tokens.js)
builds the view from it, and only when somebody asks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from aipo.errors import TraceError
from aipo.render.spans import Piece
from aipo.trace import Segment, Trace
from aipo.trace.token_stats import TokenStats, positions
from aipo.util.text import visible
from aipo.viewer.data.tokens import after_seam

Texts = Callable[[Sequence[int]], list[str] | None]
Values = list[float | None]


class SegmentData(TypedDict):
    """One segment. `texts` is None when nobody can tell where one token's text ends."""

    label: str
    role: str
    colour: str
    version: int | None
    ids: list[int]
    texts: list[str] | None
    logprobs: Values | None
    entropies: Values | None


class RowData(TypedDict):
    """What one optimiser step did with the trace. `at` are stretches [first token, count] of the trace; the
    values follow them. `clipped` are places in the values."""

    name: str
    advantage: float
    at: list[list[int]]
    weights: Values
    ratios: Values | None
    clipped: list[int]


class TokenData(TypedDict):
    advantage: float | None
    segments: list[SegmentData]
    rows: list[RowData]


def token_data(
    trace: Trace, shown: Sequence[Piece], token_texts: Texts, token_stats: Iterable[TokenStats] = ()
) -> TokenData:
    """Everything known of the tokens of `trace`.

    Args:
        shown: the trace's pieces, for labels and colours.
        token_texts: ids of a segment to one text each, or None.
        token_stats: of this trace; one that does not fit it is left out.
    """
    lengths = [len(s) for s in trace.segments]
    found = (_row(stats, lengths) for stats in token_stats)
    return TokenData(
        advantage=None if trace.advantage is None else rounded(trace.advantage),
        segments=[_segment(s, p, token_texts) for s, p in zip(trace.segments, shown, strict=True)],
        rows=[row for row in found if row is not None],
    )


def _segment(segment: Segment, piece: Piece, token_texts: Texts) -> SegmentData:
    ids: list[int] = segment.token_ids.tolist()
    texts = token_texts(ids)
    fits = texts is not None and len(texts) == len(ids)
    return SegmentData(
        label=visible(piece.label),
        role=str(piece.role),
        colour=piece.colour,
        version=segment.policy_version,
        ids=ids,
        texts=[visible(t) for t in after_seam(texts, piece.text)] if texts is not None and fits else None,
        logprobs=None if segment.logprobs is None else numbers(segment.logprobs),
        entropies=None if segment.entropies is None else numbers(segment.entropies),
    )


def _row(stats: TokenStats, lengths: Sequence[int]) -> RowData | None:
    try:
        places = positions(stats, lengths)
    except TraceError:  # of an earlier attempt at the same step, whose traces are gone
        return None
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    counts = np.diff(begins, append=len(places))
    ratios = numbers(stats.ratios_T)
    return RowData(
        name=f"{stats.kind}, update {stats.update}",
        advantage=rounded(stats.advantage),
        at=[[int(places[i]), int(n)] for i, n in zip(begins, counts, strict=True)],
        weights=numbers(stats.weights_T),
        ratios=ratios if any(ratio is not None for ratio in ratios) else None,
        clipped=np.flatnonzero(stats.clipped_T).tolist(),
    )


def numbers(values: npt.NDArray[np.floating]) -> Values:
    """Rounded numbers, None for those that are not finite."""
    return [rounded(value) if math.isfinite(value) else None for value in values.tolist()]


def rounded(value: float) -> float | int:
    """`value` with five significant digits, in as few characters as JSON needs."""
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
