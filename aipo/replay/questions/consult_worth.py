"""What a consult is worth: the reward with its reply minus the mean reward without, averaged by agent.

The rollouts without the reply are either live forks from the point of the request (`aipo.replay.questions.forks`), or the
group's other rollouts in the same mode that did not ask this agent. The second needs no model, but it is biased:
a policy asks when it is stuck.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from aipo.evaluate.statistics import bootstrap_interval
from aipo.replay.output import ReplayTable, interval_cell, write_csv
from aipo.replay.questions.before_after import cluster_of
from aipo.rollout.spec import derive_seed
from aipo.trace import Consult, Mode, Trace

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The worth of one consult.

    Args:
        consult: its number in the trace, from 0.
        cluster: tasks of one cluster are not independent of each other.
        reward: of the rollout in which it was asked.
        without: rewards of rollouts without this reply.
    """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWorth:
    """The worth of one agent's consults.

    Args:
        consults: all of them.
        measured: with a reply, a reward and something to compare with.
        unanswered: without a reply.
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
        if trace.reward is not None:
            groups[trace.group_id].append(trace)
    for trace in traces:
        for number, consult in answered(trace):
            others = [
                t
                for t in groups[trace.group_id]
                if t.mode is trace.mode or (any_mode and t.mode is not Mode.EXPERT)
            ]
            without = [t.reward for t in others if all(c.agent != consult.agent for c in t.consults)]
            if worth := worth_of(trace, number, without, agents):
                yield worth


def answered(trace: Trace) -> list[tuple[int, Consult]]:
    """Consults with a reply, of a rollout with a reward, and their numbers."""
    if trace.reward is None:
        return []
    return [(number, c) for number, c in enumerate(trace.consults) if c.reply is not None]


def worth_of(
    trace: Trace, number: int, without: Iterable[float | None], agents: Collection[str]
) -> Worth | None:
    """One consult's worth; None when there is nothing to compare with."""
    rewards = tuple(reward for reward in without if reward is not None)
    if trace.reward is None or not rewards:
        return None
    return Worth(
        trace_id=trace.trace_id,
        consult=number,
        agent=name_of(trace.consults[number], agents),
        step=trace.step,
        cluster=cluster_of(trace),
        reward=trace.reward,
        without=rewards,
    )


class Tally:
    """Counts consults while they are measured, step by step."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = agents
        self._consults: dict[str, int] = defaultdict(int)
        self._unanswered: dict[str, int] = defaultdict(int)
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
        order = [name for name in (*self._agents, UNKNOWN) if name in self._consults]
        return [self._agent(name, seed) for name in order]

    def _agent(self, name: str, seed: int) -> AgentWorth:
        worths = [worth for worth in self.worths if worth.agent == name]
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


_COLUMNS = ("agent", "asked", "measured", "pairs", "with", "without", "change", "95 %")


def table(agents: Iterable[AgentWorth]) -> ReplayTable:
    """A row for each agent."""
    rows = [
        [
            one.agent,
            str(one.consults),
            str(one.measured),
            str(one.comparisons),
            *("–" if value is None else f"{value:.3f}" for value in (one.reward, one.without)),
            "–" if one.value is None else f"{one.value:+.3f}",
            interval_cell(one.interval, digits=2),
        ]
        for one in agents
    ]
    return ReplayTable("reward with the reply and without", _COLUMNS, rows)


def write_worths(file: Path, worths: Iterable[Worth]) -> None:
    """Writes a CSV file with a line for each measured consult.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    columns = ("trace_id", "consult", "agent", "step", "cluster", "reward", "without", "samples", "value")
    rows = [
        (
            w.trace_id,
            w.consult,
            w.agent,
            w.step,
            w.cluster,
            w.reward,
            fmean(w.without),
            len(w.without),
            w.value,
        )
        for w in worths
    ]
    write_csv(file, columns, rows)
