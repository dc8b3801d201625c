"""The specification of one rollout: task, mode, place in its group, and seed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from aipo.rollout.env import Task
from aipo.trace import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """One rollout to run. Those with the same `group_id` share a baseline; `index` is the place among them, from 0.

    `suppress`: the consult tags are masked while sampling. `grant`: the probability that a request is granted.
    `abilities`: of each policy (γ of item response theory), where they were measured.
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


def derive_seed(*parts: object) -> int:
    """A seed (63 bits) that depends on every part and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
