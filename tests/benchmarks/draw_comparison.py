"""Draws the charts of a comparison's page on one sheet, for a README to show.

    python tests/benchmarks/draw_comparison.py tests/benchmarks/matrix_final.yaml final.svg

Nothing is run: it shows the runs that are there.
"""

import argparse
from itertools import chain
from pathlib import Path

from sheet import write_sheet

from aipo.compare.matrix import read_matrix
from aipo.compare.page import charts
from aipo.compare.results import read_outcomes
from aipo.compare.standings import stand

COLUMNS, SIZE = 2, (560.0, 320.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the matrix")
    parser.add_argument("out", metavar="OUT", type=Path, help="the SVG file to write")
    given = parser.parse_args()
    matrix = read_matrix(given.file)
    outcomes = read_outcomes(matrix)
    drawn = charts(matrix, outcomes, stand(matrix, outcomes))
    write_sheet(given.out, [*chain(*drawn.values())], columns=COLUMNS, size=SIZE)


if __name__ == "__main__":
    main()
