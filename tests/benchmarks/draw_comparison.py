"""Draws the charts of a comparison's page on one sheet, for the README beside this file.

    python tests/benchmarks/draw_comparison.py tests/benchmarks/matrix_final.yaml

Writes matrix_final.svg beside the matrix, from the runs that are there.
"""

import sys
from pathlib import Path

from sheet import write_sheet

from aipo.bands import cost_charts, learning_charts, pass_at_charts
from aipo.figures import colour
from aipo.matrix import BEFORE, read_matrix
from aipo.outcomes import read_outcomes
from aipo.standings import stand

COLUMNS, SIZE = 2, (560.0, 320.0)


def main(file: Path) -> None:
    matrix = read_matrix(file)
    outcomes = read_outcomes(matrix)
    colours = {arm: colour(i) for i, arm in enumerate((BEFORE, *matrix.arms))}
    charts = [
        *learning_charts(matrix, outcomes, colours),
        *cost_charts(matrix, outcomes, colours),
        *pass_at_charts(matrix, stand(matrix, outcomes), colours),
    ]
    write_sheet(file.with_suffix(".svg"), charts, columns=COLUMNS, size=SIZE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
