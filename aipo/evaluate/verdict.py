"""The verdict on an arm: its mean over tasks and seeds, the paired difference to another arm, and who wins.

samples of two arms  →  difference, pair by pair  →  better, worse or tie
samples of all arms  →  the best, those that tie with it, and the simplest of these
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from aipo.evaluate.bootstrap import bootstrap_interval


class Scored(NamedTuple):
    """What one task of one seed came to, and the cluster of tasks that share a fact with it."""

    cluster: str
    value: float


Sample = Mapping[int, Mapping[str, Scored]]
"""One arm under one measure: seed → task → what it came to."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over all tasks of all seeds.

    Args:
        interval: 95 %, resampling clusters and seeds; None with fewer than two of both.
        by_seed: the mean of each seed's tasks.
    """

    mean: float
    interval: tuple[float, float] | None
    by_seed: Mapping[int, float]

    @property
    def median(self) -> float:
        return median(self.by_seed.values())

    @property
    def least(self) -> float:
        return min(self.by_seed.values())

    @property
    def most(self) -> float:
        return max(self.by_seed.values())


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The outcome of a comparison.

    Args:
        name: the simplest of `tied`.
        best: the arm with the highest mean.
        tied: the best, and every arm whose paired difference to it may be 0; from the simplest on.
    """

    name: str
    best: str
    tied: tuple[str, ...]


def estimate(sample: Sample) -> Estimate | None:
    """The mean of a sample; None where there is no task in it."""
    sample = {seed: tasks for seed, tasks in sample.items() if tasks}
    if not sample:
        return None
    rows = [(seed, *scored) for seed, tasks in sample.items() for scored in tasks.values()]
    seeds, clusters, values = zip(*rows, strict=True)
    enough = len(set(clusters)) > 1 or len(sample) > 1
    return Estimate(
        mean=fmean(values),
        interval=bootstrap_interval(values, clusters, 0, runs=seeds) if enough else None,
        by_seed={seed: fmean(scored.value for scored in tasks.values()) for seed, tasks in sample.items()},
    )


def difference(sample: Sample, reference: Sample) -> Estimate | None:
    """What `sample` has more than `reference`, over the tasks of the seeds that both have; None where none is."""
    return estimate(
        {
            seed: {
                name: Scored(scored.cluster, scored.value - reference[seed][name].value)
                for name, scored in tasks.items()
                if name in reference[seed]
            }
            for seed, tasks in sample.items()
            if seed in reference
        }
    )


def judge(paired: Estimate | None) -> str | None:
    """`better` or `worse` where the interval of a paired difference leaves 0 out, else `tie`.

    None without an interval, or where it is of one seed and does not hold how seeds differ.
    """
    if paired is None or paired.interval is None or len(paired.by_seed) < 2:
        return None
    low, high = paired.interval
    return "better" if low > 0 else "worse" if high < 0 else "tie"


def winner(samples: Mapping[str, Sample]) -> Winner | None:
    """The simplest arm among those that tie with the best; None where nothing was measured.

    Args:
        samples: by arm, from the simplest to the most complicated.
    """
    means = {name: one.mean for name, sample in samples.items() if (one := estimate(sample)) is not None}
    if not means:
        return None
    best = max(means, key=lambda name: means[name])
    # What no interval tells from the best counts as its equal.
    tied = [
        name
        for name in means
        if name == best or judge(difference(samples[name], samples[best])) in ("tie", None)
    ]
    return Winner(name=tied[0], best=best, tied=tuple(tied))
