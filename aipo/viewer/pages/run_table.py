"""The table of a run page: a page of its groups, each with a strip of its rollouts, or of its traces.

A rollout is one mark: its shape says under which rules it ran, its filling how it was rewarded.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from aipo.trace import StopReason
from aipo.trace.index import Group, Summary
from aipo.util.text import cut
from aipo.viewer.data.query import Query
from aipo.viewer.data.run import RunView
from aipo.viewer.links import Links, group_path

PER_PAGE = {"groups": 50, "traces": 100}
STATIC_GROUPS = 500


class AgentCount(NamedTuple):
    """The number of consults of an agent. `colour` is its class, `stranger` for an unknown name."""

    agent: str
    calls: int
    colour: str


class RolloutMark(NamedTuple):
    """One rollout of a strip."""

    href: str
    css: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A group with all of its rollouts, or one trace."""

    item: Group | Summary
    href: str
    question: str
    marks: Sequence[RolloutMark]
    agents: Sequence[AgentCount]


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePage:
    """The rows of a page.

    Args:
        matching: how many groups or traces match.
        first: number of the first row.
        per_page: the most rows of a page.
        rollouts: how many rollouts a static site has.
    """

    rows: Sequence[Any]
    matching: int
    first: int
    per_page: int
    rollouts: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.rows) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Makes pages of rows.

    Args:
        links: from the page.
        agents: those that there are; the place of one is its colour.
    """

    run: RunView
    links: Links
    agents: Sequence[str]

    def matching(self, query: Query) -> TablePage:
        """One page of the rows that match a query."""
        index, limit = self.run.index, PER_PAGE[query.view]
        offset = limit * (query.page - 1)
        if query.view == "traces":
            traces = index.traces(query.where, order=query.sort, limit=limit, offset=offset)
            rows, count = self._rows([(trace, [trace]) for trace in traces]), index.count
        else:
            groups = index.groups(query.where, order=query.sort, limit=limit, offset=offset)
            ids = [group.group_id for group in groups]
            matches = index.matching(query.where, ids) if query.where.splits_groups else None
            rows, count = self._group_rows(groups, matches), index.group_count
        # A page that is not full tells how many match; a search of all texts is slow.
        matching = offset + len(rows) if 0 < len(rows) < limit else count(query.where)
        return TablePage(rows=rows, matching=matching, first=offset + 1, per_page=limit)

    def static(self, page: int) -> TablePage:
        """A page of a static site: groups, the most interesting first, without those that have no page there."""
        index, offset = self.run.index, STATIC_GROUPS * (page - 1)
        groups = [
            group
            for group in index.groups(limit=index.group_count())
            if self.links.has(group_path(self.run.name, group.group_id))
        ]
        return TablePage(
            rows=self._group_rows(groups[offset : offset + STATIC_GROUPS]),
            matching=len(groups),
            first=offset + 1,
            per_page=STATIC_GROUPS,
            rollouts=sum(group.traces for group in groups),
        )

    def _group_rows(self, groups: Sequence[Group], matching: Set[str] | None = None) -> list[Row]:
        members = self.run.index.of_groups([group.group_id for group in groups])
        return self._rows([(group, members[group.group_id]) for group in groups], matching)

    def _rows(
        self, items: Sequence[tuple[Group | Summary, Sequence[Summary]]], matching: Set[str] | None = None
    ) -> list[Row]:
        """Rows; the marks of rollouts that are not among the `matching` ones are pale."""
        rewards = [t.reward for _, traces in items for t in traces if t.reward is not None]
        scale = min([0.0, *rewards]), max([1.0, *rewards])
        rows: list[Row] = []
        for item, traces in items:
            marks = [
                RolloutMark(self.links.trace(self.run.name, t.trace_id), _css(t, scale, matching), _title(t))
                for t in traces
            ]
            is_group = isinstance(item, Group)
            href = self.links.group(self.run.name, item.group_id) if is_group else marks[0].href
            question = cut(" ".join((item.question or "")[:4000].split()) or item.task_id, 160)
            agents = self._counts(traces)
            rows.append(Row(item=item, href=href, question=question, marks=marks, agents=agents))
        return rows

    def _counts(self, traces: Sequence[Summary]) -> list[AgentCount]:
        """Those that there are in their order, then others by how often."""
        counts = Counter(agent for trace in traces for agent in trace.agents)
        agents = [AgentCount(a, counts[a], f"agent{i % 6}") for i, a in enumerate(self.agents) if a in counts]
        others = [AgentCount(a, n, "stranger") for a, n in counts.most_common() if a not in self.agents]
        return [*agents, *others]


def _css(trace: Summary, scale: tuple[float, float], matching: Set[str] | None) -> str:
    """Classes of a rollout's mark: its kind, its reward on the scale in five fillings, and pale if it does not match."""
    low, high = scale
    filling = "none" if trace.reward is None else f"q{round(4 * (trace.reward - low) / (high - low))}"
    pale = matching is not None and trace.trace_id not in matching
    return f"mark {trace.kind} {filling}{' pale' * pale}"


def _title(trace: Summary) -> str:
    """A rollout in one line."""
    parts = [f"{trace.index}: {trace.kind}"]
    parts.append("no reward" if trace.reward is None else f"reward {trace.reward:g}")
    if trace.flawed:
        parts.append("a step is wrong")
    if trace.advantage is not None:
        parts.append(f"advantage {trace.advantage:+.2f}")
    if trace.agents:
        parts.append(f"asked {', '.join(cut(agent, 30) for agent in trace.agents[:6])}")
    if trace.stop_reason != StopReason.EOS:
        parts.append(f"ended by {trace.stop_reason}")
    parts += [cut(said, 200) for said in (trace.error, trace.reason) if said is not None]
    return " · ".join(parts)
