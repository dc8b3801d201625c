"""Two traces next to each other: segments in step, and in a changed one the tokens or words that differ."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from aipo.trace import Trace
from aipo.viewer.data.passages import Passage
from aipo.viewer.pages.compare.diff import Block, DiffKind, DiffSpan, align, spans
from aipo.viewer.pages.visits import stations

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_LONG, _KEPT = 1200, 300  # characters


@dataclass(frozen=True, slots=True)
class DiffText:
    """Text of one side. `folded` is the middle of something long that did not change, after `text`."""

    same: bool
    text: str
    folded: str = ""
    rest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRow:
    """One or two segments.

    Args:
        kind: what became of it.
        left, right: numbers of the segments, None on the side that has none.
        passage: one of them, for what both have in common.
        left_parts, right_parts: the text of each side; of the same segments only the left one.
        sizes: tokens on both sides.
        silent: the text is the same and only the tokens are others.
    """

    kind: DiffKind
    left: int | None
    right: int | None
    passage: Passage
    left_parts: Sequence[DiffText] = ()
    right_parts: Sequence[DiffText] = ()
    sizes: tuple[int, int]
    silent: bool = False

    @property
    def glance(self) -> str:
        """The beginning, in one line."""
        text = " ".join(self.passage.text[:400].split())
        return text if len(text) <= 110 else f"{text[:109]}…"


def rows(left: Sequence[Passage], right: Sequence[Passage], *, same_tokens: bool) -> list[DiffRow]:
    """The diff, row by row.

    Args:
        left, right: the contexts.
        same_tokens: an id means the same on both sides; else words are compared.
    """
    blocks = [[_block(p, same_tokens) for p in side] for side in (left, right)]
    return [
        _row(
            pair.kind,
            (pair.left, None if pair.left is None else left[pair.left]),
            (pair.right, None if pair.right is None else right[pair.right]),
            same_tokens,
        )
        for pair in align(*blocks)
    ]


def counts(diff: Sequence[DiffRow]) -> dict[str, int]:
    """Number of segments of each kind that occurs."""
    number = Counter(row.kind for row in diff)
    return {str(kind): number[kind] for kind in DiffKind if number[kind]}


def _block(passage: Passage, same_tokens: bool) -> Block:
    tokens: tuple[Hashable, ...] = passage.ids if same_tokens else tuple(_WORD.findall(passage.text))
    return Block((str(passage.role), passage.source), tokens)


def _row(
    kind: DiffKind,
    left: tuple[int | None, Passage | None],
    right: tuple[int | None, Passage | None],
    same_tokens: bool,
) -> DiffRow:
    (a_number, a), (b_number, b) = left, right
    passage = a or b
    assert passage is not None, "a pair has a side"
    sizes = len(a.ids) if a else 0, len(b.ids) if b else 0
    silent = False
    if kind is DiffKind.CHANGED and a and b:
        parts = _changed(a, b, same_tokens)
        silent = all(part.same for side in parts for part in side)
    elif kind is DiffKind.SAME:
        parts = [DiffText(True, passage.text)], list[DiffText]()
    else:
        parts = [DiffText(False, a.text)] if a else [], [DiffText(False, b.text)] if b else []
    return DiffRow(
        kind=kind,
        left=a_number,
        right=b_number,
        passage=passage,
        left_parts=parts[0],
        right_parts=parts[1],
        sizes=sizes,
        silent=silent,
    )


def _changed(left: Passage, right: Passage, same_tokens: bool) -> tuple[list[DiffText], list[DiffText]]:
    """Both sides of a change, cut where one differs from the other."""
    if same_tokens and left.parts is not None and right.parts is not None:
        units, keys = (left.parts, right.parts), (left.ids, right.ids)
    else:
        units = keys = tuple(_WORD.findall(left.text)), tuple(_WORD.findall(right.text))
    cuts = spans(keys[0], keys[1])
    sides = [_side(cuts, texts, side) for side, texts in enumerate(units)]
    return sides[0], sides[1]


def _side(cuts: Sequence[DiffSpan], texts: Sequence[str], side: int) -> list[DiffText]:
    parts: list[DiffText] = []
    for span in cuts:
        text = "".join(texts[slice(*(span.right if side else span.left))])
        if span.same and len(text) > _LONG:
            parts.append(DiffText(True, text[:_KEPT], text[_KEPT:-_KEPT], text[-_KEPT:]))
        elif text:
            parts.append(DiffText(span.same, text))
    return parts


@dataclass(frozen=True, slots=True)
class NodeStep:
    """A node on the way, and which of the two traces took it."""

    node: str
    kind: DiffKind
    failed: bool


def way(left: Trace, right: Trace) -> list[NodeStep]:
    """The visits of both traces as one sequence; a change is a removal and an addition."""
    a, b = stations(left), stations(right)
    sides = [[(s.visit.path, s.failed) for s in side] for side in (a, b)]
    steps: list[NodeStep] = []
    for span in spans(sides[0], sides[1]):
        if span.same:
            steps += [NodeStep(node, DiffKind.SAME, failed) for node, failed in sides[0][slice(*span.left)]]
        else:
            steps += [
                NodeStep(node, DiffKind.REMOVED, failed) for node, failed in sides[0][slice(*span.left)]
            ]
            steps += [NodeStep(node, DiffKind.ADDED, failed) for node, failed in sides[1][slice(*span.right)]]
    return steps
