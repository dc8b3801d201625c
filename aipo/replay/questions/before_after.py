"""Before and after: the changes that a replay made, trace by trace, with confidence intervals."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from aipo.evaluate.statistics import bootstrap_interval
from aipo.replay.engine import TracePair
from aipo.replay.output import ReplayReport, ReplayTable, cell, interval_cell
from aipo.replay.reuse import NEEDS_LIVE, ForkPoint
from aipo.trace import Trace
from aipo.util.text import counted

_ROWS = 20
"""Most traces that are named in a report."""
_COUNTS = ("turns", "live_turns", "calls", "live_calls")
_COLUMNS = ("traces", "before", "after", "change", "95 %", "rose", "fell")


class TraceChange(NamedTuple):
    """One trace, recorded and replayed, both without their tokens. `resampled`: other tokens were sampled now."""

    source: Trace
    trace: Trace
    fork: ForkPoint | None
    resampled: bool

    @property
    def source_id(self) -> str:
        return self.source.trace_id

    @property
    def stopped(self) -> bool:
        """Did a frozen replay need a live call?"""
        return NEEDS_LIVE in (self.trace.error or "")

    @property
    def change(self) -> float:
        """Reward after minus reward before; 0 where there are not both."""
        before, after = self.source.reward, self.trace.reward
        return 0.0 if before is None or after is None else after - before


class MeanChange(NamedTuple):
    """The mean of a number before and after, over the traces that have both.

    Args:
        traces: how many.
        interval: 95 % of `change`, resampling clusters of tasks; None with fewer than two.
        rose, fell: traces whose number did.
    """

    what: str
    traces: int
    before: float
    after: float
    change: float
    interval: tuple[float, float] | None
    rose: int
    fell: int

    @classmethod
    def of(cls, what: str, numbers: Sequence[tuple[float, float, str]], seed: int) -> "MeanChange":
        """Of (before, after, cluster), at least one."""
        changes = [after - before for before, after, _ in numbers]
        clusters = [cluster for *_, cluster in numbers]
        return cls(
            what=what,
            traces=len(numbers),
            before=fmean(before for before, *_ in numbers),
            after=fmean(after for _, after, _ in numbers),
            change=fmean(changes),
            interval=bootstrap_interval(changes, clusters, seed) if len(set(clusters)) > 1 else None,
            rose=sum(c > 0 for c in changes),
            fell=sum(c < 0 for c in changes),
        )

    def cells(self) -> list[str]:
        """A row of a table."""
        means = [cell(self.before, ".3f"), cell(self.after, ".3f"), cell(self.change, "+.3f")]
        counts = [str(self.rose), str(self.fell)]
        return [self.what, str(self.traces), *means, interval_cell(self.interval), *counts]


@dataclass(kw_only=True)
class BeforeAfter:
    """The changes of a whole replay, gathered step by step."""

    seed: int = 0
    traces: list[TraceChange] = field(default_factory=list[TraceChange])
    reused: Counter[str] = field(default_factory=Counter[str])

    def add(self, pairs: Iterable[TracePair]) -> None:
        """Adds the traces of a step."""
        counted: set[int] = set()
        for pair in pairs:
            bare: dict[str, Any] = {"segments": (), "consults": (), "visits": ()}
            source, trace = replace(pair.source, **bare), replace(pair.trace, **bare)
            self.traces.append(TraceChange(source, trace, pair.reuse.fork, pair.reuse.live_turns > 0))
            if id(pair.reuse) not in counted:  # one for all the policies of a rollout
                counted.add(id(pair.reuse))
                self.reused.update({name: getattr(pair.reuse, name) for name in _COUNTS})

    def rewards(self) -> list[MeanChange]:
        """The reward's change: of all, of each kind of rollout, and of those that left their recording."""
        kinds = sorted({t.source.kind for t in self.traces})
        groups = {"all": self.traces}
        if len(kinds) > 1:
            groups |= {kind: [t for t in self.traces if t.source.kind == kind] for kind in kinds}
        groups["forked"] = [t for t in self.traces if t.fork]
        means = (self._mean(name, traces, lambda t: t.reward) for name, traces in groups.items())
        return [mean for mean in means if mean]

    def parts(self) -> list[MeanChange]:
        """Every reward part's change; one that is new or gone has none."""
        names = sorted({name for t in self.traces for name in t.source.reward_parts})
        means = (self._mean(name, self.traces, lambda t, n=name: t.reward_parts.get(n)) for name in names)
        return [mean for mean in means if mean]

    def _mean(
        self, what: str, traces: Sequence[TraceChange], value: Callable[[Trace], float | None]
    ) -> MeanChange | None:
        pairs = [
            (value(t.source), value(t.trace), cluster_of(t.source.task, t.source.task_id)) for t in traces
        ]
        both = [(was, now, cluster) for was, now, cluster in pairs if was is not None and now is not None]
        return MeanChange.of(what, both, self.seed) if both else None

    def forks(self) -> list[tuple[str, int]]:
        """Places where traces left their recordings, with counts; the most frequent first."""
        return Counter(t.fork.at for t in self.traces if t.fork).most_common()

    def flipped(self) -> list[TraceChange]:
        """Traces whose reward changed; the greatest change first."""
        return sorted((t for t in self.traces if t.change), key=lambda t: (-abs(t.change), t.source_id))

    def failed(self) -> list[TraceChange]:
        """Traces that had a reward and whose replay has none."""
        return [t for t in self.traces if t.source.reward is not None and t.trace.reward is None]

    def report_score(self) -> ReplayReport:
        """The reward and its parts, before and after, and the traces whose reward changed."""
        parts = self.parts()
        tables = [_table("part", parts)] if parts else []
        return ReplayReport(
            question="score",
            tables=[_table("reward", self.rewards()), *tables, *self._flipped_tables()],
            notes=[f"{counted(len(self.traces), 'trace')}, {len(self.flipped())} with another reward"],
            values=self.values(),
        )

    def report_graph(
        self,
        versions: Mapping[int, int | None],
        unused_prompts: Sequence[str] = (),
        rules: Mapping[str, str] = MappingProxyType({}),
    ) -> ReplayReport:
        """Where rollouts left their recordings, what was reused, and the reward before and after.

        Args:
            versions: by step, how many optimizer steps are behind the weights that continued (None: unknown).
            rules: of agents whose prompt was edited and whose model follows rules, what these read of a prompt.
        """
        forks = [(at, str(count)) for at, count in self.forks()]
        tables = [ReplayTable("forks", ("left the recording at", "traces"), forks)] if forks else []
        forked = [t for t in self.traces if t.fork]
        return ReplayReport(
            question="graph",
            tables=[*tables, _table("reward", self.rewards()), *self._flipped_tables()],
            notes=[
                f"{counted(len(self.traces), 'trace')}: {len(self.traces) - len(forked)} as recorded, {len(forked)} left "
                "their recordings",
                f"reused {counted(self.reused['turns'], 'turn')} of the policy and {counted(self.reused['calls'], 'call')} of agents; "
                f"live were {counted(self.reused['live_turns'], 'turn')} and {counted(self.reused['live_calls'], 'call')}",
            ],
            warnings=[*self._graph_warnings(forked, versions, unused_prompts), *map(_heeds, rules.items())],
            values=self.values(),
        )

    def values(self) -> dict[str, Any]:
        """For `values` of `replay.json`."""
        return {
            "traces": len(self.traces),
            "reward": [change._asdict() for change in self.rewards()],
            "parts": [change._asdict() for change in self.parts()],
            "forks": dict(self.forks()),
            "reuse": dict(self.reused),
            "failed": {t.source_id: t.trace.error for t in self.failed()},
        }

    def _graph_warnings(
        self, forked: Sequence[TraceChange], versions: Mapping[int, int | None], unused_prompts: Sequence[str]
    ) -> Iterable[str]:
        if stopped := [t for t in self.traces if t.stopped]:
            yield f"{len(stopped)} need a live call: without --frozen they go on. The first ones:"
            yield from (f"  {t.trace.error}" for t in stopped[:_ROWS])
        if others := [
            t for t in forked if t.resampled and versions.get(t.source.step) != t.source.policy_version
        ]:
            yield (
                f"{len(others)} of the traces with live turns had been sampled by other weights than those that "
                "went on: what changed there is not due to the edit alone (--policy chooses the weights)."
            )
        if unused_prompts:
            yield f"--prompts: nothing uses {', '.join(unused_prompts)}"

    def _flipped_tables(self) -> list[ReplayTable]:
        flipped = self.flipped()
        rows = [(t.source_id, f"{t.source.reward:g}", f"{t.trace.reward:g}") for t in flipped[:_ROWS]]
        first = f": the first {_ROWS} of {len(flipped)}" if len(flipped) > _ROWS else ""
        return [ReplayTable(f"another reward{first}", ("trace", "before", "after"), rows)] if rows else []


def cluster_of(task: Mapping[str, Any], task_id: str) -> str:
    """Tasks of the same cluster ask the same thing in other words: they are not independent."""
    return str(task.get("cluster") or task_id)


def _heeds(rule: tuple[str, str]) -> str:
    name, heeds = rule
    return (
        f"the model of agents.{name} follows rules. Of its prompt it reads {heeds}; other edits change no reply "
        f"(agents.{name}.model of a language model reads all of it)"
    )


def _table(what: str, changes: Sequence[MeanChange]) -> ReplayTable:
    return ReplayTable(f"{what}, before and after", (what, *_COLUMNS), [change.cells() for change in changes])
