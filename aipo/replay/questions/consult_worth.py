"""The worth of consults: the reward with the reply minus the mean reward without, averaged by agent.

The rollouts without the reply are either live forks from the point of the request (`aipo.replay.questions.forks`), or the
group's other rollouts in the same mode that did not ask this agent. The second needs no model, but it is biased:
a policy asks when it is stuck.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from aipo.replay.output import ReplayTable, cell, interval_cell
from aipo.replay.questions.before_after import MeanChange, cluster_of
from aipo.rollout.spec import derive_seed
from aipo.trace import Consult

UNKNOWN = "unknown"
_COLUMNS = {
    **{"consults": ("asked", ""), "measured": ("measured", ""), "comparisons": ("pairs", "")},
    **{"without": ("without", ".3f"), "reward": ("with", ".3f"), "value": ("change", "+.3f")},
}
"""Columns of the table, and their formats, by name in a line of `Tally.agents`."""


class AskingRollout(Protocol):
    """What the comparison reads of a rollout; a `Trace` is one."""

    @property
    def trace_id(self) -> str: ...
    @property
    def group_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def task(self) -> Mapping[str, Any]: ...
    @property
    def consults(self) -> Sequence[Consult]: ...
    @property
    def shared_consults(self) -> int: ...


class Worth(NamedTuple):
    """One consult (its number in the trace, from 0): its rollout's reward, and those of rollouts without its reply."""

    trace_id: str
    consult: int
    agent: str
    step: int
    cluster: str
    reward: float
    without: tuple[float, ...]

    @property
    def value(self) -> float:
        """Reward with the reply minus mean reward without."""
        return self.reward - fmean(self.without)

    def line(self) -> dict[str, Any]:
        """For a CSV file."""
        means = {"without": fmean(self.without), "samples": len(self.without), "value": self.value}
        return self._asdict() | means


def name_of(consult: Consult, agents: Collection[str]) -> str:
    """The agent's name; a policy can write any other, and they count as `unknown`."""
    return consult.agent if consult.agent in agents else UNKNOWN


def against_group(traces: Sequence[AskingRollout], agents: Collection[str]) -> Iterator[Worth]:
    """Every answered consult of whole groups against the rollouts of its group that could ask this agent, and did
    not. Rollouts without a reward say nothing."""
    groups: dict[tuple[str, str], list[AskingRollout]] = defaultdict(list)
    for trace in traces:
        groups[trace.group_id, trace.mode].append(trace)
    for trace in traces:
        others = groups[trace.group_id, trace.mode]
        for number, consult in answered(trace):
            without = [t.reward for t in others if all(c.agent != consult.agent for c in t.consults)]
            if worth := worth_of(trace, number, without, agents):
                yield worth


def answered(trace: AskingRollout) -> list[tuple[int, Consult]]:
    """A rollout's own consults with a reply, if it has a reward, and their numbers."""
    replies = [(number, c) for number, c in enumerate(trace.consults) if c.reply is not None]
    return [] if trace.reward is None else [(n, c) for n, c in replies if n >= trace.shared_consults]


def worth_of(
    trace: AskingRollout, number: int, without: Iterable[float | None], agents: Collection[str]
) -> Worth | None:
    """One consult's worth; None when there is nothing to compare with."""
    rewards = tuple(reward for reward in without if reward is not None)
    if trace.reward is None or not rewards:
        return None
    agent = name_of(trace.consults[number], agents)
    cluster = cluster_of(trace.task, trace.task_id)
    return Worth(trace.trace_id, number, agent, trace.step, cluster, trace.reward, rewards)


class Tally:
    """Counts consults while they are measured, step by step."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = agents
        self._consults, self._unanswered = Counter[str](), Counter[str]()
        self.worths: list[Worth] = []

    def add(self, traces: Iterable[AskingRollout], worths: Iterable[Worth]) -> None:
        """The traces of a step, and what was measured in them."""
        for consult in (consult for trace in traces for consult in trace.consults[trace.shared_consults :]):
            name = name_of(consult, self._agents)
            self._consults[name] += 1
            self._unanswered[name] += consult.reply is None
        self.worths += worths

    def agents(self, seed: int) -> list[dict[str, Any]]:
        """A line for each agent that was asked, known ones first, for `values` of `replay.json`.

        `measured` are consults with a reply, a reward and something to compare with, `comparisons` their pairs with a
        rollout without the reply. The means are over the measured ones, and None without any.
        """
        lines: list[dict[str, Any]] = []
        for name in (name for name in (*self._agents, UNKNOWN) if name in self._consults):
            worths = [w for w in self.worths if w.agent == name]
            numbers = [(fmean(w.without), w.reward, w.cluster) for w in worths]
            change = MeanChange.of(name, numbers, derive_seed(seed, name)) if worths else None
            lines.append(
                {
                    "agent": name,
                    "consults": self._consults[name],
                    "measured": len(worths),
                    "unanswered": self._unanswered[name],
                    "comparisons": sum(len(w.without) for w in worths),
                    "reward": change and change.after,
                    "without": change and change.before,
                    "value": change and change.change,
                    "interval": change and change.interval,
                    "helped": change.rose if change else 0,
                    "hurt": change.fell if change else 0,
                }
            )
        return lines


def table(agents: Sequence[Mapping[str, Any]]) -> ReplayTable:
    """A row for each agent."""
    rows: list[list[str]] = []
    for line in agents:
        cells = [cell(line[name], form) for name, (_, form) in _COLUMNS.items()]
        rows.append([line["agent"], *cells, interval_cell(line["interval"])])
    columns = ["agent", *(column for column, _ in _COLUMNS.values()), "95 %"]
    return ReplayTable("reward with the reply and without", columns, rows)
