"""Two evaluations in the viewer: the part of their page that pairs them task by task. Left is A, right is B."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aipo.errors import ConfigError
from aipo.run import RunFolder
from aipo.viewer.data.run import RunView

if TYPE_CHECKING:
    from aipo.compare.paired import PairedEvaluations

_LEAST_REACH = 0.05


@dataclass(frozen=True, slots=True)
class PairedScores:
    """The two, and the largest end of an interval of a difference: one scale for all."""

    result: "PairedEvaluations"
    reach: float


def paired_scores(left: RunView, right: RunView) -> PairedScores | None:
    """Two evaluations that have finished, paired; None where one is none, or they have no task in common.

    Raises:
        RunError: a file is no evaluation.
    """
    # What pairs them imports what runs rollouts, which takes a second: most readers of pages never need it.
    from aipo.compare.paired import StoredEvaluation, pair_evaluations

    sides: list[StoredEvaluation] = []
    for view in (left, right):
        run = RunFolder(view.folder)
        if view.evaluation is None or not run.evaluation(view.evaluation).is_file():
            return None
        sides.append(StoredEvaluation(label=view.name, results=run.read_evaluation(view.evaluation)))
    try:
        result = pair_evaluations(*sides)
    except ConfigError:
        return None
    ends = [abs(end) for one in result.measures for end in one.difference.interval or (one.difference.mean,)]
    return PairedScores(result, max([_LEAST_REACH, *ends]))
