"""The specification of one rollout: task, mode, place in its group, and seed."""

import hashlib
from dataclasses import dataclass

from aipo.rollout.env import Task
from aipo.trace import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """One rollout to run. Those with the same `group_id` share a baseline; `index` is the place among them, from 0.

    `suppress`: the consult tags are masked while sampling. `grant`: the probability that a request is granted.
    """

    task: Task
    mode: Mode
    group_id: str
    index: int
    step: int
    seed: int
    suppress: bool = False
    grant: float = 1.0


def derive_seed(*parts: object) -> int:
    """A seed (63 bits) that depends on every part and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
