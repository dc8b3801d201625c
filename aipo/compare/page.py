"""The page of a comparison: standings, curves and costs of a matrix in one HTML file that needs nothing but itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from aipo.compare.curves import cost_charts, learning_charts, pass_at_charts
from aipo.compare.figures import colour
from aipo.compare.matrix import BEFORE, Matrix, Measure
from aipo.compare.report import environment
from aipo.compare.results import Outcomes
from aipo.compare.standings import Standing, Standings
from aipo.compare.tables import RULE, amounts, label, no_winner, shown
from aipo.render import svg_charts as chart
from aipo.util.files import write_text
from aipo.util.text import visible

_LEAST_REACH = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One arm on the page, in its colour, under the measure that decides and under the others."""

    name: str
    css: str
    standing: Standing
    others: Sequence[Standing]
    amounts: tuple[str, str, str] | None
    won: bool


def write_page(path: Path, matrix: Matrix, outcomes: Outcomes, standings: Standings) -> None:
    """Writes the page.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    colours = _colours(matrix)
    others = [measure for measure in shown(matrix.measures) if measure != matrix.measure]
    lines = [_line(matrix, standings, arm, colours[arm], others) for arm in standings.arms]
    page = environment().get_template("comparison.html.j2")
    html = page.render(
        title=f"Comparison: {matrix.file.stem}",
        facts=_facts(matrix, outcomes),
        measure=label(matrix.measure),
        reference=matrix.reference,
        seeds=len(matrix.seeds),
        winner=standings.winner,
        won=next((line for line in lines if line.won), None),
        rule=RULE,
        lines=lines,
        reach=_reach(lines),
        groups=[(split, list(own)) for split, own in groupby(others, lambda measure: measure.split)],
        missing=len(outcomes.missing),
        gaps=[(arm, ", ".join(map(str, seeds)), visible(why)) for arm, seeds, why in outcomes.gaps],
        caveats=standings.caveats,
        no_winner=no_winner(matrix),
        charts={part: [*map(Markup, drawn)] for part, drawn in charts(matrix, outcomes, standings).items()},
        style=Markup(chart.STYLE),
        columns=chart.COLUMNS,
    )
    write_text(path, html)


def charts(matrix: Matrix, outcomes: Outcomes, standings: Standings) -> Mapping[str, Sequence[str]]:
    """The page's charts as SVG, by the part of the page: learning, costs, pass_at."""
    colours = _colours(matrix)
    return {
        "learning": [*learning_charts(matrix, outcomes, colours)],
        "costs": [*cost_charts(matrix, outcomes, colours)],
        "pass_at": [*pass_at_charts(matrix, standings, colours)],
    }


def _colours(matrix: Matrix) -> Mapping[str, str]:
    return {arm: colour(i) for i, arm in enumerate((BEFORE, *matrix.arms))}


def _line(matrix: Matrix, standings: Standings, arm: str, css: str, others: Sequence[Measure]) -> _Line:
    cost, won = standings.costs.get(arm), standings.winner
    return _Line(
        name=arm,
        css=css,
        standing=standings.of[matrix.measure, arm],
        others=[standings.of[measure, arm] for measure in others],
        amounts=amounts(cost) if cost else None,
        won=won is not None and won.name == arm,
    )


def _facts(matrix: Matrix, outcomes: Outcomes) -> Mapping[str, str]:
    done = sum(outcome.arm != BEFORE for outcome in outcomes.found)
    return {
        "seeds": f"{len(matrix.seeds)} ({', '.join(map(str, matrix.seeds))})",
        "runs": f"{done} of {len(matrix.cells)}",
        "reference": matrix.reference,
        "file": visible(str(matrix.file)),
    }


def _reach(lines: Iterable[_Line]) -> float:
    """The farthest end of a difference: one scale for all."""
    pairs = [line.standing.difference for line in lines]
    ends = [abs(end) for pair in pairs if pair for end in (*(pair.interval or ()), pair.mean)]
    return max([_LEAST_REACH, *ends])
