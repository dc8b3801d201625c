"""Charts on one sheet, drawn with matplotlib, as a picture for a README. Needs the extra `plots`."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aipo.render.colours import THEME


def write_sheet(
    path: Path, charts: Sequence[Mapping[str, Any]], *, columns: int, size: tuple[float, float]
) -> None:
    """Draws charts row by row.

    Args:
        path: a PNG file. Its text `Charts` has the titles.
        charts: data as `aipo.render.charts.Chart.data` gives it.
        size: width and height of each, in inches.
    """
    rows = -(-len(charts) // columns)
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold"})
    figure, axes = plt.subplots(rows, columns, figsize=(columns * size[0], rows * size[1]), squeeze=False)
    for place, chart in zip(axes.flat, charts, strict=False):
        _draw(place, chart)
    for place in axes.flat[len(charts) :]:
        place.set_axis_off()
    named = [place.get_legend_handles_labels() for place in axes.flat]
    by_name = {name: handle for handles, names in named for handle, name in zip(handles, names, strict=True)}
    figure.legend(by_name.values(), by_name.keys(), loc="lower center", ncols=8, frameon=False)
    figure.tight_layout(rect=(0, 0.3 / (rows * size[1]), 1, 1))
    pixels = BytesIO()
    figure.savefig(pixels, dpi=95, format="png")
    plt.close(figure)
    # A palette of few colours makes the file a third as large.
    picture = Image.open(pixels).convert("RGB")
    picture = picture.quantize(80, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    titles = PngInfo()
    titles.add_text("Charts", "\n".join(chart["title"] for chart in charts))
    picture.save(path, optimize=True, pnginfo=titles)
    print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


def _draw(place: Axes, chart: Mapping[str, Any]) -> None:
    place.set_title(chart["title"], loc="left", pad=15)
    place.text(0, 1.05, chart["y_label"], transform=place.transAxes, fontsize=7, color=THEME["soft"][0])
    place.set_xlabel(chart["x_label"])
    for line in chart["lines"]:
        colour = THEME[line["colour"]][0]
        if not line["joined"]:
            place.scatter(line["x"], line["y"], s=9, color=colour, label=line["name"])
            continue
        style = ":" if line["colour"] == "c0" else "--" if int(line["colour"][1:]) > 5 else "-"
        place.plot(line["x"], line["y"], style, color=colour, linewidth=1.2, label=line["name"])
        if "low" in line:
            place.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
    if chart["log"]:
        place.set_xscale("log", base=2)
        place.set_xticks(sorted({x for line in chart["lines"] for x in line["x"]}))
        place.xaxis.set_major_formatter("{x:g}")
    if chart["y_range"]:
        low, high = chart["y_range"]
        place.set_ylim(low, high + 0.02 * (high - low))
    place.grid(axis="y", color=THEME["line"][0], linewidth=0.6)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(length=0)
