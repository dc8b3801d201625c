"""The order in which tasks are drawn: which tasks a rollout step is about.

The draw depends only on the seed and the step, so a resumed run draws what an uninterrupted one would have drawn.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from aipo.errors import ConfigError, TaskError, one_of
from aipo.rollout.env import Task
from aipo.rollout.spec import derive_seed


class Splits(Protocol):
    """The part of an environment that hands tasks out."""

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """Every task of `split`, in a fixed order."""
        ...


def draw_tasks(env: Splits, mixture: Mapping[str, float], count: int, *, step: int, seed: int) -> list[Task]:
    """The `count` tasks of rollout step `step`, split by split in the order of `mixture`.

    Every step takes the same number from a split (largest remainder; the earlier split wins a tie). The tasks of a
    split are used in a random order without repetition, then in another random order, and so on.

    Args:
        mixture: share of each split; the shares sum to 1.
        step: from 0. The draw does not depend on earlier calls.

    Raises:
        ConfigError: shares outside [0, 1] or not summing to 1, an unknown split, or a split that
            `count` is too small for.
        TaskError: a split is empty.
    """
    drawn: list[Task] = []
    for split, number in _counts(env, mixture, count).items():
        tasks = env.tasks(split)
        if not tasks:
            raise TaskError(one_of(f"tasks of split {split!r}", 0, ">= 1", "the mixture"))
        places = range(step * number, (step + 1) * number)
        epochs = {place // len(tasks) for place in places}
        orders = {epoch: _order(len(tasks), seed, split, epoch) for epoch in epochs}
        drawn += [tasks[orders[place // len(tasks)][place % len(tasks)]] for place in places]
    return drawn


def _counts(env: Splits, mixture: Mapping[str, float], count: int) -> dict[str, int]:
    for split, share in mixture.items():
        if split not in env.splits():
            raise ConfigError(one_of("split", split, sorted(env.splits()), "the mixture"))
        if not 0 <= share <= 1:
            raise ConfigError(one_of(f"share of split {split!r}", share, "0 to 1", "the mixture"))
    if not math.isclose(sum(mixture.values()), 1.0, abs_tol=1e-6):
        raise ConfigError(one_of("sum of shares", sum(mixture.values()), "1", f"the mixture {dict(mixture)}"))
    quotas = {split: share * count for split, share in mixture.items() if share > 0}
    counts = {split: math.floor(quota) for split, quota in quotas.items()}
    remainders = sorted(quotas, key=lambda split: counts[split] - quotas[split])
    for split in remainders[: count - sum(counts.values())]:
        counts[split] += 1
    for split, number in counts.items():
        if number == 0:
            raise ConfigError(
                one_of(f"tasks of split {split!r} in a step", 0, ">= 1", f"{count} tasks of {dict(mixture)}")
            )
    return counts


def _order(length: int, seed: int, split: str, epoch: int) -> list[int]:
    return np.random.default_rng(derive_seed(seed, "draw", split, epoch)).permutation(length).tolist()
