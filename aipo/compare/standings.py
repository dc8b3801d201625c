"""The standings of a matrix: every arm under every measure, against the reference, and who wins."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from aipo.compare.matrix import Matrix, Measure
from aipo.compare.results import ArmResult, Caveat, Cost, MatrixResults, caveats
from aipo.compare.sections import BEFORE
from aipo.evaluate.statistics import Estimate, Winner, difference, estimate, judge, winner


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One arm under one measure.

    Args:
        estimate: its pass@k; None where nothing was measured.
        difference: to the reference, over the seeds that both have; None for the reference itself.
        verdict: on that difference, see `aipo.evaluate.statistics.judge`.
    """

    estimate: Estimate | None
    difference: Estimate | None
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """All arms under all measures, and the winner.

    Args:
        arms: their names, the policy before first if it was measured.
        of: by measure and arm.
        costs: the median cost of each trained arm.
        winner: under the measure that decides; None unless every arm has all its seeds, and there are several.
        incomplete: arms that lack a seed.
        caveats: reasons to doubt the numbers.
    """

    arms: tuple[str, ...]
    of: Mapping[tuple[Measure, str], Standing]
    costs: Mapping[str, Cost]
    winner: Winner | None
    incomplete: tuple[str, ...]
    caveats: tuple[Caveat, ...]


def compute_standings(matrix: Matrix, results: MatrixResults) -> Standings:
    """Compares the finished runs."""
    arms = tuple(arm for arm in (BEFORE, *matrix.arms) if results.of(arm))
    samples = {(m, arm): results.sample(arm, m) for m in matrix.measures for arm in arms}
    of: dict[tuple[Measure, str], Standing] = {}
    for (measure, arm), sample in samples.items():
        reference = samples.get((measure, matrix.reference), {})
        paired = difference(sample, reference) if arm != matrix.reference else None
        of[measure, arm] = Standing(estimate=estimate(sample), difference=paired, verdict=judge(paired))
    incomplete = tuple(arm for arm in matrix.arms if len(results.of(arm)) < len(matrix.seeds))
    decided = not incomplete and len(matrix.seeds) > 1
    return Standings(
        arms=arms,
        of=of,
        costs={arm: _median_cost(results.of(arm)) for arm in arms if arm != BEFORE},
        winner=winner({arm: samples[matrix.measure, arm] for arm in matrix.arms}) if decided else None,
        incomplete=incomplete,
        caveats=caveats(matrix, results),
    )


def _median_cost(results: Sequence[ArmResult]) -> Cost:
    return Cost(*map(median, zip(*(result.cost for result in results), strict=True)))


def summary(matrix: Matrix, results: MatrixResults, standings: Standings) -> dict[str, Any]:
    """The content of summary.json."""
    won = standings.winner
    return {
        "matrix": matrix.name,
        "seeds": list(matrix.seeds),
        "reference": matrix.reference,
        "measure": asdict(matrix.measure),
        "winner": asdict(won) if won else None,
        "incomplete": list(standings.incomplete),
        "caveats": [asdict(caveat) for caveat in standings.caveats],
        "missing": [asdict(missing) for missing in results.missing],
        "arms": {
            arm: {
                "seeds": sorted(result.seed for result in results.of(arm)),
                "cost": standings.costs[arm]._asdict() if arm in standings.costs else None,
                "measures": [n for m in matrix.measures if (n := _numbers(m, standings.of[m, arm]))],
            }
            for arm in standings.arms
        },
    }


def _numbers(measure: Measure, standing: Standing) -> dict[str, Any] | None:
    """One arm under one measure; None where nothing was measured."""
    value, paired = standing.estimate, standing.difference
    if value is None:
        return None
    return {
        **asdict(measure),
        "mean": value.mean,
        "interval": value.interval,
        "median": value.median,
        "least": value.least,
        "most": value.most,
        "by_seed": {str(seed): mean for seed, mean in value.by_seed.items()},
        "difference": paired.mean if paired else None,
        "difference_interval": paired.interval if paired else None,
        "paired_seeds": sorted(paired.by_seed) if paired else [],
        "verdict": standing.verdict,
    }
