"""The branches of a group: the tokens that each pair of rollouts shares, and a drawing of the tree.

Counted are tokens after the prompt, for the prompts of assisted and solo rollouts differ by design.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from aipo.render.charts import nice_ticks
from aipo.util.text import visible
from aipo.viewer.pages.compare.diff import common_prefix

_WIDTH, _ROW, _LABELS, _LEFT, _AXIS = 1180.0, 22.0, 230.0, 8.0, 24.0


@dataclass(frozen=True, slots=True)
class Branches:
    """The branching of a group's rollouts.

    Args:
        shared: how many tokens rollouts i and j begin with both; on the diagonal, how many i has.
        majority: the rollout that at every token goes with most of those that came so far.
        common: how many tokens all of them share.
    """

    shared: tuple[tuple[int, ...], ...]
    majority: int
    common: int

    def leaves(self, number: int, reference: int) -> int | None:
        """The first token at which a rollout differs from the reference; None if none does."""
        common = self.shared[number][reference]
        same = common == self.shared[number][number] == self.shared[reference][reference]
        return None if same else common

    def cuts(self, number: int) -> set[int]:
        """Every token at which the rollout leaves another one."""
        places = (self.leaves(number, other) for other in range(len(self.shared)) if other != number)
        return {place for place in places if place is not None}


def branches(completions: Sequence[Sequence[int]]) -> Branches:
    """How `completions`, at least one, part from each other."""
    shared = tuple(tuple(common_prefix(a, b) for b in completions) for a in completions)
    return Branches(shared, _majority(completions), min(min(row) for row in shared))


def _majority(completions: Sequence[Sequence[int]]) -> int:
    """Of those with equally many followers, the first; an end counts as a token."""
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
    """

    tokens: Sequence[int]
    colours: Sequence[tuple[int, str]]
    label: str
    href: str
    verdict: str


def branches_svg(leaves: Sequence[Leaf]) -> str:
    """The rollouts as a tree that grows to the right, token by token."""
    order = sorted(range(len(leaves)), key=lambda n: tuple(leaves[n].tokens))
    tree = _Tree([leaves[n] for n in order])
    high = len(leaves) * _ROW + _AXIS
    body = "".join([*tree.axis(), *tree.lines(), *tree.labels()])
    return (
        f'<svg class="branches" viewBox="0 0 {_WIDTH:.0f} {high:.0f}" role="group" '
        f'aria-label="where the rollouts part, by token">{body}</svg>'
    )


class _Tree:
    """Lays out leaves that are sorted by their tokens, so that neighbours share the most."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self.longest = max(1, *(len(leaf.tokens) for leaf in leaves))
        self.shared = [common_prefix(a.tokens, b.tokens) for a, b in pairwise(leaves)]

    def x(self, at: int) -> float:
        return _LEFT + at / self.longest * (_WIDTH - _LABELS - _LEFT)

    def axis(self) -> Iterator[str]:
        floor = len(self.leaves) * _ROW
        for tick in nice_ticks(0, self.longest, 8):
            if tick <= self.longest and tick == int(tick):
                x = self.x(int(tick))
                text = "token" if tick == 0 else f"{tick:g}"
                side = ' class="first"' if tick == 0 else ""
                yield f'<path class="grid" d="M{x:.1f} 0V{floor:.1f}"/>'
                yield f'<text{side} x="{x:.1f}" y="{floor + 16:.1f}">{text}</text>'

    def lines(self) -> list[str]:
        """Curves where they part first, so that the lines themselves lie over them."""
        drawn = list(self._node(0, len(self.leaves), 0))
        return sorted(drawn, key=lambda part: 'class="fork"' not in part)

    def _node(self, first: int, last: int, start: int) -> Iterator[str]:
        """What leaves `first` to `last` (exclusive) share from token `start` on, and what follows."""
        inner = self.shared[first : last - 1]
        end = min(inner) if inner else len(self.leaves[first].tokens)
        y = self._y(first, last)
        yield from self._stretch(self.leaves[first], start, end, y)
        if not inner:
            return
        ends = [n + 1 for n in range(first, last - 1) if self.shared[n] == end]
        for low, high in zip([first, *ends], [*ends, last], strict=True):
            below, x = self._y(low, high), self.x(end)
            far = min(x + 9, self.x(min(len(leaf.tokens) for leaf in self.leaves[low:high])))
            yield f'<path class="fork" d="M{x:.1f} {y:.1f}C{x:.1f} {below:.1f} {x:.1f} {below:.1f} {far:.1f} {below:.1f}"/>'
            yield from self._node(low, high, end)

    def _y(self, first: int, last: int) -> float:
        return ((first + last - 1) / 2 + 0.5) * _ROW

    def _stretch(self, leaf: Leaf, start: int, end: int, y: float) -> Iterator[str]:
        at = 0
        for count, colour in leaf.colours:
            low, high = max(at, start), min(at + count, end)
            at += count
            if low < high:
                yield f'<path class="stretch {colour}" d="M{self.x(low):.1f} {y:.1f}H{self.x(high):.1f}"/>'

    def labels(self) -> Iterator[str]:
        for number, leaf in enumerate(self.leaves):
            y, end = (number + 0.5) * _ROW, self.x(len(leaf.tokens))
            x = _WIDTH - _LABELS + 16
            label = escape(visible(leaf.label))
            yield f'<path class="lead" d="M{end + 7:.1f} {y:.1f}H{x - 6:.1f}"/>'
            yield (
                f'<a href="{escape(leaf.href)}"><circle class="{leaf.verdict}" cx="{end:.1f}" cy="{y:.1f}" r="4"/>'
                f'<text class="leaf" x="{x:.1f}" y="{y + 4:.1f}">{label}</text></a>'
            )
