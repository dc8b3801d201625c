"""The differences between two contexts: by segment, and by token inside a changed segment.

Two segments are the same only if one producer made the same tokens. Segments of one producer that differ
are a change, everything else was removed or added. Nothing is lost: the left sides of a diff, one after the
other, are the left context, and the right sides the right one.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise

import numpy as np
from rapidfuzz.distance import Indel

_EXACT = 16_384  # tokens; of what is longer, pieces are compared
_SHORT = 3  # tokens
_PAIRED = 0.05  # what it is worth to show two segments of one producer side by side, however different


class DiffKind(StrEnum):
    """The change of a segment."""

    SAME = "same"
    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Block:
    """A segment to be compared: who made it, and its tokens as anything that has an identity."""

    producer: tuple[str, str]
    tokens: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class SegmentPair:
    """Segments that belong together, by number; None where the other side has nothing like it."""

    kind: DiffKind
    left: int | None
    right: int | None


@dataclass(frozen=True, slots=True)
class DiffSpan:
    """Ranges of tokens of both sides: the same ones, or what stands for what."""

    same: bool
    left: tuple[int, int]
    right: tuple[int, int]

    @property
    def size(self) -> int:
        """Tokens of the longer side."""
        return max(self.left[1] - self.left[0], self.right[1] - self.right[0])


def align(left: Sequence[Block], right: Sequence[Block]) -> list[SegmentPair]:
    """Every segment of both sides once, in order; the alignment that keeps most of the text together."""
    head, tail = _ends(left, right)
    inner = _best(left[head : len(left) - tail], right[head : len(right) - tail], head)
    before = (SegmentPair(DiffKind.SAME, i, i) for i in range(head))
    after = (SegmentPair(DiffKind.SAME, len(left) - i, len(right) - i) for i in range(tail, 0, -1))
    return [*before, *inner, *after]


def spans(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[DiffSpan]:
    """The tokens of both sides in order.

    What is the same between two changes, but shorter than they are, is part of one change: single letters
    that two answers happen to share tell a reader nothing.
    """
    return _calm(raw_spans(left, right))


def raw_spans(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[DiffSpan]:
    """The same without joining: as many tokens as can be are the same, in long texts as many in each piece."""
    pieces = -(-max(len(left), len(right)) // _EXACT) or 1
    parts: list[DiffSpan] = []
    for a, b in zip(_cuts(len(left), pieces), _cuts(len(right), pieces), strict=True):
        for code in Indel.opcodes(left[slice(*a)], right[slice(*b)]):
            a_ends = a[0] + code.src_start, a[0] + code.src_end
            b_ends = b[0] + code.dest_start, b[0] + code.dest_end
            parts.append(DiffSpan(code.tag == "equal", a_ends, b_ends))
    return _merge(parts)


def _cuts(size: int, pieces: int) -> list[tuple[int, int]]:
    """Long texts are compared piece by piece: the time grows with the square of a piece."""
    return list(pairwise(size * n // pieces for n in range(pieces + 1)))


def _merge(parts: Sequence[DiffSpan]) -> list[DiffSpan]:
    """Neighbours of one kind as one span: a removal and the addition beside it are one change."""
    return [
        DiffSpan(same, (run[0].left[0], run[-1].left[1]), (run[0].right[0], run[-1].right[1]))
        for same, run in ((same, list(run)) for same, run in groupby(parts, key=lambda span: span.same))
    ]


def _calm(parts: Sequence[DiffSpan]) -> list[DiffSpan]:
    """Joins changes across short stretches of the same."""
    result: list[DiffSpan] = []
    for span in parts:
        if not span.same and len(result) > 1 and result[-1].same and not result[-2].same:
            first, between = result[-2:]
            if between.left[1] - between.left[0] <= min(_SHORT, first.size, span.size):
                joined = DiffSpan(False, (first.left[0], span.left[1]), (first.right[0], span.right[1]))
                result[-2:] = [joined]
                continue
        result.append(span)
    return result


def common_prefix(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the common prefix, in tokens."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _ends(left: Sequence[Hashable], right: Sequence[Hashable]) -> tuple[int, int]:
    """How much both begin with, and how much of the rest both end with."""
    head = common_prefix(left, right)
    return head, common_prefix(left[head:][::-1], right[head:][::-1])


def _best(left: Sequence[Block], right: Sequence[Block], first: int) -> Iterator[SegmentPair]:
    """Longest common subsequence, where a pair counts by how much of it is alike. Numbers begin at `first`."""
    worth = np.zeros((len(left) + 1, len(right) + 1))
    alike = [[_likeness(a, b) for b in right] for a in left]
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            worth[i, j] = max(worth[i + 1, j], worth[i, j + 1], worth[i + 1, j + 1] + alike[i][j])
    i = j = 0
    while i < len(left) and j < len(right):
        if alike[i][j] > 0 and worth[i, j] == worth[i + 1, j + 1] + alike[i][j]:
            yield SegmentPair(
                DiffKind.SAME if left[i] == right[j] else DiffKind.CHANGED, first + i, first + j
            )
            i, j = i + 1, j + 1
        elif worth[i, j] == worth[i + 1, j]:
            yield SegmentPair(DiffKind.REMOVED, first + i, None)
            i += 1
        else:
            yield SegmentPair(DiffKind.ADDED, None, first + j)
            j += 1
    yield from (SegmentPair(DiffKind.REMOVED, first + n, None) for n in range(i, len(left)))
    yield from (SegmentPair(DiffKind.ADDED, None, first + n) for n in range(j, len(right)))


def _likeness(left: Block, right: Block) -> float:
    """0 for two producers, 1 + `_PAIRED` for the same; else by the share of tokens that both have."""
    if left.producer != right.producer:
        return 0.0
    longest = max(len(left.tokens), len(right.tokens))
    shared = (Counter(left.tokens) & Counter(right.tokens)).total()
    return _PAIRED + (shared / longest if longest else 1.0)
