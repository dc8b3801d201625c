"""The branches of a group: where its rollouts leave each other, and a drawing of the tree.

Counted are tokens after the prompt, for the prompts of assisted and solo rollouts differ by design.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from aipo.render.charts import nice_ticks
from aipo.util.text import visible
from aipo.viewer.pages.compare.diff import common_prefix

_WIDTH, _ROW, _LABELS, _LEFT, _AXIS = 1180.0, 22.0, 230.0, 8.0, 24.0


def leaves_at(completion: Sequence[Hashable], reference: Sequence[Hashable]) -> int | None:
    """The first token at which a completion differs from the reference; None if none does."""
    common = common_prefix(completion, reference)
    return None if common == len(completion) == len(reference) else common


def majority(completions: Sequence[Sequence[Hashable]]) -> int:
    """Number of the completion that at every token goes with most of those that came so far.

    Of those with equally many followers it is the first; an end counts as a token.
    """
    candidates, at = list(range(len(completions))), 0
    while True:
        tokens = {n: completions[n][at] if at < len(completions[n]) else None for n in candidates}
        (most, _), *_ = Counter(tokens.values()).most_common(1)
        candidates = [n for n in candidates if tokens[n] == most]
        if most is None:
            return candidates[0]
        at += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One rollout in the drawing.

    Args:
        tokens: ids after the prompt.
        colours: (number of tokens, producer's class) of each stretch of them.
        label: what it is and what came of it.
        href: its page.
        verdict: class of its end: `good`, `bad` or `none`.
        fork: the number of its tokens that it shares with the rollout that it was forked from; None = it was not.
        note: why it was forked there.
    """

    tokens: Sequence[int]
    colours: Sequence[tuple[int, str]]
    label: str
    href: str
    verdict: str
    fork: int | None = None
    note: str = ""


_Row = tuple[int, Leaf]  # the row of the drawing that the leaf is in
_Scale = Callable[[int], float]


def branches_svg(leaves: Sequence[Leaf]) -> str:
    """The rollouts as a tree that grows to the right, token by token."""
    rows = list(enumerate(sorted(leaves, key=lambda leaf: tuple(leaf.tokens))))
    longest = max(1, *(len(leaf.tokens) for leaf in leaves))
    floor = len(rows) * _ROW

    def x(at: int) -> float:
        return _LEFT + at / longest * (_WIDTH - _LABELS - _LEFT)

    body = [*_axis(longest, floor, x), *_branch(rows, 0, x), *(_label(row, leaf, x) for row, leaf in rows)]
    return (
        f'<svg class="branches" viewBox="0 0 {_WIDTH:.0f} {floor + _AXIS:.0f}" role="group" '
        f'aria-label="where the rollouts part, by token">{"".join(body)}</svg>'
    )


def _axis(longest: int, floor: float, x: _Scale) -> Iterator[str]:
    for tick in nice_ticks(0, longest, 8):
        if tick <= longest and tick == int(tick):
            at, text = x(int(tick)), f"{tick:g}" if tick else "token"
            side = "" if tick else ' class="first"'
            yield f'<path class="grid" d="M{at:.1f} 0V{floor:.1f}"/>'
            yield f'<text{side} x="{at:.1f}" y="{floor + 16:.1f}">{text}</text>'


def _branch(rows: Sequence[_Row], start: int, x: _Scale) -> Iterator[str]:
    """What these leaves share from token `start` on, and what follows."""
    first, last = rows[0][1], rows[-1][1]
    end = common_prefix(first.tokens, last.tokens)  # they are sorted: the two differ most
    y = _middle(rows)
    at = 0
    for count, colour in first.colours:
        low, high = max(at, start), min(at + count, end)
        at += count
        if low < high:
            yield f'<path class="stretch {colour}" d="M{x(low):.1f} {y:.1f}H{x(high):.1f}"/>'
    forks = {leaf.fork: leaf.note for _, leaf in rows if leaf.fork is not None and start < leaf.fork <= end}
    for fork, note in forks.items():
        yield (
            f'<g class="forked"><title>{escape(note)}</title><path d="M{x(fork):.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
            f'<text x="{x(fork):.1f}" y="{y - 9:.1f}">{escape(note.partition(":")[2])}</text></g>'
        )
    if len(rows) == 1:
        return

    def following(row: _Row) -> int:
        number, leaf = row
        return leaf.tokens[end] if end < len(leaf.tokens) else -1 - number  # an end is a branch of its own

    branches = [list(group) for _, group in groupby(rows, key=following)]
    yield f'<path class="fork" d="M{x(end):.1f} {_middle(branches[0]):.1f}V{_middle(branches[-1]):.1f}"/>'
    for branch in branches:
        yield from _branch(branch, end, x)


def _middle(rows: Sequence[_Row]) -> float:
    return (rows[0][0] + rows[-1][0] + 1) / 2 * _ROW


def _label(row: int, leaf: Leaf, x: _Scale) -> str:
    y, end, left = (row + 0.5) * _ROW, x(len(leaf.tokens)), _WIDTH - _LABELS + 16
    return (
        f'<path class="lead" d="M{end + 7:.1f} {y:.1f}H{left - 6:.1f}"/><a href="{escape(leaf.href)}">'
        f'<circle class="{leaf.verdict}" cx="{end:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text class="leaf" x="{left:.1f}" y="{y + 4:.1f}">{escape(visible(leaf.label))}</text></a>'
    )
