"""Several charts on one sheet: an SVG file that brings its own colours, light and dark, for a README to show."""

from collections.abc import Sequence
from pathlib import Path

from aipo.compare.report import environment

from aipo.render.svg_charts import LOOK

GAP = 12


def write_sheet(path: Path, charts: Sequence[str], *, columns: int, size: tuple[float, float]) -> None:
    """Places `charts`, inline SVGs, row by row.

    Args:
        size: width and height of each.
    """
    wide, high = size
    placed = [
        svg.replace(
            "<svg ",
            f'<svg x="{i % columns * wide:g}" y="{i // columns * (high + GAP):g}" width="{wide:g}" height="{high:g}" ',
            1,
        )
        for i, svg in enumerate(charts)
    ]
    rows = -(-len(charts) // columns)
    whole = f"{columns * wide + 2 * GAP:g} {rows * (high + GAP) + GAP:g}"
    colours = environment().get_template("colours.css.j2").render()
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-{GAP} -{GAP} {whole}"><style>{colours}{LOOK}</style>'
        f'<rect x="-{GAP}" y="-{GAP}" width="100%" height="100%" style="fill:var(--page)"/>{"".join(placed)}</svg>\n',
        encoding="utf-8",
    )
    print(path)
