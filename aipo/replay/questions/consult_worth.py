"""The worth of consults: the reward with the reply minus the mean reward without, averaged by agent.

The rollouts without the reply are either live forks from the point of the request (`aipo.replay.questions.forks`), or the
group's other rollouts in the same mode that did not ask this agent. The second needs no model, but it is biased:
a policy asks when it is stuck.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from aipo.evaluate.statistics import bootstrap_interval
from aipo.replay.output import ReplayTable, interval_cell
from aipo.replay.questions.before_after import cluster_of
from aipo.rollout.spec import derive_seed
from aipo.trace import Consult, Mode, Trace

UNKNOWN = "unknown"
_COLUMNS = ("agent", "asked", "measured", "pairs", "with", "without", "change", "95 %")


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


class AgentWorth(NamedTuple):
    """The worth of one agent's consults.

    Args:
        measured: consults with a reply, a reward and something to compare with.
        comparisons: pairs of a measured consult and a rollout without its reply.
        reward, without, value: means over the measured consults; None when there is none.
        interval: 95 % of `value`, resampling clusters; None with fewer than two clusters.
        helped, hurt: consults with a value above and below 0.
    """

    agent: str
    consults: int
    measured: int
    unanswered: int
    comparisons: int
    reward: float | None
    without: float | None
    value: float | None
    interval: tuple[float, float] | None
    helped: int
    hurt: int


def name_of(consult: Consult, agents: Collection[str]) -> str:
    """The agent's name; a policy can write any other, and they count as `unknown`."""
    return consult.agent if consult.agent in agents else UNKNOWN


def against_group(
    traces: Sequence[Trace], agents: Collection[str], *, any_mode: bool = False
) -> Iterator[Worth]:
    """Every answered consult against the rollouts of its group that did not ask this agent.

    Args:
        traces: of whole groups. Rollouts without a reward say nothing.
        any_mode: compare with rollouts that could not ask, too: that measures the mode more than the reply.
    """
    groups: dict[str, list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.group_id].append(trace)
    for trace in traces:
        others = [
            t
            for t in groups[trace.group_id]
            if t.mode is trace.mode or (any_mode and t.mode is not Mode.EXPERT)
        ]
        for number, consult in answered(trace):
            without = [t.reward for t in others if all(c.agent != consult.agent for c in t.consults)]
            if worth := worth_of(trace, number, without, agents):
                yield worth


def answered(trace: Trace) -> list[tuple[int, Consult]]:
    """Consults with a reply, of a rollout with a reward, and their numbers."""
    replies = [(number, c) for number, c in enumerate(trace.consults) if c.reply is not None]
    return [] if trace.reward is None else replies


def worth_of(
    trace: Trace, number: int, without: Iterable[float | None], agents: Collection[str]
) -> Worth | None:
    """One consult's worth; None when there is nothing to compare with."""
    rewards = tuple(reward for reward in without if reward is not None)
    if trace.reward is None or not rewards:
        return None
    agent = name_of(trace.consults[number], agents)
    return Worth(trace.trace_id, number, agent, trace.step, cluster_of(trace), trace.reward, rewards)


class Tally:
    """Counts consults while they are measured, step by step."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = agents
        self._consults, self._unanswered = Counter[str](), Counter[str]()
        self.worths: list[Worth] = []

    def add(self, traces: Iterable[Trace], worths: Iterable[Worth]) -> None:
        """The traces of a step, and what was measured in them."""
        for consult in (consult for trace in traces for consult in trace.consults):
            name = name_of(consult, self._agents)
            self._consults[name] += 1
            self._unanswered[name] += consult.reply is None
        self.worths += worths

    def agents(self, seed: int) -> list[AgentWorth]:
        """A line for each agent that was asked, known ones first."""
        names = [name for name in (*self._agents, UNKNOWN) if name in self._consults]
        return [self._agent(name, [w for w in self.worths if w.agent == name], seed) for name in names]

    def _agent(self, name: str, worths: Sequence[Worth], seed: int) -> AgentWorth:
        values, clusters = [w.value for w in worths], [w.cluster for w in worths]
        enough = len(set(clusters)) > 1
        return AgentWorth(
            agent=name,
            consults=self._consults[name],
            measured=len(worths),
            unanswered=self._unanswered[name],
            comparisons=sum(len(w.without) for w in worths),
            reward=fmean(w.reward for w in worths) if worths else None,
            without=fmean(fmean(w.without) for w in worths) if worths else None,
            value=fmean(values) if worths else None,
            interval=bootstrap_interval(values, clusters, derive_seed(seed, name)) if enough else None,
            helped=sum(value > 0 for value in values),
            hurt=sum(value < 0 for value in values),
        )


def table(agents: Iterable[AgentWorth]) -> ReplayTable:
    """A row for each agent."""
    rows = [
        [
            *(one.agent, str(one.consults), str(one.measured), str(one.comparisons)),
            *("–" if value is None else f"{value:.3f}" for value in (one.reward, one.without)),
            "–" if one.value is None else f"{one.value:+.3f}",
            interval_cell(one.interval, digits=2),
        ]
        for one in agents
    ]
    return ReplayTable("reward with the reply and without", _COLUMNS, rows)
