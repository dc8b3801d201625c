"""The pages that compare: two runs, or two traces, such as one and its replay. Left is A, right is B."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from aipo.render.trace_html import legend_html
from aipo.trace import Role, Trace
from aipo.trace.arrow import Stored
from aipo.util.text import duration
from aipo.viewer.data.passages import agents_of, passages
from aipo.viewer.data.run import RunView
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.runs import changes, differences, fingerprints, flat
from aipo.viewer.pages.compare.traces import counts, rows, way
from aipo.viewer.responses import render


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the table: a name, both values, and the change where it is a number."""

    name: str
    left: str
    right: str
    change: float | None = None

    @property
    def differs(self) -> bool:
        return self.left != self.right


def compare_traces(left: RunView, left_id: str, right: RunView, right_id: str, links: Links) -> str:
    """The page of two traces as HTML.

    Raises:
        TraceError: there is no such trace, or a file of traces cannot be read.
    """
    stored = left.index.stored(left_id), right.index.stored(right_id)
    agents = agents_of(left, right)
    both = [passages(run, one, agents) for run, one in zip((left, right), stored, strict=True)]
    diff = rows(both[0], both[1], same_tokens=_same_tokens(left, right, stored))
    traces = stored[0].trace, stored[1].trace
    return render(
        "compare_traces.html.j2",
        links,
        runs=(left, right),
        traces=traces,
        kinds=[trace.kind for trace in traces],
        relation=_relation(left, right, *traces),
        facts=_facts(*traces),
        steps=way(*traces),
        rows=diff,
        counts=counts(diff),
        legend=Markup(legend_html(traces, agents)),
        swapped=links.compare(right.name, right_id, left.name, left_id) if links.live else None,
    )


def _same_tokens(left: RunView, right: RunView, stored: Sequence[Stored]) -> bool:
    """Does an id mean the same on both sides? Asked of those that occur."""
    if left.folder == right.folder:
        return True
    ids = sorted({i for one in stored for i in one.trace.token_ids.tolist()})
    texts = [[run.token_texts([i]) for i in ids] for run in (left, right)]
    return texts[0] == texts[1]


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


def _facts(a: Trace, b: Trace) -> list[Fact]:
    """What the reader looks for first is always there, everything else only if it differs."""
    parts = dict.fromkeys([*a.reward_parts, *b.reward_parts])
    always = [
        _number("reward", a.reward, b.reward),
        *(
            _number(f"reward: {p}", a.reward_parts.get(p), b.reward_parts.get(p))
            for p in parts
            if len(parts) > 1
        ),
        _number("advantage", a.advantage, b.advantage),
        Fact("stop reason", str(a.stop_reason), str(b.stop_reason)),
        Fact("consults", _consults(a), _consults(b)),
        *(_number(f"{role} tokens", a.count(role), b.count(role)) for role in (Role.POLICY, Role.AGENT)),
    ]
    rest = [
        Fact("error", a.error or "none", b.error or "none"),
        Fact("task", a.task_id, b.task_id),
        Fact("step", str(a.step), str(b.step)),
        Fact("kind", a.kind, b.kind),
        Fact("duration", duration(a.seconds), duration(b.seconds)),
        Fact("policy version", str(a.policy_version), str(b.policy_version)),
        *(
            Fact(d.key, d.left or "none", d.right or "none")
            for d in differences(flat(a.sampling), flat(b.sampling))
        ),
        *(
            Fact(f"fingerprint of {d.key}", d.left or "none", d.right or "none")
            for d in differences(a.fingerprints, b.fingerprints)
        ),
    ]
    return [*always, *(fact for fact in rest if fact.differs)]


def _number(name: str, a: float | None, b: float | None) -> Fact:
    left, right = ("none" if value is None else f"{value:.4g}" for value in (a, b))
    return Fact(name, left, right, None if a is None or b is None else b - a)


def _consults(trace: Trace) -> str:
    return (
        ", ".join(f"{c.agent or 'nobody'}{' (failed)' * (c.error is not None)}" for c in trace.consults)
        or "none"
    )


def compare_runs(left: RunView, right: RunView, links: Links) -> str:
    """The page of two runs as HTML.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: a configuration or manifest cannot be read.
    """
    runs = (left, right)
    return render(
        "compare_runs.html.j2",
        links,
        runs=runs,
        sizes=[(run.index.count(), run.index.steps()) for run in runs],
        settings=differences(flat(left.config()), flat(right.config())),
        made_of=differences(fingerprints(left.manifest()), fingerprints(right.manifest())),
        changes=changes(left.index, right.index),
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.problems()],
        swapped=links.compare(right.name, left.name) if links.live else None,
    )
