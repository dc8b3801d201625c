"""The differences between two contexts: by segment, and by word inside a changed segment.

Nothing is lost: the left sides of a diff, one after the other, are the left context, and the right sides the right one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from rapidfuzz.distance import Indel

_EXACT = 16_384  # of what is longer, pieces are compared
_SHORT = 3


class DiffKind(StrEnum):
    """The change of a segment."""

    SAME = "same"
    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Block:
    """A segment to be compared: who made it, and its text."""

    producer: tuple[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class SegmentPair:
    """Segments that belong together, by number; None where the other side has nothing like it."""

    kind: DiffKind
    left: int | None
    right: int | None


@dataclass(frozen=True, slots=True)
class DiffSpan:
    """Ranges of both sides: the same, or what stands for what."""

    same: bool
    left: tuple[int, int]
    right: tuple[int, int]

    @property
    def size(self) -> int:
        """Of the longer side."""
        return max(self.left[1] - self.left[0], self.right[1] - self.right[0])

    def until(self, later: "DiffSpan", *, same: bool) -> "DiffSpan":
        """From here to the end of a later one."""
        return DiffSpan(same, (self.left[0], later.left[1]), (self.right[0], later.right[1]))


def align(left: Sequence[Block], right: Sequence[Block]) -> list[SegmentPair]:
    """Every segment of both sides once, in order: equal ones together, and between these such of one producer."""
    pairs: list[SegmentPair] = []
    for span in raw_spans(left, right):
        i, j = span.left[0], span.right[0]
        if span.same:
            pairs += [SegmentPair(DiffKind.SAME, i + n, j + n) for n in range(span.size)]
            continue
        sides = left[slice(*span.left)], right[slice(*span.right)]
        for part in raw_spans(*([block.producer for block in side] for side in sides)):
            numbers = range(i + part.left[0], i + part.left[1]), range(j + part.right[0], j + part.right[1])
            if part.same:
                pairs += [SegmentPair(DiffKind.CHANGED, a, b) for a, b in zip(*numbers, strict=True)]
            else:
                pairs += [SegmentPair(DiffKind.REMOVED, a, None) for a in numbers[0]]
                pairs += [SegmentPair(DiffKind.ADDED, None, b) for b in numbers[1]]
    return pairs


def spans(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[DiffSpan]:
    """Both sides in order.

    What is the same between two changes, but shorter than they are, is part of one change: single words that two
    answers happen to share tell a reader nothing.
    """
    result: list[DiffSpan] = []
    for span in raw_spans(left, right):
        between = result[-1].size if len(result) > 1 and not span.same else None
        if between is not None and between <= min(_SHORT, result[-2].size, span.size):
            result[-2:] = [result[-2].until(span, same=False)]
        else:
            result.append(span)
    return result


def raw_spans(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[DiffSpan]:
    """Spans of both kinds by turns: as much as can be is the same, in what is long as much in each piece.

    Pieces, because the time grows with the square of their length.
    """
    pieces = -(-max(len(left), len(right)) // _EXACT) or 1
    cuts = [[len(side) * n // pieces for n in range(pieces + 1)] for side in (left, right)]
    result: list[DiffSpan] = []
    for (a, b), (a_end, b_end) in pairwise(zip(*cuts, strict=True)):
        for code in Indel.opcodes(left[a:a_end], right[b:b_end]):
            ends = (a + code.src_start, a + code.src_end), (b + code.dest_start, b + code.dest_end)
            span = DiffSpan(code.tag == "equal", *ends)
            if result and result[-1].same is span.same:
                result[-1] = result[-1].until(span, same=span.same)
            else:
                result.append(span)
    return result


def common_prefix(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
