"""Statistics of results: pass@k, maj@k, bootstrap interval of a mean, paired difference of two arms, and the winner.

samples of one task  →  pass@k, maj@k
samples of two arms  →  difference, pair by pair  →  better, worse or tie
samples of all arms  →  the best, those that tie with it, and the simplest of these
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aipo.errors import ConfigError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k answers passes, when c of n did: 1 - C(n-c, k) / C(n, k).

    Unbiased; as a product, so that nothing overflows (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Raises:
        ConfigError: not 0 <= c <= n or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ConfigError(f"pass@k: got n={n}, c={c}, k={k}, allowed 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def majority_at_k(counts: Sequence[int], right: Sequence[float], n: int, k: int) -> float:
    """Chance that the most frequent of k answers is right, where k of n samples are drawn without replacement.

    Exact: the mean over all C(n, k) draws. Answers that are equally frequent win equally often. Samples without an answer
    do not vote; where none of the k has one, nothing is right.

    Args:
        counts: how many samples have each different answer, shape (A,).
        right: how many of these are right, shape (A,).
        n: all samples; those that `counts` leaves out have no answer.

    Raises:
        ConfigError: not 1 <= k <= n, or more answers than samples.
    """
    silent = n - sum(counts)
    if not 1 <= k <= n or silent < 0:
        raise ConfigError(
            f"maj@k: got n={n}, {sum(counts)} answers, k={k}, allowed answers <= n, 1 <= k <= n"
        )
    size = tuple(sorted(counts))
    return sum(
        _wins(count, size, silent, k) * share / count
        for count, share in zip(counts, right, strict=True)
        if share
    ) / comb(n, k)


@cache
def _wins(own: int, counts: tuple[int, ...], silent: int, k: int) -> float:
    """The number of draws of k that an answer wins which `own` samples have; a draw with e others as frequent counts 1/(1+e).

    Args:
        counts: of all answers, `own` among them.
    """
    others = list(counts)
    others.remove(own)
    wins = 0.0
    for times in range(1, min(own, k) + 1):
        # (drawn so far, others that are drawn as often) → number of ways
        ways = {(drawn, 0): comb(silent, drawn) for drawn in range(min(silent, k - times) + 1)}
        for count in others:
            more: dict[tuple[int, int], int] = {}
            for (drawn, equal), number in ways.items():
                for taken in range(min(times, count, k - times - drawn) + 1):
                    at = drawn + taken, equal + (taken == times)
                    more[at] = more.get(at, 0) + number * comb(count, taken)
            ways = more
        drawn_all = sum(number / (1 + equal) for (drawn, equal), number in ways.items() if drawn == k - times)
        wins += comb(own, times) * drawn_all
    return wins


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[str],
    seed: int,
    *,
    runs: Sequence[int] | None = None,
    resamples: int = 2000,
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values`, resampling whole clusters with replacement.

    With `runs`, both levels are resampled, each by itself: an item counts as often as its cluster was drawn times
    as often as its run was (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2)). That holds
    where runs share their clusters, as with one set of questions for all seeds. Where each run has clusters of its
    own that only bear the same names, as where the seed draws the facts, the interval is too wide rather than too
    narrow: with 8 runs up to 1.6 times, so that a difference is missed sooner than made up.

    Args:
        values: one per item, shape (N,).
        clusters: the cluster of each item, shape (N,).
        runs: the run of each item, shape (N,); by default all are of one.

    Raises:
        ConfigError: lengths differ, or fewer than two clusters and fewer than two runs, which say nothing about
            their spread.
    """
    _, cluster_N = np.unique(np.array(clusters, dtype=object), return_inverse=True)
    _, run_N = np.unique(np.zeros(len(values), int) if runs is None else runs, return_inverse=True)
    lengths = {len(values), len(cluster_N), len(run_N)}
    C, S = int(cluster_N.max(initial=-1)) + 1, int(run_N.max(initial=-1)) + 1
    if len(lengths) > 1 or max(C, S) < 2:
        raise ConfigError(
            f"bootstrap: got {len(values)} values in {C} clusters of {len(cluster_N)} items, and {S} runs of "
            f"{len(run_N)}, allowed one cluster and run for each value, and at least two clusters or two runs"
        )
    sums_S_C, sizes_S_C = np.zeros((S, C)), np.zeros((S, C))
    np.add.at(sums_S_C, (run_N, cluster_N), np.array(values, float))
    np.add.at(sizes_S_C, (run_N, cluster_N), 1.0)
    rng = np.random.default_rng(seed)
    drawn_R_C = rng.integers(C, size=(resamples, C))
    times_R_S = (rng.integers(S, size=(resamples, S))[:, :, None] == np.arange(S)).sum(axis=1)
    totals_R = np.take_along_axis(times_R_S @ sums_S_C, drawn_R_C, axis=1).sum(axis=1)
    counts_R = np.take_along_axis(times_R_S @ sizes_S_C, drawn_R_C, axis=1).sum(axis=1)
    # A resample whose runs have none of its clusters has no mean.
    means: npt.NDArray[np.float64] = totals_R[counts_R > 0] / counts_R[counts_R > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


class Scored(NamedTuple):
    """The score of one task with one seed, and the cluster of tasks that share a fact."""

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
    """The paired difference `sample` − `reference` over the tasks and seeds that both have; None without any."""
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


def judge(paired: Estimate | None, *, runs: int = 2) -> str | None:
    """`better` or `worse` where the interval of a paired difference leaves 0 out, else `tie`.

    None without an interval, or where it is of fewer than `runs` seeds: that of one does not hold how seeds differ.
    """
    if paired is None or paired.interval is None or len(paired.by_seed) < runs:
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
