"""Draws the charts of a comparison's page on one sheet, for a README to show.

    python tests/benchmarks/draw_comparison.py tests/benchmarks/matrix_final.yaml final.png
    python tests/benchmarks/draw_comparison.py tests/benchmarks/matrix_final.json tests/benchmarks/matrix_final.png

Nothing is run. From a matrix it shows the runs that are there; from a JSON file, the charts whose data the file has.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sheet import write_sheet

from aipo.compare.curves import cost_charts, learning_charts, pass_at_charts
from aipo.compare.matrix import read_matrix
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings

COLUMNS, SIZE = 3, (3.4, 2.3)


def charts_of(file: Path) -> Sequence[Mapping[str, Any]]:
    """The data of all charts."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    matrix = read_matrix(file)
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    charts = [*learning_charts(matrix, results), *cost_charts(matrix, results, {})]
    return [chart.data() for chart in (*charts, *pass_at_charts(matrix, standings, {}))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the matrix, or the data of its charts")
    parser.add_argument("out", metavar="OUT", type=Path, help="the PNG file to write")
    given = parser.parse_args()
    write_sheet(given.out, charts_of(given.file), columns=COLUMNS, size=SIZE)


if __name__ == "__main__":
    main()
