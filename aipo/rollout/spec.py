"""The specification of one rollout: task, mode, place in its group, seed, and where it is forked from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aipo.rollout.env import Task
from aipo.trace import Mode, Visit
from aipo.util.section import Count, Section


class Fork(NamedTuple):
    """The place where a rollout leaves another one of its group: behind the first `token` tokens of `parent_id`."""

    parent_id: str
    token: int


class ForkStart(NamedTuple):
    """The state that a fork goes on from.

    Args:
        state: the graph's checkpoint, pickled (`aipo.rollout.branching`).
        visits: the nodes that led to it; times are seconds since the parent ended, all below 0.
    """

    state: bytes
    visits: tuple[Visit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """One rollout to run. Those with the same `group_id` share a baseline; `index` is the place among them, from 0.

    Args:
        suppress: the consult tags are masked while sampling.
        grant: the probability that a request is granted.
        abilities: of each policy (γ of item response theory), where they were measured.
        forkable: its states behind replies are kept, so that rollouts can be forked from it.
        fork: where it leaves another rollout; None = it begins with the task.
        start: the state there; the engine sets it.
        session: its requests go to the policy server that has those of this seed; None = its own.
    """

    task: Task
    mode: Mode
    group_id: str
    index: int
    step: int
    seed: int
    suppress: bool = False
    grant: float = 1.0
    abilities: Mapping[str, float] = field(default_factory=dict[str, float])
    forkable: bool = False
    fork: Fork | None = None
    start: ForkStart | None = field(default=None, repr=False)
    session: int | None = None


class AbilitySettings(Section):
    """The measurement of abilities: γ of each policy, by which graphs tell how probably it solves a task."""

    split: str | None = None
    """Split of the environment on which each policy is tried, alone; null = no ability is measured."""
    tasks: Count = 64
    """Number of its tasks, evenly spaced; all of a smaller split."""
    steps: Count | None = None
    """Rollout steps between two measurements; null = once, at the start, as in the paper (ILR, 2509.26306)."""


def derive_seed(*parts: object) -> int:
    """A seed (63 bits) that depends on every part and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
