"""Decoding: a context's text, cut where its segments meet.

A segment that is decoded by itself loses what only its neighbours tell: the space that sentencepiece writes
into the first token of a word, and characters whose bytes lie on both sides of a seam. So each text is the
difference between two decodings, with and without the segment.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Decode = Callable[[Ids], str]

_WINDOW = 8  # tokens; bytes of one character need three


def texts_of(segments: Sequence[Ids], decode: Decode) -> tuple[str, ...]:
    """One text per segment. Joined they are the text of the whole context.

    A character that begins in one segment and ends in another is text of the one that completes it.
    """
    if not segments:
        return ()
    ids = np.concatenate(segments)
    ends = list(accumulate(map(len, segments)))
    whole = decode(ids)
    texts = tuple(_text(ids, begin, end, decode) for begin, end in pairwise([0, *ends]))
    if "".join(texts) == whole:
        return texts
    # A few tokens do not tell everything: a decoder may wait longer for the end of a run of bytes.
    cuts = accumulate((_shared(decode(ids[:end]), whole) for end in ends[:-1]), max, initial=0)
    return tuple(whole[begin:end] for begin, end in pairwise([*cuts, len(whole)]))


def _text(ids: Ids, begin: int, end: int, decode: Decode) -> str:
    """The text that tokens `begin` to `end` add to their neighbours' text."""
    first = max(0, begin - _WINDOW)
    around = decode(ids[first : end + _WINDOW])
    known = _shared(decode(ids[first:begin]), around) if begin else 0
    return around[known : _shared(decode(ids[first:end]), around)]


def _shared(part: str, whole: str) -> int:
    """Length of the common prefix, in characters."""
    if whole.startswith(part):
        return len(part)
    pairs = enumerate(zip(part, whole, strict=False))
    return next((i for i, (own, other) in pairs if own != other), len(whole))
