"""Before and after: what a replay changed, pair by pair, and how sure that is."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from aipo.evaluate.bootstrap import bootstrap_interval
from aipo.replay.engine import Pair
from aipo.replay.reuse import NEEDS_LIVE, Fork
from aipo.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one trace. `before` and `after` are rewards; None = there is none. `version` is that of the
    weights that sampled it first, `resampled` whether other tokens were sampled now."""

    source_id: str
    trace_id: str
    kind: str
    step: int
    cluster: str
    before: float | None
    after: float | None
    parts_before: Mapping[str, float]
    parts_after: Mapping[str, float]
    fork: Fork | None
    error: str | None
    version: int | None
    resampled: bool

    @classmethod
    def of(cls, pair: Pair) -> "Outcome":
        was, now = pair.source, pair.trace
        return cls(
            source_id=was.trace_id,
            trace_id=now.trace_id,
            kind=was.kind,
            step=was.step,
            cluster=_cluster(was),
            before=was.reward,
            after=now.reward,
            parts_before=was.reward_parts,
            parts_after=now.reward_parts,
            fork=pair.reuse.fork,
            error=now.error,
            version=was.policy_version,
            resampled=pair.reuse.live_turns > 0,
        )

    @property
    def stopped(self) -> bool:
        """Did a frozen replay need a live call?"""
        return self.error is not None and NEEDS_LIVE in self.error

    @property
    def change(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A number before and after, over the traces that have both.

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
    def of(cls, what: str, rows: Sequence[tuple[float, float, str]], seed: int) -> "Change | None":
        """Of (before, after, cluster); None where there is no trace."""
        if not rows:
            return None
        changes = [after - before for before, after, _ in rows]
        clusters = [cluster for _, _, cluster in rows]
        enough = len(set(clusters)) > 1
        return cls(
            what=what,
            traces=len(rows),
            before=fmean(before for before, _, _ in rows),
            after=fmean(after for _, after, _ in rows),
            change=fmean(changes),
            interval=bootstrap_interval(changes, clusters, seed) if enough else None,
            rose=sum(c > 0 for c in changes),
            fell=sum(c < 0 for c in changes),
        )


@dataclass(kw_only=True)
class Comparison:
    """Outcomes of a whole replay, gathered as they come."""

    seed: int = 0
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    reused: Counter[str] = field(default_factory=Counter[str])

    def add(self, pairs: Iterable[Pair]) -> None:
        """Takes in what one step came to."""
        counted: set[int] = set()
        for pair in pairs:
            self.outcomes.append(Outcome.of(pair))
            if id(pair.reuse) not in counted:  # one for all the policies of a rollout
                counted.add(id(pair.reuse))
                counts = {name: getattr(pair.reuse, name) for name in _COUNTS}
                self.reused.update(counts)

    def rewards(self) -> list[Change]:
        """The reward's change: of all, of each kind of rollout, and of those that left their recording."""
        kinds = sorted({o.kind for o in self.outcomes})
        groups = {"all": self.outcomes}
        if len(kinds) > 1:
            groups |= {kind: [o for o in self.outcomes if o.kind == kind] for kind in kinds}
        groups["forked"] = [o for o in self.outcomes if o.fork]
        made = [Change.of(name, [*_rewards(of)], self.seed) for name, of in groups.items()]
        return [change for change in made if change]

    def parts(self) -> list[Change]:
        """Every reward part's change; one that is new or gone has none."""
        names = sorted({name for o in self.outcomes for name in (*o.parts_before, *o.parts_after)})
        return [change for name in names if (change := Change.of(name, [*self._part(name)], self.seed))]

    def forks(self) -> list[tuple[str, int]]:
        """Where traces left their recordings, and how many; the most frequent first."""
        return Counter(o.fork.at for o in self.outcomes if o.fork).most_common()

    def flipped(self) -> list[Outcome]:
        """Traces whose reward is another now; the greatest change first."""
        return sorted(
            (o for o in self.outcomes if o.change), key=lambda o: (-abs(o.change or 0), o.source_id)
        )

    def failed(self) -> list[Outcome]:
        """Traces that had a reward and whose replay has none."""
        return [o for o in self.outcomes if o.before is not None and o.after is None]

    def to_dict(self) -> dict[str, Any]:
        """For `replay.json`."""
        return {
            "traces": len(self.outcomes),
            "reward": [asdict(change) for change in self.rewards()],
            "parts": [asdict(change) for change in self.parts()],
            "forks": dict(self.forks()),
            "reuse": dict(self.reused),
            "failed": {o.source_id: o.error for o in self.failed()},
        }

    def _part(self, name: str) -> Iterable[tuple[float, float, str]]:
        for o in self.outcomes:
            if name in o.parts_before and name in o.parts_after:
                yield o.parts_before[name], o.parts_after[name], o.cluster


_COUNTS = ("turns", "live_turns", "calls", "live_calls")


def _rewards(outcomes: Iterable[Outcome]) -> Iterable[tuple[float, float, str]]:
    for o in outcomes:
        if o.before is not None and o.after is not None:
            yield o.before, o.after, o.cluster


def _cluster(trace: Trace) -> str:
    return str(trace.task.get("cluster") or trace.task_id)
