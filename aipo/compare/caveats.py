"""What has to be known of a matrix before its numbers are believed."""

from collections.abc import Iterator
from dataclasses import dataclass

from aipo.compare.matrix import Matrix
from aipo.compare.results import Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One line on one arm.

    Args:
        kind: `mixed`: its seeds were not made alike. `apart`: it begins from another policy than the reference.
            `unscored`: some of its evaluated rollouts have no verdict.
    """

    kind: str
    arm: str
    text: str


def caveats(matrix: Matrix, outcomes: Outcomes) -> tuple[Caveat, ...]:
    """All there are, kind by kind."""
    return (*_mixed(outcomes), *_apart(matrix), *_unscored(outcomes))


def _mixed(outcomes: Outcomes) -> Iterator[Caveat]:
    for arm in outcomes.arms:
        made = [outcome.made_of for outcome in outcomes.of(arm)]
        names = sorted({name for one in made for name in one})
        if changed := [name for name in names if len({one.get(name) for one in made}) > 1]:
            yield Caveat(kind="mixed", arm=arm, text=f"its seeds differ in {', '.join(changed)}")


def _apart(matrix: Matrix) -> Iterator[Caveat]:
    seed = matrix.seeds[0]
    theirs = matrix.cell(matrix.reference, seed).stages[0].config.policy
    for arm in matrix.arms:
        own = matrix.cell(arm, seed).stages[0].config.policy
        if (own.model, own.options) != (theirs.model, theirs.options):
            text = f"it begins from another policy than {matrix.reference}: their difference is not the method's alone"
            yield Caveat(kind="apart", arm=arm, text=text)


def _unscored(outcomes: Outcomes) -> Iterator[Caveat]:
    for arm in outcomes.arms:
        tasks = [
            task
            for outcome in outcomes.of(arm)
            for settings in outcome.evaluation.values()
            for result in settings.values()
            for task in result["per_task"]
        ]
        if lacking := sum(task["failed"] for task in tasks):
            asked = lacking + sum(task["verdicts"] for task in tasks)
            text = f"{lacking} of {asked} evaluated rollouts have no verdict, and its numbers are those of the others"
            yield Caveat(kind="unscored", arm=arm, text=text)
