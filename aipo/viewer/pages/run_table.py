"""The rows of a run page: groups, each with a strip of its rollouts, and traces.

A rollout is one mark: its shape says under which rules it ran, its filling how it was rewarded.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aipo.trace import StopReason
from aipo.trace.index import Group, Summary
from aipo.viewer.links import Links, group_path

Scale = tuple[float, float]
"""The least and the greatest reward that a mark's filling tells apart."""

_QUESTION = 160
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class AgentCount:
    """The number of consults of an agent. `colour` is its class, `stranger` for an unknown name."""

    agent: str
    count: int
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutMark:
    """One rollout of a strip."""

    href: str
    css: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    group: Group
    href: str
    question: str
    marks: Sequence[RolloutMark]
    agents: Sequence[AgentCount]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    trace: Summary
    href: str
    question: str
    mark: str
    agents: Sequence[AgentCount]

    @property
    def failed(self) -> bool:
        return StopReason(self.trace.stop_reason).failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Makes rows of a run's traces.

    Args:
        run: the run's name.
        links: from the page.
        agents: those that there are; the place of one is its colour.
    """

    run: str
    links: Links
    agents: Sequence[str]

    def has(self, group: Group) -> bool:
        """Whether the site has a page of the group; of those that were left out it has no rows either."""
        return self.links.has(group_path(self.run, group.group_id))

    def group(self, group: Group, traces: Sequence[Summary], scale: Scale) -> GroupRow:
        marks = [
            RolloutMark(href=self.links.trace(self.run, t.trace_id), css=_mark(t, scale), title=_title(t))
            for t in traces
        ]
        return GroupRow(
            group=group,
            href=self.links.group(self.run, group.group_id),
            question=_question(group.question, group.task_id),
            marks=marks,
            agents=self._counts(agent for t in traces for agent in t.agents),
        )

    def trace(self, trace: Summary, scale: Scale) -> TraceRow:
        return TraceRow(
            trace=trace,
            href=self.links.trace(self.run, trace.trace_id),
            question=_question(trace.question, trace.task_id),
            mark=_mark(trace, scale),
            agents=self._counts(trace.agents),
        )

    def colour(self, agent: str) -> str:
        return f"agent{self.agents.index(agent) % 6}" if agent in self.agents else "stranger"

    def _counts(self, agents: Iterable[str]) -> list[AgentCount]:
        """Those that there are in their order, then others by how often."""
        counts = Counter(agents)
        order = [a for a in self.agents if a in counts]
        order += [a for a, _ in counts.most_common() if a not in self.agents]
        return [AgentCount(agent, counts[agent], self.colour(agent)) for agent in order]


def scale_of(traces: Iterable[Summary]) -> Scale:
    """0 to 1, or what holds all rewards that go beyond."""
    rewards = [t.reward for t in traces if t.reward is not None]
    return min(0.0, *rewards, 0.0), max(1.0, *rewards, 1.0)


def _mark(trace: Summary, scale: Scale) -> str:
    """Classes of a rollout's mark: its kind, and its reward in five fillings."""
    if trace.reward is None:
        return f"mark {trace.kind} none"
    low, high = scale
    return f"mark {trace.kind} q{round(4 * (trace.reward - low) / (high - low))}"


def _title(trace: Summary) -> str:
    """A rollout in one line."""
    parts = [f"{trace.index}: {trace.kind}"]
    parts.append("no reward" if trace.reward is None else f"reward {trace.reward:g}")
    if trace.advantage is not None:
        parts.append(f"advantage {trace.advantage:+.2f}")
    if trace.agents:
        parts.append(f"asked {', '.join(_cut(agent, 30) for agent in trace.agents[:6])}")
    if trace.stop_reason != StopReason.EOS:
        parts.append(f"ended by {trace.stop_reason}")
    if trace.error is not None:
        parts.append(_cut(trace.error, 200))
    return " · ".join(parts)


def _question(question: str | None, task_id: str) -> str:
    return _cut(_one_line(question or "") or task_id, _QUESTION)


def _one_line(text: str) -> str:
    return _SPACE.sub(" ", text[:4000]).strip()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
