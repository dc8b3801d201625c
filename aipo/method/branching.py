"""The plan `branching`: rollouts that are forked from others where the policy is less certain than it was.

ARPO (2507.19849): N of a group's M rollouts begin with the task. Behind each reply the entropy of the next few tokens is
compared with that of the rollout's first ones; where it is higher, the rollout is forked. AEPO (2510.14545) lets entropy
set N, too, and makes a fork less likely behind other forks of the same path.

A group grows in waves. Forks are chosen in the order of depth and index, so they depend on the traces alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aipo.errors import ConfigError, PolicyError
from aipo.rollout.spec import Fork, RolloutSpec, derive_seed
from aipo.trace import Role, Segment, Trace, turns_behind_replies
from aipo.util.section import Count, Section, Share


class BranchingSettings(Section):
    """Where rollouts are forked with the plan `branching`.

    Raises:
        ValueError: a value out of its range, or settings that contradict each other.
    """

    rollouts: Count | None = None
    """N: rollouts of a group that begin with its task; default half of them, rounded up. The rest are forks; what forks leave
    over begins with the task, too."""
    budget: Literal["fixed", "entropy"] = "fixed"
    """What sets N: `rollouts`, or (AEPO) the entropy of a first rollout, N = M·σ(budget_scale·(H_first − H_replies))."""
    budget_scale: float | None = None
    """entropy: nats⁻¹; default 1."""
    ways: Annotated[int, Field(ge=2)] = 2
    """Z: ways in which rollouts go on from a fork, that of the parent included."""
    tokens: Count = 20
    """k: tokens at the beginning of a turn whose entropies are looked at."""
    change: Literal["mean", "sum", "vocabulary"] = "mean"
    """ΔH: mean or sum of the k differences, over ln |V| (ARPO's code sums), or their sum over |V| (ARPO's paper)."""
    alpha: float = 0.5
    """α of P = α + β·ΔH."""
    beta: float = 0.2
    """β of P = α + β·ΔH. With 0 and `drawn`, forks are at random, with probability α."""
    decision: Literal["drawn", "threshold"] = "drawn"
    """Fork with probability P, cut to 0 and 1 (ARPO's code), or where P > tau (its paper)."""
    tau: float | None = None
    """threshold: τ; default 0.5."""
    penalty: Share = 0.0
    """AEPO: P is multiplied by 1 − penalty·l behind l forks in a row on the same path, and is never below 0."""

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> Self:
        for name, on, other in (
            ("tau", self.decision == "threshold", f"decision={self.decision}"),
            ("budget_scale", self.budget == "entropy", f"budget={self.budget}"),
            ("rollouts", self.budget == "fixed", "budget=entropy, which sets it"),
        ):
            if getattr(self, name) is not None and not on:
                raise ValueError(f"{name}: got {getattr(self, name)} with {other}, allowed null")
        return self

    def first_wave(self, group_size: int) -> int:
        """The rollouts that a group begins with."""
        if self.budget == "entropy":
            return 1
        return (group_size + 1) // 2 if self.rollouts is None else self.rollouts


Fresh = Callable[[int], list[RolloutSpec]]
"""A number of rollouts → as many specifications of ones that begin with the task, to come next in the group."""


def branch(
    settings: BranchingSettings,
    group_size: int,
    vocabulary: int,
    specs: Sequence[RolloutSpec],
    traces: Sequence[Trace],
    fresh: Fresh,
) -> list[RolloutSpec]:
    """The rollouts that a group gets next: forks as long as there are any within `group_size`, then fresh ones.

    Args:
        vocabulary: |V|.
        specs, traces: of the group so far, all of which have ended.

    Raises:
        PolicyError: the policy gives no entropies.
        ConfigError: rollouts of several policies.
    """
    room = group_size - len(specs)
    if room <= 0:
        return []
    if len(traces) != len(specs):
        raise ConfigError(
            f"method.plan: got branching and {len(traces)} traces of {len(specs)} rollouts, allowed a graph with one policy"
        )
    if settings.budget == "entropy" and len(specs) == 1:
        missing = _global_rollouts(settings, group_size, traces[0]) - 1
        if missing > 0:
            return fresh(missing)
    tree = _Tree(settings, vocabulary, traces)
    spec_of = {trace.trace_id: spec for trace, spec in zip(traces, specs, strict=True)}
    taken = {spec.fork for spec in specs}
    forks = (
        point for point in sorted(tree.forks(), key=lambda point: point.place) if point.fork not in taken
    )
    following = [
        _forked(spec_of[point.trace.trace_id], point.fork, way)
        for point in forks
        for way in range(1, settings.ways)
    ][:room]
    return [replace(spec, index=len(specs) + n) for n, spec in enumerate(following)] or fresh(room)


class _Point(NamedTuple):
    """A turn behind a reply. `entropies`: of its first tokens."""

    trace: Trace
    depth: int
    fork: Fork
    turn: Segment

    @property
    def place(self) -> tuple[int, int, int]:
        """By depth, then by rollout."""
        return self.depth, self.trace.index, self.fork.token


class _Tree:
    """The rollouts of a group, and where they are forked."""

    def __init__(self, settings: BranchingSettings, vocabulary: int, traces: Sequence[Trace]) -> None:
        self._settings, self._vocabulary = settings, vocabulary
        self._traces = {trace.trace_id: trace for trace in traces}

    def forks(self) -> Iterator[_Point]:
        """Where rollouts are forked."""
        for trace in self._traces.values():
            path = {} if trace.failed else self._path(trace)
            yield from (point for point in _points(trace) if path.get(point.fork.token))

    def _path(self, trace: Trace) -> dict[int, bool]:
        """Whether the rollout is forked at each of its turns behind a reply, by the tokens before it."""
        path: dict[int, bool] = {}
        if trace.parent_id is not None:
            above = self._path(self._traces[trace.parent_id])
            path |= {token: forked for token, forked in above.items() if token <= (trace.fork_token or 0)}
        for point in _points(trace):
            path[point.fork.token] = self._decides(point, path)
        return path

    def _decides(self, point: _Point, path: dict[int, bool]) -> bool:
        settings, before = self._settings, list(path.values())[::-1]
        in_a_row = before.index(False) if False in before else len(before)
        change = entropy_change(settings, self._vocabulary, _first_turn(point.trace), point.turn)
        chance = (settings.alpha + settings.beta * change) * max(1 - settings.penalty * in_a_row, 0.0)
        if settings.decision == "threshold":
            return chance > (0.5 if settings.tau is None else settings.tau)
        return derive_seed(point.trace.seed, "fork", point.fork.token) < chance * 2**63


def entropy_change(settings: BranchingSettings, vocabulary: int, first: Segment, turn: Segment) -> float:
    """ΔH between the beginning of a rollout's first turn and that of a later one; both are cut to the shorter one's tokens.

    Raises:
        PolicyError: the policy gives no entropies.
    """
    was, now = (_entropies(piece, settings.tokens) for piece in (first, turn))
    size = min(len(was), len(now))
    total = float(np.sum(now[:size], dtype=np.float64) - np.sum(was[:size], dtype=np.float64))
    match settings.change:
        case "vocabulary":
            return total / vocabulary
        case "sum":
            return total / math.log(vocabulary)
        case _:
            return total / size / math.log(vocabulary)


def _global_rollouts(settings: BranchingSettings, group_size: int, trace: Trace) -> int:
    """N by AEPO's pre-monitoring; all, where the rollout that is looked at has no reply that it could be forked behind."""
    turns = [] if trace.failed else [point.turn for point in _points(trace)]
    if not turns:
        return group_size
    means = [float(_entropies(turn, settings.tokens).mean()) for turn in (_first_turn(trace), *turns)]
    scale = 1.0 if settings.budget_scale is None else settings.budget_scale
    gap = scale * (means[0] - math.fsum(means[1:]) / len(turns))
    return max(1, round(group_size / (1 + math.exp(-max(min(gap, 700.0), -700.0)))))


def _points(trace: Trace) -> Iterator[_Point]:
    """A rollout's own turns behind a reply, without the one at which it was forked."""
    starts = np.cumsum([0, *map(len, trace.segments)])
    for place in turns_behind_replies(trace.segments):
        if starts[place] > (trace.fork_token or 0):
            turn = trace.segments[place]
            depth = sum(piece.role is Role.POLICY for piece in trace.segments[:place])
            yield _Point(trace, depth, Fork(trace.trace_id, int(starts[place])), turn)


def _first_turn(trace: Trace) -> Segment:
    return next(piece for piece in trace.segments if piece.role is Role.POLICY)


def _entropies(turn: Segment, tokens: int) -> npt.NDArray[np.float32]:
    if turn.entropies is None:
        raise PolicyError(
            "entropies of the policy's tokens: got none, allowed those of every token with method.plan=branching "
            "(policy.engine=local, or policy.vllm.top_logprobs)"
        )
    return turn.entropies[:tokens]


def _forked(parent: RolloutSpec, fork: Fork, way: int) -> RolloutSpec:
    session = parent.seed if parent.session is None else parent.session
    seed = derive_seed(parent.seed, "fork", fork.token, way)
    return replace(parent, seed=seed, fork=fork, start=None, session=session)
