"""The page of two traces next to each other: what they are, and their segments with the words that differ.

Left is A, right is B.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aipo.render.spans import TextSpan, text_spans
from aipo.render.trace_html import legend_html
from aipo.trace import Role, Trace
from aipo.util.text import cut, duration
from aipo.viewer.data.passages import agents_of, context_texts
from aipo.viewer.data.run import RunView
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.diff import Block, DiffKind, SegmentPair, align, spans
from aipo.viewer.pages.compare.settings import Difference, differences, flat
from aipo.viewer.responses import render

_WORD = re.compile(r"</?[\w:]+>|\s+|\w+|[^\w\s]")
_LONG, _KEPT = 1200, 300  # characters


def compare_traces(left: RunView, left_id: str, right: RunView, right_id: str, links: Links) -> str:
    """The page of two traces as HTML.

    Raises:
        TraceError: there is no such trace, or a file of traces cannot be read.
    """
    stored = left.index.stored(left_id), right.index.stored(right_id)
    agents = agents_of(left, right)
    traces = stored[0].trace, stored[1].trace
    sides = [
        text_spans(one.trace, context_texts(run, one), agents)
        for run, one in zip((left, right), stored, strict=True)
    ]
    diff = rows(*sides)
    return render(
        "compare_traces.html.j2",
        links,
        runs=(left, right),
        traces=traces,
        relation=_relation(left, right, *traces),
        facts=_facts(*traces),
        rows=diff,
        counts=Counter(str(row.kind) for row in diff),
        legend=legend_html(traces, agents),
        swapped=links.compare(right.name, right_id, left.name, left_id) if links.live else None,
    )


def _relation(left: RunView, right: RunView, a: Trace, b: Trace) -> str:
    if b.parent_id == a.trace_id:
        return "B comes from A: it is its replay, or was forked from it."
    if a.parent_id == b.trace_id:
        return "A comes from B: it is its replay, or was forked from it."
    if left is right and a.group_id == b.group_id:
        return "Two rollouts of one group."
    if a.task_id == b.task_id:
        return "The same task." if a.step == b.step else "The same task in two steps."
    return "Two tasks: expect nothing to be the same."


def _facts(a: Trace, b: Trace) -> list[Difference]:
    """What the reader looks for first is always there, everything else only if it differs."""
    first, second = _outcome(a), _outcome(b)
    always = [Difference(name, first.get(name), second.get(name)) for name in {**first, **second}]
    return [*always, *differences(_circumstances(a), _circumstances(b))]


def _outcome(trace: Trace) -> dict[str, str | float | None]:
    parts = trace.reward_parts.items() if len(trace.reward_parts) > 1 else ()
    asked = (f"{c.agent or 'nobody'}{' (failed)' if c.error is not None else ''}" for c in trace.consults)
    return {
        "reward": trace.reward,
        **{f"reward: {name}": value for name, value in parts},
        "advantage": trace.advantage,
        "stop reason": str(trace.stop_reason),
        "consults": ", ".join(asked) or None,
        "policy tokens": trace.count(Role.POLICY),
        "agent tokens": trace.count(Role.AGENT),
    }


def _circumstances(trace: Trace) -> dict[str, str]:
    return {
        "error": trace.error or "none",
        "reason": trace.reason or "none",
        "task": trace.task_id,
        "step": str(trace.step),
        "kind": trace.kind,
        "duration": duration(trace.seconds),
        "policy version": str(trace.policy_version),
        **flat(trace.sampling),
        **{f"fingerprint of {name}": value for name, value in trace.fingerprints.items()},
    }


@dataclass(frozen=True, slots=True)
class DiffText:
    """Text of one side. `folded` is the middle of something long that did not change, after `text`."""

    same: bool
    text: str
    folded: str = ""
    rest: str = ""


@dataclass(frozen=True, slots=True)
class DiffSide:
    """A segment of one side: its number, and its text."""

    number: int
    parts: Sequence[DiffText]


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One or two segments; `span` is one of them, for what both have in common."""

    kind: DiffKind
    span: TextSpan
    left: DiffSide | None
    right: DiffSide | None

    @property
    def glance(self) -> str:
        """The beginning, in one line."""
        return cut(" ".join(self.span.text[:400].split()), 110)


def rows(left: Sequence[TextSpan], right: Sequence[TextSpan]) -> list[DiffRow]:
    """The diff, row by row."""
    blocks = [[Block((str(p.role), p.source), p.text) for p in side] for side in (left, right)]
    return [_row(pair, left, right) for pair in align(*blocks)]


def _row(pair: SegmentPair, left: Sequence[TextSpan], right: Sequence[TextSpan]) -> DiffRow:
    a = None if pair.left is None else left[pair.left]
    b = None if pair.right is None else right[pair.right]
    first, second = (_WORD.findall(span.text) if span else [] for span in (a, b))
    cuts = spans(first, second)
    return DiffRow(
        pair.kind,
        next(span for span in (a, b) if span),
        a and DiffSide(pair.left or 0, _texts(first, [(c.same, c.left) for c in cuts])),
        b and DiffSide(pair.right or 0, _texts(second, [(c.same, c.right) for c in cuts])),
    )


def _texts(words: Sequence[str], ranges: Iterable[tuple[bool, tuple[int, int]]]) -> list[DiffText]:
    """The text of one side, cut where it differs from the other."""
    parts: list[DiffText] = []
    for same, (start, end) in ranges:
        text = "".join(words[start:end])
        if same and len(text) > _LONG:
            parts.append(DiffText(True, text[:_KEPT], text[_KEPT:-_KEPT], text[-_KEPT:]))
        elif text:
            parts.append(DiffText(same, text))
    return parts
