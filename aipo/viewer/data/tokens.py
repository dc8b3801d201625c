"""The tokens of a trace for the token view: each one's text, by the tokenizer that the run kept, and its numbers.

Numbers have five significant digits; a number that nobody recorded is null, never 0. The page's script (tokens.js)
builds the view from this data when a reader asks for it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from aipo.errors import TraceError
from aipo.method.rows import Code
from aipo.render.spans import TextSpan
from aipo.trace import Segment, Trace
from aipo.trace.token_stats import TokenStats, positions
from aipo.util.text import visible

Texts = Callable[[Sequence[int]], list[str] | None]
Values = list[float | None]


class SegmentData(TypedDict):
    """One segment. `texts` is None when the texts of its tokens are unknown, `advantage` where it is the trace's."""

    label: str
    role: str
    colour: str
    version: int | None
    ids: list[int]
    texts: list[str] | None
    logprobs: Values | None
    entropies: Values | None
    advantage: float | None


class RowData(TypedDict):
    """The effect of one optimizer step on the trace. `at` are stretches [first token, count] of the trace; the
    values follow them. `clipped` are places in the values.

    `of_rollout` and `of_step` are Σ |A·w| over the rows of the trace, and over all rows, in this optimizer step, in the
    units of this row: a token's |A·w| divided by it is its share. `agent_advantage`: A of agents' tokens."""

    name: str
    kind: str
    optimizer_step: int
    advantage: float
    agent_advantage: float
    of_rollout: float
    of_step: float | None
    logprobs: Values | None
    at: list[list[int]]
    weights: Values
    ratios: Values | None
    clipped: list[int]


class TokenData(TypedDict):
    advantage: float | None
    segments: list[SegmentData]
    rows: list[RowData]


def after_seam(texts: Sequence[str], text: str) -> list[str]:
    """Texts of a segment's tokens, with the space before the first one that only its neighbours reveal.

    Args:
        texts: of the tokens, decoded without what is before the segment.
        text: of the segment in its context.
    """
    joined = "".join(texts)
    space = text.removesuffix(joined)
    if not texts or not joined or not space.isspace():
        return list(texts)
    return [space + texts[0], *texts[1:]]


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a folder; None if there is none that can be read."""
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library has no error of its own; ids are then shown without texts
        return None


def texts_of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """One text per token; joined they are the text of all of them.

    A character that takes several tokens is the last one's text; the others' is empty.
    """
    plain = [int(i) for i in ids]
    stream = DecodeStream(skip_special_tokens=False)
    try:
        parts = [stream.step(tokenizer, i) or "" for i in plain]
    except Exception:  # of the library, for bytes that are no text
        return [tokenizer.decode([i], skip_special_tokens=False) for i in plain]
    whole = tokenizer.decode(plain, skip_special_tokens=False)
    if parts and whole.startswith(joined := "".join(parts)):
        parts[-1] += whole[len(joined) :]
    return parts


def token_data(
    trace: Trace,
    spans: Sequence[TextSpan],
    token_texts: Texts,
    token_stats: Iterable[TokenStats] = (),
    pushes: Mapping[int, float] | None = None,
) -> TokenData:
    """All recorded values of the tokens of `trace`.

    Args:
        spans: the trace's pieces, for labels and colours.
        token_texts: ids of a segment to one text each, or None.
        token_stats: of this trace; one that does not fit it is left out.
        pushes: of all rows by optimizer step, see `TokenStatsStore.pushes`.
    """
    token_stats, totals = list(token_stats), defaultdict[int, float](float)
    for stats in token_stats:
        totals[stats.optimizer_step] += _push(stats, trace)
    rows = (
        _row(stats, trace, totals[stats.optimizer_step], (pushes or {}).get(stats.optimizer_step))
        for stats in token_stats
    )
    return TokenData(
        advantage=None if trace.advantage is None else rounded(trace.advantage),
        segments=[_segment(s, p, token_texts) for s, p in zip(trace.segments, spans, strict=True)],
        rows=[row for row in rows if row is not None],
    )


def _segment(segment: Segment, piece: TextSpan, token_texts: Texts) -> SegmentData:
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
        advantage=None if segment.advantage is None else rounded(segment.advantage),
    )


def _push(stats: TokenStats, trace: Trace) -> float:
    """Σ_t |A·w| of a row. All rows of a trace have one denominator, so that their sums can be compared."""
    of_segments = [stats.advantage if s.advantage is None else s.advantage for s in trace.segments]
    advantages_T = np.array(of_segments)[np.minimum(stats.segments_T, len(of_segments) - 1)]
    if (given := _agent_advantage(stats)) != stats.advantage:  # a coefficient that ignores the advantage
        advantages_T = np.where(stats.codes_T == Code.AGENT, given, advantages_T)
    return float(np.abs(stats.weights_T * advantages_T).sum())


def _agent_advantage(stats: TokenStats) -> float:
    return stats.advantage if stats.agent_advantage is None else stats.agent_advantage


def _row(stats: TokenStats, trace: Trace, of_rollout: float, push_of_step: float | None) -> RowData | None:
    try:
        places = positions(stats, [len(s) for s in trace.segments])
    except TraceError:  # of an earlier attempt at the same step, whose traces are gone
        return None
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    counts = np.diff(begins, append=len(places))
    ratios = numbers(stats.ratios_T)
    return RowData(
        name=f"{stats.kind}, update {stats.optimizer_step}",
        kind=stats.kind,
        optimizer_step=stats.optimizer_step,
        advantage=rounded(stats.advantage),
        agent_advantage=rounded(_agent_advantage(stats)),
        of_rollout=rounded(of_rollout),
        of_step=rounded(_push(stats, trace) / stats.push * push_of_step)
        if stats.push and push_of_step
        else None,
        logprobs=None if stats.logprobs_T is None else numbers(stats.logprobs_T),
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
