"""The differences between two runs: settings, code, and the rewards of their common tasks."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aipo.trace.index import TraceIndex

SHOWN = 100
_COLUMNS = "trace_id, group_id, task_id, step, kind, reward, parent_id"


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """One setting; None where a side does not have it."""

    key: str
    left: str | None
    right: str | None


def differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[SettingDifference]:
    """Keys with another value on the other side, in the order of the left side, then of the right one."""
    keys = dict.fromkeys([*left, *right])
    pairs = (SettingDifference(key, left.get(key), right.get(key)) for key in keys)
    return [d for d in pairs if d.left != d.right]


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `train.steps` → `200`."""
    settings: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            settings |= flat(inner, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = json.dumps(inner, default=str, ensure_ascii=False)
    return settings


def fingerprints(manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """The fingerprints of a run: graphs and prompts, versions of packages, the model."""
    manifest = manifest or {}
    files, packages = manifest.get("files"), manifest.get("packages")
    values = {name: str(manifest[name]) for name in ("model", "python") if name in manifest}
    for name, entry in files.items() if isinstance(files, Mapping) else ():
        values[str(name)] = str(entry.get("fingerprint") if isinstance(entry, Mapping) else entry)
    return values | flat(packages if isinstance(packages, Mapping) else {}, "package ")


class _Rollout(NamedTuple):
    trace_id: str
    group_id: str
    task_id: str
    step: int
    kind: str
    reward: float | None
    parent_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardChange:
    """Rollouts of both sides that belong together, and their mean rewards.

    Args:
        task_id, kind: what they have in common; `step` only if they have it in common.
        left, right: ids of the traces.
        left_group, right_group: the groups that they are from, None if they are from several.
        before, after: mean rewards.
    """

    task_id: str
    kind: str
    step: int | None
    left: tuple[str, ...]
    right: tuple[str, ...]
    left_group: str | None
    right_group: str | None
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardChanges:
    """The changes of rewards.

    Args:
        how: what was paired with what.
        pairs: how many.
        mean: of the changes; None without pairs.
        worse, better: the largest ones first, at most `SHOWN`; `fell` and `rose` count all.
    """

    how: str
    pairs: int = 0
    mean: float | None = None
    worse: Sequence[RewardChange] = ()
    better: Sequence[RewardChange] = ()
    fell: int = 0
    rose: int = 0


Key = Callable[[_Rollout], Hashable]
_PLACES: dict[str, Key] = {
    "the same task in the same group and step": lambda r: (r.step, r.group_id, r.task_id, r.kind),
    "the same task in the same step": lambda r: (r.step, r.task_id, r.kind),
    "the same task, whatever the step": lambda r: (r.task_id, r.kind),
}


def changes(left: TraceIndex, right: TraceIndex) -> RewardChanges:
    """Rewards of what both runs have: a replay and its source, else tasks as close to each other as can be."""
    before, after = _scored(left), _scored(right)
    replayed = list(_replayed(before, after))
    if replayed:
        return _summed("a rollout and its replay", replayed)
    for number, (how, key) in enumerate(_PLACES.items()):
        sides = [_grouped(side, key) for side in (before, after)]
        shared = sides[0].keys() & sides[1].keys()
        # Some chance matches must not hide that the runs share their tasks in another order.
        enough = min(map(len, sides)) / 2 if number + 1 < len(_PLACES) else 1
        if shared and len(shared) >= enough:
            pairs = [_change(sides[0][k], sides[1][k]) for k in sides[0] if k in shared]
            return _summed(how, pairs)
    return RewardChanges(how="nothing: they have no task in common")


def _scored(index: TraceIndex) -> list[_Rollout]:
    query = f'SELECT {_COLUMNS} FROM summaries WHERE reward IS NOT NULL ORDER BY step, group_id, "index"'
    return [_Rollout(*row) for row in index.sql(query)[1]]


def _replayed(left: Sequence[_Rollout], right: Sequence[_Rollout]) -> Iterator[RewardChange]:
    """Pairs of which one names the other as its parent, whichever side that is."""
    sources, replays = {r.trace_id: r for r in left}, {r.trace_id: r for r in right}
    for rollout in right:
        if rollout.parent_id in sources:
            yield _change([sources[rollout.parent_id]], [rollout])
    for rollout in left:
        if rollout.parent_id in replays and rollout.trace_id not in replays:
            yield _change([rollout], [replays[rollout.parent_id]])


def _grouped(rollouts: Sequence[_Rollout], key: Key) -> dict[Hashable, list[_Rollout]]:
    groups: dict[Hashable, list[_Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[key(rollout)].append(rollout)
    return groups


def _change(left: Sequence[_Rollout], right: Sequence[_Rollout]) -> RewardChange:
    steps = {r.step for r in (*left, *right)}
    groups = [{r.group_id for r in side} for side in (left, right)]
    left_group, right_group = (group.copy().pop() if len(group) == 1 else None for group in groups)
    before, after = (math.fsum(r.reward or 0.0 for r in side) / len(side) for side in (left, right))
    return RewardChange(
        task_id=left[0].task_id,
        kind=left[0].kind if left[0].kind == right[0].kind else f"{left[0].kind} → {right[0].kind}",
        step=steps.pop() if len(steps) == 1 else None,
        left=tuple(r.trace_id for r in left),
        right=tuple(r.trace_id for r in right),
        left_group=left_group,
        right_group=right_group,
        before=before,
        after=after,
    )


def _summed(how: str, pairs: Sequence[RewardChange]) -> RewardChanges:
    worse = sorted((p for p in pairs if p.change < 0), key=lambda p: p.change)
    better = sorted((p for p in pairs if p.change > 0), key=lambda p: -p.change)
    return RewardChanges(
        how=how,
        pairs=len(pairs),
        mean=math.fsum(p.change for p in pairs) / len(pairs),
        worse=worse[:SHOWN],
        better=better[:SHOWN],
        fell=len(worse),
        rose=len(better),
    )
