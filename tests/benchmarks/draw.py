"""Draws the pictures of READMEs with matplotlib. Needs the extra `plots`.

    python tests/benchmarks/draw.py weights.png
    python tests/benchmarks/draw.py comparison.png tests/benchmarks/matrix_final.yaml
    python tests/benchmarks/draw.py tests/benchmarks/matrix_final.png tests/benchmarks/matrix_final.json

Without a second file: what agents' tokens are worth. For every coefficient and every rule for A < 0 it shows the weight w of
A·∇log π, and w·(1 − π), by which the token's own logit moves; against π. Weights are those that the loss uses.

With a matrix: the charts of a comparison, of the runs that are there. With a JSON file: the charts whose data it has.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from aipo.compare.curves import cost_charts, learning_charts, pass_at_charts
from aipo.compare.matrix import read_matrix
from aipo.compare.results import read_results
from aipo.compare.standings import compute_standings
from aipo.method.agent_weights import COEFFICIENTS, NEGATIVES, Probabilities, agent_weights
from aipo.method.settings import MethodSettings
from aipo.render.charts import Chart, Line
from aipo.render.colours import THEME

COLUMNS, WIDTH, HEIGHT = 3, 3.4, {"comparison": 2.3, "weights": 1.9}
"""Charts in a row, and inches of each."""
MU = 0.5
LOG_PI = torch.linspace(-4, 0, 161, dtype=torch.float64)
NOTES = {
    "luffy": "γ = 0.1",
    "rlplus": "π_old = π, as in a rollout step's first optimizer step",
    "floor": "c = 0.3",
    "power": "α = 0.5, c = 0.1",
    "constant": "c = 1",
    "echo": "0.05, of ∇log π whatever A is",
    "ratio": f"μ = {MU:g}, at most 2",
}


def comparison(file: Path) -> Sequence[Mapping[str, Any]]:
    """The data of all charts of a comparison's page."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    matrix = read_matrix(file)
    results = read_results(matrix)
    standings = compute_standings(matrix, results)
    charts = [*learning_charts(matrix, results), *cost_charts(matrix, results, {})]
    return [chart.data() for chart in (*charts, *pass_at_charts(matrix, standings, {}))]


def weights() -> Sequence[Mapping[str, Any]]:
    """The data of a chart for each coefficient and rule; the rule `same` has the pictures of the coefficients."""
    charts = [
        weight_chart(
            f"{name}, A > 0", NOTES.get(name, ""), partial(weigh, MethodSettings(coefficient=name), 1.0)
        )
        for name in COEFFICIENTS
    ]
    for name in [name for name in NEGATIVES if name != "same"]:
        method = MethodSettings(coefficient="constant", negative=name)
        note = "c = 0.1" if name == "floor" else ""
        charts.append(weight_chart(f"A < 0, rule {name}", note, partial(weigh, method, -1.0)))
    return [chart.data() for chart in charts]


def weigh(method: MethodSettings, advantage: float, pi: Tensor) -> Tensor:
    mu = torch.full_like(pi, MU)
    return agent_weights(Probabilities(pi, mu, pi), torch.tensor([[advantage]]), method).weights


def weight_chart(title: str, note: str, weight: Callable[[Tensor], Tensor]) -> Chart:
    pi = 10**LOG_PI
    w = weight(pi[None])[0]
    x = LOG_PI.tolist()
    lines = [
        Line(name="w", colour="c1", x=x, y=w.tolist()),
        Line(name="w·(1 − π)", colour="c2", x=x, y=(w * (1 - pi)).tolist()),
    ]
    top = 2.0 if w.max() > 1 else 1.0
    return Chart(title=title, lines=lines, x_label="log₁₀ π", y_label=note, y_range=(0.0, top))


def write_sheet(path: Path, charts: Sequence[Mapping[str, Any]], height: float) -> None:
    """Draws charts row by row.

    Args:
        path: a PNG file. Its text `Charts` has the titles.
        charts: data as `aipo.render.charts.Chart.data` gives it.
        height: of each, in inches.
    """
    rows = -(-len(charts) // COLUMNS)
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold"})
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * WIDTH, rows * height), squeeze=False)
    for place, chart in zip(axes.flat, charts, strict=False):
        draw(place, chart)
    for place in axes.flat[len(charts) :]:
        place.set_axis_off()
    legends = [place.get_legend_handles_labels() for place in axes.flat]
    by_name = {
        name: handle for handles, names in legends for handle, name in zip(handles, names, strict=True)
    }
    figure.legend(by_name.values(), by_name.keys(), loc="lower center", ncols=8, frameon=False)
    figure.tight_layout(rect=(0, 0.3 / (rows * height), 1, 1))
    pixels = BytesIO()
    figure.savefig(pixels, dpi=95, format="png")
    # A palette of few colours makes the file a third as large.
    picture = Image.open(pixels).convert("RGB")
    picture = picture.quantize(80, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    titles = PngInfo()
    titles.add_text("Charts", "\n".join(chart["title"] for chart in charts))
    picture.save(path, optimize=True, pnginfo=titles)
    print(f"{path}, {path.stat().st_size / 1000:.0f} kB")


def draw(place: Axes, chart: Mapping[str, Any]) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the PNG file to write")
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="a matrix, or the data of its charts"
    )
    given = parser.parse_args()
    charts, kind = (comparison(given.file), "comparison") if given.file else (weights(), "weights")
    write_sheet(given.out, charts, HEIGHT[kind])


if __name__ == "__main__":
    main()
