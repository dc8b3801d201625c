"""The page of two runs: the settings and files that differ, and the rewards of their common tasks, or of two evaluations
their scores paired by task. Left is A, right is B."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from aipo.compare.sections import SETTINGS
from aipo.trace.index import TraceIndex
from aipo.viewer.data.run import RunView
from aipo.viewer.data.run_summary import origins, section
from aipo.viewer.links import Links
from aipo.viewer.pages.compare.evaluations import paired_scores
from aipo.viewer.pages.compare.settings import differences, flat, settings_diff
from aipo.viewer.responses import render

SHOWN = 100
_COLUMNS = "trace_id, group_id, task_id, step, kind, reward, parent_id"


def compare_runs(left: RunView, right: RunView, links: Links) -> str:
    """The page of two runs as HTML.

    Raises:
        TraceError: a file of traces cannot be read.
        RunError: a configuration or manifest cannot be read.
    """
    runs = (left, right)
    versions = all(section(run.manifest(), "packages") for run in runs)
    manifests = [fingerprints(run.manifest(), versions=versions) for run in runs]
    return render(
        "compare_runs.html.j2",
        links,
        runs=runs,
        sizes=[(run.index.count(), run.index.steps()) for run in runs],
        settings=settings_diff(left, right),
        versions=versions,
        unrecorded=[run.name for run in runs if not run.config()],
        made_of=differences(*manifests) if all(manifests) else None,
        paired=(paired := paired_scores(left, right)),
        place_names=SETTINGS,
        changes=changes(left.index, right.index) if paired is None else None,
        shown=SHOWN,
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.problems()],
        swapped=links.compare(right.name, left.name) if links.live else None,
    )


def fingerprints(manifest: Mapping[str, Any], *, versions: bool = True) -> dict[str, str]:
    """The fingerprints of a run: graphs and prompts, the model, and versions of Python and packages."""
    names = ("model", "python") if versions else ("model",)
    values = {name: str(manifest[name]) for name in names if name in manifest}
    files = {what: fingerprint for what, _, fingerprint in origins(manifest)}
    packages = flat(section(manifest, "packages"), "package ") if versions else {}
    return {**values, **files, **packages}


class ScoredRollout(NamedTuple):
    trace_id: str
    group_id: str
    task_id: str
    step: int
    kind: str
    reward: float
    parent_id: str | None


@dataclass(frozen=True)
class RewardChange:
    """Rollouts of both sides that belong together."""

    left: Sequence[ScoredRollout]
    right: Sequence[ScoredRollout]

    @property
    def before(self) -> float:
        return fmean(rollout.reward for rollout in self.left)

    @property
    def after(self) -> float:
        return fmean(rollout.reward for rollout in self.right)

    @cached_property
    def change(self) -> float:
        return self.after - self.before

    @property
    def kind(self) -> str:
        return " → ".join(dict.fromkeys([self.left[0].kind, self.right[0].kind]))

    @property
    def step(self) -> int | None:
        """The step, if all have it in common."""
        steps = {rollout.step for rollout in (*self.left, *self.right)}
        return steps.pop() if len(steps) == 1 else None


@dataclass(frozen=True, slots=True)
class RewardChanges:
    """All changes of rewards; `how` says what was paired with what."""

    how: str
    pairs: Sequence[RewardChange] = ()

    @property
    def mean(self) -> float:
        return fmean(pair.change for pair in self.pairs)

    @property
    def worse(self) -> list[RewardChange]:
        """The largest changes first."""
        return sorted((pair for pair in self.pairs if pair.change < 0), key=lambda pair: pair.change)

    @property
    def better(self) -> list[RewardChange]:
        """The largest changes first."""
        return sorted((pair for pair in self.pairs if pair.change > 0), key=lambda pair: -pair.change)


_Key = Callable[[ScoredRollout], Hashable]
_PLACES: Mapping[str, tuple[_Key, float]] = {
    # Some chance matches must not hide that the runs share their tasks in another order.
    "the same task in the same step": (lambda r: (r.step, r.task_id, r.kind), 0.5),
    "the same task, whatever the step": (lambda r: (r.task_id, r.kind), 0.0),
}
"""What makes two rollouts a pair, and the least share of the smaller side that has to have a partner."""


def changes(left: TraceIndex, right: TraceIndex) -> RewardChanges:
    """Rewards of what both runs have: a replay and its source, else tasks as close to each other as can be."""
    before, after = _scored(left), _scored(right)
    if replayed := _replayed(before, after):
        return RewardChanges("a rollout and its replay", replayed)
    for how, (key, enough) in _PLACES.items():
        first, second = _grouped(before, key), _grouped(after, key)
        pairs = [RewardChange(first[place], second[place]) for place in first if place in second]
        if pairs and len(pairs) >= enough * min(len(first), len(second)):
            return RewardChanges(how, pairs)
    return RewardChanges("nothing: they have no task in common")


def _scored(index: TraceIndex) -> list[ScoredRollout]:
    query = f'SELECT {_COLUMNS} FROM summaries WHERE reward IS NOT NULL ORDER BY step, group_id, "index"'
    return [ScoredRollout(*row) for row in index.sql(query)[1]]


def _replayed(left: Sequence[ScoredRollout], right: Sequence[ScoredRollout]) -> list[RewardChange]:
    """Pairs of which one names the other as its parent, whichever side that is."""
    sources, replays = {r.trace_id: r for r in left}, {r.trace_id: r for r in right}
    pairs = [RewardChange([sources[r.parent_id]], [r]) for r in right if r.parent_id in sources]
    return pairs or [RewardChange([r], [replays[r.parent_id]]) for r in left if r.parent_id in replays]


def _grouped(rollouts: Sequence[ScoredRollout], key: _Key) -> dict[Hashable, list[ScoredRollout]]:
    groups: dict[Hashable, list[ScoredRollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[key(rollout)].append(rollout)
    return groups
